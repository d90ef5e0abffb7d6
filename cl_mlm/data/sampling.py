"""Some rows of a data set's splits, the same ones every time: `rows: {train: 1000, test: 500}` of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cl_mlm.arrow import pick
from cl_mlm.config.components import make_objective
from cl_mlm.data.label_columns import label_codes
from cl_mlm.data.split_owners import Part, parts_of, with_splits
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.randomness import numpy_generator
from cl_mlm.stream import SPLITS, Stream

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


def limit(stream: Stream, rows: int) -> Stream:
    """Returns the stream with at most `rows` rows a split, spread over its labels; its notes say so.

    Rows with many labels are taken by their rarest one.

    A training split keeps at least one row of each of its labels, even where that is more than `rows`. The same
    stream gives the same rows, in their old order: the first of each label, then the second of each, and so on.

    Raises:
        ConfigError: `rows` is less than 1.
    """
    if rows < 1:
        raise ConfigError(f"limit: must be at least 1 row a split, got {rows}")
    splits = [{name: _limit_split(part, name, rows) for name in part.splits} for part in parts_of(stream)]
    return replace(with_splits(stream, splits), notes=(*stream.notes, f"limited to {rows} rows a split"))


def _limit_split(part: Part, split: str, rows: int) -> Dataset:
    """Returns at most `rows` rows, taken from the labels in turn; of a training split at least one of each."""
    import numpy as np

    dataset = part.splits[split]
    if len(dataset) <= rows:
        return dataset
    codes = label_codes(dataset, make_objective(part.owner.objective, part.owner.options))
    by_label = np.argsort(codes, kind="stable")
    sizes = np.unique(codes, return_counts=True)[1]
    turn = np.empty(len(codes), dtype=np.int64)
    turn[by_label] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    num_kept = max(rows, len(sizes)) if split == "train" else rows
    kept = np.lexsort((codes, turn))[:num_kept]
    return dataset.select(np.sort(kept))
