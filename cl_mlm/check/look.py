"""Estimates what a run would take without starting it: `early_look` gathers everything that `cl-mlm check` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cl_mlm.check.disk import disk_lines
from cl_mlm.check.limits import limit_lines
from cl_mlm.check.memory import MemoryNeed, memory_need
from cl_mlm.check.places import place_lines
from cl_mlm.check.timing import Timed, timed_steps
from cl_mlm.check.token_lengths import SplitAddress, StreamLengths, digest, joined, stream_lengths
from cl_mlm.check.workload import StageWork, workload
from cl_mlm.data.tasks import tasks_of
from cl_mlm.errors import ConfigError, UnreachableModelError
from cl_mlm.experiment.run_choice import choose_folder
from cl_mlm.models.size import size_of_tasks
from cl_mlm.models.tokenizers import load_tokenizer
from cl_mlm.stream import SPLITS
from cl_mlm.training.ceiling import Ceilings, as_dict, ceilings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.models.size import ModelSize
    from cl_mlm.task import Tasks

TRAIN, *SCORED_SPLITS = SPLITS


class RowPart(NamedTuple):
    """A part of the rows of one task, such as `text` or `target`; see `token_lengths.py`."""

    task: str
    name: str


@dataclass(frozen=True)
class RunEstimate:
    """What is known of a run before it starts.

    Attributes:
        prepared: the run.
        tasks: of its stream.
        work: of every stage.
        lengths: tokens of every split, by part; None: there is no tokenizer.
        ceilings: what a perfect model would reach on every column; None: there is no tokenizer.
        memory: None: the model's config cannot be had.
        disk: lines that say what the run writes.
        limits: lines that say what the system's limits leave to the run.
        unreachable: why there is no tokenizer or config; empty: there are both.
        timed: what a few steps took; None: no timing was asked for.
    """

    prepared: Prepared
    tasks: Tasks
    work: list[StageWork]
    lengths: StreamLengths | None
    ceilings: Ceilings | None
    memory: MemoryNeed | None
    disk: list[str]
    limits: list[str]
    unreachable: str
    timed: Timed | None

    @property
    def steps(self) -> int | None:
        """Optimiser steps of all stages, at most; None: not known."""
        steps = [stage.steps for stage in self.work]
        return None if None in steps else sum(number or 0 for number in steps)

    @property
    def scored_rows(self) -> int | None:
        """Rows scored before the first stage and after every one; None: not known."""
        scored = [stage.scored for stage in self.work]
        return None if None in scored else sum(number or 0 for number in scored)

    @property
    def folder(self) -> Path:
        """Where the run would be written, or was: see `choose_folder`."""
        return choose_folder(self.prepared).folder

    @property
    def row_parts(self) -> list[RowPart]:
        """The parts of rows whose tokens are counted, task by task."""
        parts: dict[RowPart, None] = {}  # a set that keeps the order
        for (i, split), by_part in (self.lengths or {}).items():
            task = self.tasks.keys_of(split)[i]
            parts |= {RowPart(task, name): None for name in by_part}
        order = list(self.tasks.by_key)
        return sorted(parts, key=lambda part: order.index(part.task))

    @property
    def other_columns(self) -> list[int]:
        """The indices of the columns that belong to no stage: probes, and all columns if the stream gives its own."""
        stream = self.prepared.stream
        return list(range(0 if stream.given_columns else len(stream), len(stream.columns)))

    def splits_of_stage(self, stage_index: int) -> list[SplitAddress]:
        """Returns the training split of a stage and, if it has a column of its own, the splits of that column."""
        scored = [] if self.prepared.stream.given_columns else SCORED_SPLITS
        return [(stage_index, split) for split in (TRAIN, *scored)]

    def token_figures(self, part: RowPart, splits: Sequence[SplitAddress] | None = None) -> dict[str, Any] | None:
        """Returns the figures (`digest`) of one part of rows; None: the splits have no such rows.

        Args:
            part: of the rows.
            splits: whose rows count; None: all.
        """
        assert self.lengths is not None
        lengths = [
            self.lengths[i, split][part.name]
            for i, split in (self.lengths if splits is None else splits)
            if self.tasks.keys_of(split)[i] == part.task and part.name in self.lengths.get((i, split), {})
        ]
        return digest(joined(lengths)) if lengths else None

    @property
    def seconds(self) -> tuple[float | None, float] | None:
        """Estimated seconds of training (None: steps are not known) and of evaluation; None: nothing was timed."""
        if self.timed is None:
            return None
        stream, evaluated = self.prepared.stream, self.prepared.config.evaluation.splits
        train_rows = sum(len(stage.train) for stage in stream.stages)
        scored_rows = sum(len(column.split(split)) for column in stream.columns for split in evaluated)
        return (
            self.timed.training_seconds(self.work, train_rows),
            self.timed.evaluation_seconds(self.work, scored_rows),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        config, stream = self.prepared.config, self.prepared.stream
        seconds = self.seconds
        return {
            "experiment": config.experiment,
            "strategies": config.label,
            "model": config.model.name,
            "finetuning": config.finetuning.mode,
            "stream": {
                "name": stream.name,
                "scenario": stream.scenario,
                "fingerprint": stream.fingerprint,
                "labels": len(stream.labels),
                "notes": [*stream.notes, *self.prepared.notes],
                "overlap": self.prepared.overlap,
            },
            "stages": [self._stage(i) for i in range(len(stream))],
            "columns": [self._column(j) for j in self.other_columns],
            "tokens": {self._key(part): self.token_figures(part) for part in self.row_parts},
            "ceilings": None if self.ceilings is None else as_dict(self.ceilings),
            "steps": self.steps,
            "steps_at_most": config.training.may_stop_early,
            "scored_rows": self.scored_rows,
            "memory": None if self.memory is None else {**asdict(self.memory), "total": self.memory.total},
            "disk": self.disk,
            "limits": self.limits,
            "not_known": self.unreachable or None,
            "timed": None if self.timed is None else asdict(self.timed),
            "seconds": None if seconds is None else {"training": seconds[0], "evaluation": seconds[1]},
            "run_folder": str(self.folder),
        }

    def _stage(self, stage_index: int) -> dict[str, Any]:
        stage, splits = self.prepared.stream.stages[stage_index], self.splits_of_stage(stage_index)
        task = self.tasks.keys[stage_index]
        training = self.prepared.config.training
        own = training.stages.get(training.stage_key(stage_index, self.prepared.stage_names))
        return {
            "name": stage.name,
            "objective": task,
            "labels": len(stage.labels),
            "rows": {split: len(stage.split(split)) for _, split in splits},
            "training": asdict(self.work[stage_index]),
            **({"settings": own} if own else {}),
            "measured": self.prepared.stream.is_measured(stage_index),
            "tokens": self._tokens(splits, task),
        }

    def _column(self, column_index: int) -> dict[str, Any]:
        column = self.prepared.stream.columns[column_index]
        splits = [(column_index, split) for split in SCORED_SPLITS]
        task = self.tasks.column_keys[column_index]
        return {
            "name": column.name,
            "objective": task,
            "labels": len(column.labels),
            "rows": {split: len(column.split(split)) for _, split in splits},
            "learned_after": column.home,
            "tokens": self._tokens(splits, task),
        }

    def _tokens(self, splits: Sequence[SplitAddress], task: str) -> dict[str, Any]:
        """Returns the figures of every part of the rows of these splits: of all together, and of each split."""
        figures = {}
        for part in self.row_parts:
            together = self.token_figures(part, splits) if part.task == task else None
            if together is not None:
                by_split = {split: self.token_figures(part, [(i, split)]) for i, split in splits}
                with_rows = {split: of_split for split, of_split in by_split.items() if of_split is not None}
                figures[part.name] = {**together, "splits": with_rows}
        return figures

    def _key(self, part: RowPart) -> str:
        """Returns the name of a part in JSON; with several tasks the task comes before it."""
        return f"{part.task}/{part.name}" if len(self.tasks) > 1 else part.name


def early_look(prepared: Prepared, measured_steps: int = 0) -> RunEstimate:
    """Returns what is known of a run without starting it; an unreachable model leaves some of it unknown.

    Args:
        prepared: the run; it is not changed, and nothing is left in its folder.
        measured_steps: the number of steps to time on the real model; 0: no model is loaded.

    Raises:
        ConfigError: steps are to be timed, and the model cannot be had; or a limit of the system is too low.
        TrainingError: steps are to be timed, and memory does not suffice.
        StorageError: a place that the run writes to cannot be written, or has no room for a checkpoint.
    """
    config, tasks = prepared.config, tasks_of(prepared.stream)
    size: ModelSize | None = None
    lengths: StreamLengths | None = None
    reachable: Ceilings | None = None
    unreachable = ""
    try:
        size = size_of_tasks(config, tasks)
        tokenizer = load_tokenizer(config.model)
        lengths = stream_lengths(prepared.stream, tasks, tokenizer, config.training.row_length)
        reachable = ceilings(prepared.stream, tasks, tokenizer, config)
    except UnreachableModelError as error:
        unreachable = str(error)
    if measured_steps and unreachable:
        raise ConfigError(f"--measure: needs the model itself; {unreachable}")
    memory = None if size is None else memory_need(prepared, size)
    return RunEstimate(
        prepared=prepared,
        tasks=tasks,
        work=workload(prepared, lengths),
        lengths=lengths,
        ceilings=reachable,
        memory=memory,
        disk=[
            *([f"disk: not known: {unreachable}"] if size is None else disk_lines(prepared, size)),
            *place_lines(prepared, size),
        ],
        limits=limit_lines(prepared, size, memory),
        unreachable=unreachable,
        timed=timed_steps(prepared, measured_steps) if measured_steps else None,
    )
