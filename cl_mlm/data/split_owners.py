"""Lists every split of a stream with its owner: a stage, a column or a probe.

Work that is the same for every split (the hygiene gate, `limit`, `as_text`) goes through this list, and so needs to
know of no scenario.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from cl_mlm.arrow import pick
from cl_mlm.config.components import make_objective
from cl_mlm.stream import SPLITS, Column, Stage, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

    from cl_mlm.objective import Objective

    Mark = npt.NDArray[np.bool_]
    Marks = dict[str, Mark]  # by split, of one owner


@dataclass(frozen=True)
class SplitOwner:
    """A stage, column or probe, and the splits that it owns.

    Attributes:
        kind: what messages call it.
        item: the stage, column or probe itself.
        splits: by name: all three of a stage; `train` alone where the stream's columns are given; `validation` and
            `test` of a column or probe.
    """

    kind: Literal["stage", "column", "probe"]
    item: Stage | Column
    splits: Mapping[str, Dataset]

    @property
    def where(self) -> str:
        """How messages about its rows begin, such as `stage 'labels-01'`."""
        return f"{self.kind} {self.item.name!r}"

    def make_objective(self) -> Objective:
        """Returns the objective of its rows, built anew.

        Raises:
            ConfigError: there is no such objective, or it has no such option.
        """
        return make_objective(self.item.objective, self.item.options)


def split_owners(stream: Stream) -> list[SplitOwner]:
    """Returns the owners of all splits, each split once: stages in order, then given columns, then probes."""
    of_stage = SPLITS[:1] if stream.given_columns else SPLITS
    of_column = SPLITS[1:]
    return [
        *(SplitOwner("stage", stage, {name: stage.split(name) for name in of_stage}) for stage in stream.stages),
        *(SplitOwner("column", c, {name: c.split(name) for name in of_column}) for c in stream.given_columns),
        *(SplitOwner("probe", c, {name: c.split(name) for name in of_column}) for c in stream.probes),
    ]


def with_splits(stream: Stream, splits: Sequence[Mapping[str, Dataset]], **changes: Any) -> Stream:
    """Returns the stream with other rows.

    Args:
        stream: gets the rows.
        splits: of every one of `split_owners(stream)`, in that order.
        changes: further fields, set alike on every stage, column and probe.
    """
    changed: dict[str, list[Any]] = {"stage": [], "column": [], "probe": []}
    for owner, rows in zip(split_owners(stream), splits, strict=True):
        changed[owner.kind].append(replace(owner.item, **rows, **changes))
    return replace(
        stream,
        stages=tuple(changed["stage"]),
        given_columns=tuple(changed["column"]),
        probes=tuple(changed["probe"]),
    )


def without_marked(stream: Stream, marks: Sequence[Marks]) -> Stream:
    """Returns the stream without the marked rows; a split that loses none is the same object.

    Args:
        stream: loses the rows.
        marks: of every one of `split_owners(stream)`: by split, where rows go, which rows, (rows,).
    """

    def left(rows: Dataset, marked: Mark | None) -> Dataset:
        return pick(rows, (~marked).nonzero()[0]) if marked is not None and marked.any() else rows

    splits = [
        {split: left(rows, mark.get(split)) for split, rows in owner.splits.items()}
        for owner, mark in zip(split_owners(stream), marks, strict=True)
    ]
    return with_splits(stream, splits)
