"""Stage and Stream: what the platform trains on and scores.

A training row is named by `(stage_index, position)`, a validation or test row by `(column_index, position)`, packed in
one int64, so that buffers, caches and journals carry eight bytes a row and never copies of text.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from cl_mlm.arrow import split_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

Scenario = Literal["class_incremental", "task_incremental", "domain_incremental"]
SCENARIOS: tuple[str, ...] = get_args(Scenario)
SPLITS = ("train", "validation", "test")
Restaged = Literal["instance_incremental", "online", "blurry"]  # see cl_mlm/data/scenarios.py
Withheld = Literal["old_rows", "old_model", "future"]  # a subset of strategy.Need
WITHHELD: tuple[Withheld, ...] = get_args(Withheld)
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
class Column:
    """What is scored: rows to choose settings on and rows to report, apart from what any stage trains on.

    Attributes:
        name: unique among the stream's columns; shown in tables and metric names.
        labels: its own; where the stage is known at prediction (`Stream.masks`) its rows may be given these only.
        home: the stage after which it counts as learned; None: a probe, which no stage trains for.
        stages: the stages that train for it, whose early stopping reads its validation rows; empty: its home alone.
        objective, options, task, domain, language: see `Stage`.
    """

    name: str
    validation: Dataset
    test: Dataset
    labels: tuple[str, ...]
    home: int | None
    stages: tuple[int, ...] = ()
    task: str = "classification"
    objective: str = "classification"
    options: Mapping[str, Any] = field(default_factory=dict)
    domain: str | None = None
    language: str | None = None

    @property
    def trained_in(self) -> tuple[int, ...]:
        """The stages that train for it; none for a probe."""
        return self.stages or (() if self.home is None else (self.home,))

    def split(self, name: str) -> Dataset:
        """Returns the split called `validation` or `test`."""
        if name not in SPLITS[1:]:
            raise ValueError(f"split: must be one of {SPLITS[1:]}, got {name!r}")
        dataset: Dataset = getattr(self, name)
        return dataset


def column_of(stage: Stage, home: int | None, stages: tuple[int, ...] = ()) -> Column:
    """Returns the column of a stage's own validation and test rows."""
    return Column(
        name=stage.name,
        validation=stage.validation,
        test=stage.test,
        labels=stage.labels,
        home=home,
        stages=stages,
        task=stage.task,
        objective=stage.objective,
        options=stage.options,
        domain=stage.domain,
        language=stage.language,
    )


@dataclass(frozen=True)
class Stream:
    """Ordered stages, and the columns that are scored.

    Ids of training rows begin with the index of their stage, ids of validation and test rows with that of their column.

    Attributes:
        scenario: `class_incremental`: a row is predicted among all labels seen so far;
            `task_incremental`: among its own stage's labels (the stage is known);
            `domain_incremental`: every stage has the same labels; the others are made by `cl_mlm.data.scenarios` of a
            stream of one of these, `base_scenario`.
        partial: a row may stand in several stages, each time with other targets: what a stage does not ask for is told
            as absent, so that training on all stages at once would contradict itself.
        notes: what was done to the data on the way, in words (`validation carved from train: 10 % of rows`);
            printed with every report.
        given_columns: what is scored, where that is not one column for each stage; then the stages' own validation and
            test splits are empty.
        probes: further columns whose `home` is None: scored with every row of the matrix and before training.
        measured: stages after which the columns are scored, the last among them; empty: all.
        withheld: what no strategy may use, by the names of `Strategy.needs`: `old_rows` (rows of earlier stages),
            `old_model` (the model before the stage), `future` (rows or labels of later stages). A strategy that needs
            one of them is refused. No row depends on it, so that it is not part of the fingerprint.
    """

    name: str
    stages: tuple[Stage, ...]
    scenario: Scenario | Restaged = "class_incremental"
    notes: tuple[str, ...] = ()
    partial: bool = False
    given_columns: tuple[Column, ...] = ()
    probes: tuple[Column, ...] = ()
    measured: tuple[int, ...] = ()
    base_scenario: Scenario | None = None
    withheld: tuple[Withheld, ...] = ()

    def __len__(self) -> int:
        return len(self.stages)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the order in which the stages bring them."""
        return tuple(dict.fromkeys(label for stage in self.stages for label in stage.labels))

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What is scored: the given columns, else one for each stage, and behind them the probes."""
        own = self.given_columns or tuple(column_of(stage, i) for i, stage in enumerate(self.stages))
        return (*own, *self.probes)

    @property
    def home(self) -> list[int | None]:
        """The stage after which each column counts as learned; None for probes."""
        return [column.home for column in self.columns]

    @property
    def masks(self) -> bool:
        """Says whether a row's stage is known at prediction: it is given labels of its own stage or column only."""
        return "task_incremental" in (self.scenario, self.base_scenario)

    def owners(self, split: str) -> Sequence[Stage | Column]:
        """Returns what owns the rows of a split, in the order of their ids: stages for `train`, else columns."""
        return self.stages if split == "train" else self.columns

    def is_measured(self, stage_index: int) -> bool:
        """Says whether the columns are scored after this stage."""
        return not self.measured or stage_index in self._measured

    @cached_property
    def _measured(self) -> frozenset[int]:
        return frozenset(self.measured)  # asked for every stage, of which there may be many

    def first(self, num_stages: int | None) -> Stream:
        """Returns the first stages (None: all) and the columns learned by then; probes stay."""
        if num_stages is None:
            return self
        columns = tuple(c for c in self.given_columns if c.home is not None and c.home < num_stages)
        kept = tuple(
            replace(c, stages=tuple(i for i in c.stages if i < num_stages)) if c.stages else c for c in columns
        )
        measured = (*(i for i in self.measured if i < num_stages - 1), num_stages - 1) if self.measured else ()
        return replace(self, stages=self.stages[:num_stages], given_columns=kept, measured=measured)

    @cached_property
    def fingerprint(self) -> str:
        """A hash over names, labels and the rows of every split, in order (64 hexadecimal digits)."""
        return fingerprint(self)

    @cached_property
    def split_digests(self) -> dict[str, str]:
        """A hash of the rows of each split (8 hexadecimal digits), by the owner's name and the split, for messages."""
        return {
            f"{owner.name} ({split})": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:8]
            for owner, split, rows in self._hashed
        }

    @cached_property
    def _hashed(self) -> list[tuple[Stage | Column, str, dict[str, object]]]:
        """Owner, split and `split_digest` of all rows that the fingerprint covers, each hashed once."""
        splits: list[tuple[Stage | Column, str]] = [(stage, split) for stage in self.stages for split in SPLITS]
        splits += [(column, split) for column in (*self.given_columns, *self.probes) for split in SPLITS[1:]]
        return [(owner, split, split_digest(owner.split(split))) for owner, split in splits]


def pack_row_ids(stage_index: int, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Returns `(stage_index << 40) | position` for every position; shape of `positions`."""
    import numpy as np

    packed: npt.NDArray[np.int64] = np.asarray(positions, dtype=np.int64) | (np.int64(stage_index) << POSITION_BITS)
    return packed


def unpack_row_ids(ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns `(stage_index, position)` of every id; each of the shape of `ids`."""
    import numpy as np

    return ids >> POSITION_BITS, ids & ((np.int64(1) << POSITION_BITS) - 1)


def fingerprint(stream: Stream) -> str:
    """Returns a SHA-256 over scenario, names, labels and every row of every split, in order (64 digits).

    Columns that are no stage's own, and probes, are part of it where there are any.

    The same rows give the same fingerprint wherever their files lie, however they are cut in chunks, and whether or
    not they are read through an indices mapping. The order of columns does not count.
    """
    hashed = {(id(owner), split): rows for owner, split, rows in stream._hashed}
    stages = [
        {"name": stage.name, "labels": stage.labels, "splits": [hashed[id(stage), split] for split in SPLITS]}
        for stage in stream.stages
    ]
    content: dict[str, object] = {"scenario": stream.scenario, "stages": stages}
    for name, columns in (("columns", stream.given_columns), ("probes", stream.probes)):
        if columns:
            content[name] = [
                {
                    "name": column.name,
                    "labels": column.labels,
                    "home": column.home,
                    "stages": column.trained_in,
                    "splits": [hashed[id(column), split] for split in SPLITS[1:]],
                }
                for column in columns
            ]
    if stream.base_scenario is not None:
        content["base_scenario"] = stream.base_scenario
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
