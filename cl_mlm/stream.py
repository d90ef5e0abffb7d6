"""Stage and Stream: what the platform trains on and scores.

A row is named by `(stage_index, position)` packed in one int64, so that buffers, caches and journals carry
eight bytes a row and never copies of text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

Scenario = Literal["class_incremental", "task_incremental", "domain_incremental"]
SCENARIOS: tuple[str, ...] = get_args(Scenario)
SPLITS = ("train", "validation", "test")
POSITION_BITS = 40


@dataclass(frozen=True)
class Stage:
    """One step of a stream: rows to train on, rows to choose settings on, rows to report.

    Classification rows have the columns `text`, optionally `text_pair`, and `label` (a string of `labels`);
    further columns are kept and ignored.

    Attributes:
        name: unique within the stream; shown in tables and metric names.
        labels: this stage's own labels, ordered; which of them are new is derived by the stream.
        task: what the stage asks; two stages may share one.
        objective: a module of `cl_mlm.objectives`.
        options: arguments of the objective.
    """

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset
    labels: tuple[str, ...]
    task: str = "classification"
    objective: str = "classification"
    options: Mapping[str, Any] = field(default_factory=dict)
    domain: str | None = None
    language: str | None = None
    source: str | None = None
    licence: str | None = None

    def split(self, name: str) -> Dataset:
        """Returns the split called `train`, `validation` or `test`."""
        if name not in SPLITS:
            raise ValueError(f"split: must be one of {SPLITS}, got {name!r}")
        dataset: Dataset = getattr(self, name)
        return dataset


@dataclass(frozen=True)
class Stream:
    """Ordered stages.

    Attributes:
        scenario: `class_incremental`: a row is predicted among all labels seen so far;
            `task_incremental`: among its own stage's labels (the stage is known);
            `domain_incremental`: every stage has the same labels.
        partial: a row may stand in several stages, each time with other targets: what a stage does not ask for is told
            as absent, so that training on all stages at once would contradict itself.
        notes: what was done to the data on the way, in words (`validation carved from train: 10 % of rows`);
            printed with every report.
    """

    name: str
    stages: tuple[Stage, ...]
    scenario: Scenario = "class_incremental"
    notes: tuple[str, ...] = ()
    partial: bool = False

    def __len__(self) -> int:
        return len(self.stages)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the order in which the stages bring them."""
        return tuple(dict.fromkeys(label for stage in self.stages for label in stage.labels))

    @cached_property
    def fingerprint(self) -> str:
        """A hash over names, labels and the rows of every split, in order (64 hexadecimal digits)."""
        from cl_mlm.fingerprint import fingerprint

        return fingerprint(self)


def pack_row_ids(stage_index: int, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Returns `(stage_index << 40) | position` for every position; shape of `positions`."""
    import numpy as np

    packed: npt.NDArray[np.int64] = np.asarray(positions, dtype=np.int64) | (np.int64(stage_index) << POSITION_BITS)
    return packed


def unpack_row_ids(ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns `(stage_index, position)` of every id; each of the shape of `ids`."""
    import numpy as np

    return ids >> POSITION_BITS, ids & ((np.int64(1) << POSITION_BITS) - 1)
