"""Some rows of a data set's splits, the same ones every time: `rows: {train: 1000, test: 500}` of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cl_mlm.errors import ConfigError, nearest
from cl_mlm.fingerprint import pick
from cl_mlm.randomness import numpy_generator
from cl_mlm.stream import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset

PICK_SEED = 0  # the picked rows are part of the data: the same for every order of stages and every run seed


def rows_faults(rows: Mapping[str, int] | None) -> list[str]:
    """Returns one line for every split that there is not, and for every number below 1."""
    given = rows or {}
    unknown = [
        f"stream.rows: must name train, validation or test, got {name!r}{nearest(name, SPLITS)}"
        for name in given
        if name not in SPLITS
    ]
    return unknown + [f"stream.rows.{name}: must be at least 1, got {n}" for name, n in given.items() if n < 1]


def pick_rows(
    splits: Mapping[str, Dataset], rows: Mapping[str, int] | None, *, fewer: bool = False
) -> dict[str, Dataset]:
    """Returns the splits with as many rows as `rows` says of each that it names, in their order.

    Args:
        splits: by name.
        rows: by name of a split; None: all.
        fewer: takes a split that has fewer rows whole.

    Raises:
        ConfigError: a split has fewer rows, or is not there.
    """
    import numpy as np

    found, problems = dict(splits), []
    for split, number in (rows or {}).items():
        size = len(splits[split]) if split in splits else 0
        if number <= size:
            order = numpy_generator(PICK_SEED, "rows", split).permutation(size)
            found[split] = pick(splits[split], np.sort(order[:number]))
        elif not size:
            problems.append(f"stream.rows.{split}: there is no {split} split to pick rows from")
        elif not fewer:
            problems.append(f"stream.rows.{split}: must be at most {size}, got {number}")
    if problems:
        raise ConfigError(problems)
    return found


def picked_notes(rows: Mapping[str, int] | None) -> list[str]:
    """Returns in words what `pick_rows` does."""
    return [f"{split}: {number} rows picked" for split, number in (rows or {}).items()]
