"""Takes some rows of every split, the same ones in every run: `rows` of a stream section, and `limit` of a config."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cl_mlm.arrow import pick
from cl_mlm.data.label_columns import label_codes, places
from cl_mlm.data.split_owners import SplitOwner, split_owners, with_splits
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.randomness import numpy_generator
from cl_mlm.stream import SPLITS, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset

PICK_SEED = 0  # the picked rows are part of the data: the same for every order of stages and every run seed


def rows_faults(rows: Mapping[str, int] | None) -> list[str]:
    """Returns a fault for every unknown name of a split, and for every number below 1."""
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
    """Returns the splits with the asked number of rows each, drawn at random and kept in their order.

    Args:
        splits: by name.
        rows: the number of rows of each split to cut; None: none is cut.
        fewer: whether a split may have fewer rows than asked; it is then used whole.

    Raises:
        ConfigError: there is no such split, or it has fewer rows.
    """
    import numpy as np

    picked, problems = dict(splits), []
    for split, number in (rows or {}).items():
        size = len(splits[split]) if split in splits else 0
        if number <= size:
            order = numpy_generator(PICK_SEED, "rows", split).permutation(size)
            picked[split] = pick(splits[split], np.sort(order[:number]))
        elif not size:
            problems.append(f"stream.rows.{split}: there is no {split} split to pick rows from")
        elif not fewer:
            problems.append(f"stream.rows.{split}: must be at most {size}, got {number}")
    if problems:
        raise ConfigError(problems)
    return picked


def picked_notes(rows: Mapping[str, int] | None) -> list[str]:
    """Returns the notes of a stream about `pick_rows`."""
    return [f"{split}: {number} rows picked" for split, number in (rows or {}).items()]


def limit(stream: Stream, rows: int) -> Stream:
    """Returns the stream with at most `rows` rows a split, spread over its labels; its notes say so.

    Taken are the first row of each label, then the second of each, and so on, and kept in their old order; a row with
    many labels counts for its rarest one. A training split keeps at least one row of each of its labels, even where
    that is more than `rows`.

    Raises:
        ConfigError: `rows` is less than 1.
    """
    if rows < 1:
        raise ConfigError(f"limit: must be at least 1 row a split, got {rows}")
    splits = [{name: _limit_split(owner, name, rows) for name in owner.splits} for owner in split_owners(stream)]
    return replace(with_splits(stream, splits), notes=(*stream.notes, f"limited to {rows} rows a split"))


def _limit_split(owner: SplitOwner, split: str, rows: int) -> Dataset:
    """Returns at most `rows` rows, taken from the labels in turn; of a training split at least one of each label."""
    import numpy as np

    dataset = owner.splits[split]
    if len(dataset) <= rows:
        return dataset
    codes = label_codes(dataset, owner.make_objective())
    num_taken = max(rows, len(np.unique(codes))) if split == "train" else rows
    taken = np.lexsort((codes, places(codes)))[:num_taken]
    return dataset.select(np.sort(taken))
