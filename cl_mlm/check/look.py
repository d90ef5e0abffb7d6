"""An early look at a run: what its rows are to the model, how many steps it takes, what memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cl_mlm.check.disk import disk_lines
from cl_mlm.check.memory import MemoryNeed, memory_need
from cl_mlm.check.token_lengths import StreamLengths, digest, joined, stream_lengths
from cl_mlm.check.workload import StageWork, workload
from cl_mlm.data.tasks import tasks_of
from cl_mlm.errors import ConfigError, UnreachableModelError
from cl_mlm.models.size import ModelSize, size_of_tasks
from cl_mlm.models.tokenizers import load_tokenizer
from cl_mlm.objective import Lengths
from cl_mlm.storage.run_lookup import run_folder
from cl_mlm.stream import SPLITS
from cl_mlm.task import Tasks

if TYPE_CHECKING:
    from cl_mlm.check.timing import Timed
    from cl_mlm.experiment.preparation import Prepared


@dataclass(frozen=True)
class EarlyLook:
    """What is known of a run before it starts.

    Attributes:
        prepared: the run.
        tasks: of its stream.
        work: of every stage.
        lengths: tokens of every split by (index of stage or column, split) and part of a row; None where there is no
            tokenizer.
        memory: None where the model's config cannot be had.
        unreachable: why there is no tokenizer or config; empty: there is.
        timed: what a few steps took; None: none was asked for.
    """

    prepared: Prepared
    tasks: Tasks
    work: list[StageWork]
    lengths: StreamLengths | None
    memory: MemoryNeed | None
    disk: list[str]
    unreachable: str
    timed: Timed | None

    @property
    def steps(self) -> int | None:
        """Optimiser steps of all stages, at most; None: not known before."""
        steps = [stage.steps for stage in self.work]
        return None if None in steps else sum(number or 0 for number in steps)

    @property
    def scored(self) -> int | None:
        """Rows scored after all stages and before the first; None: not known before."""
        scored = [stage.scored for stage in self.work]
        return None if None in scored else sum(number or 0 for number in scored)

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Parts of a row whose tokens are counted, each with the key of the task that has it."""
        found: dict[tuple[str, str], None] = {}
        for (i, split), own in (self.lengths or {}).items():
            found |= {(self.tasks.keys_of(split)[i], part): None for part in own}
        order = list(self.tasks.by_key)
        return sorted(found, key=lambda pair: order.index(pair[0]))

    def name_of(self, part: tuple[str, str]) -> str:
        """Returns a part's name, and where there are several tasks that of its task before it."""
        return "/".join(part) if len(self.tasks) > 1 else part[1]

    def places(self, stage_index: int) -> list[tuple[int, str]]:
        """Returns where the rows of a stage are: its training rows and, where it has a column of its own, that's."""
        own = [] if self.prepared.stream.given_columns else SPLITS[1:]
        return [(stage_index, split) for split in (SPLITS[0], *own)]

    @property
    def columns(self) -> list[int]:
        """The columns that are no stage's own: probes, and all where columns are given."""
        stream = self.prepared.stream
        return list(range(0 if stream.given_columns else len(stream), len(stream.columns)))

    def tokens(self, part: tuple[str, str], places: Sequence[tuple[int, str]] | None = None) -> dict[str, Any] | None:
        """Returns the figures of one part of rows in these splits, None: in all; None where they have no such part."""
        assert self.lengths is not None
        task, name = part
        found: list[Lengths] = [
            self.lengths[i, split][name]
            for i, split in (self.lengths if places is None else places)
            if self.tasks.keys_of(split)[i] == task and name in self.lengths.get((i, split), {})
        ]
        return digest(joined(found)) if found else None

    @property
    def seconds(self) -> tuple[float | None, float] | None:
        """Estimated seconds of training (None: steps are not known) and of evaluation; None: nothing was timed."""
        if self.timed is None:
            return None
        stream, scored = self.prepared.stream, self.prepared.config.evaluation.splits
        return (
            self.timed.training_seconds(self.work, sum(len(stage.train) for stage in stream.stages)),
            self.timed.evaluation_seconds(
                self.work, sum(len(c.split(name)) for c in stream.columns for name in scored)
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values, for JSON."""
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
                "notes": list(stream.notes),
                "overlap": self.prepared.overlap,
            },
            "stages": [self._stage(i) for i in range(len(stream))],
            "columns": [self._column(j) for j in self.columns],
            "tokens": {self.name_of(part): self.tokens(part) for part in self.parts},
            "steps": self.steps,
            "steps_at_most": bool(config.training.patience),
            "scored_rows": self.scored,
            "memory": None if self.memory is None else {**asdict(self.memory), "total": self.memory.total},
            "disk": self.disk,
            "not_known": self.unreachable or None,
            "timed": None if self.timed is None else asdict(self.timed),
            "seconds": None if seconds is None else {"training": seconds[0], "evaluation": seconds[1]},
            "run_folder": str(run_folder(config)),
        }

    def _stage(self, stage_index: int) -> dict[str, Any]:
        stage, places = self.prepared.stream.stages[stage_index], self.places(stage_index)
        return {
            "name": stage.name,
            "objective": self.tasks.keys[stage_index],
            "labels": len(stage.labels),
            "rows": {split: len(stage.split(split)) for _, split in places},
            "training": asdict(self.work[stage_index]),
            "measured": self.prepared.stream.is_measured(stage_index),
            "tokens": self._tokens(places, self.tasks.keys[stage_index]),
        }

    def _column(self, column_index: int) -> dict[str, Any]:
        column = self.prepared.stream.columns[column_index]
        places = [(column_index, split) for split in SPLITS[1:]]
        return {
            "name": column.name,
            "objective": self.tasks.column_keys[column_index],
            "labels": len(column.labels),
            "rows": {split: len(column.split(split)) for _, split in places},
            "learned_after": column.home,
            "tokens": self._tokens(places, self.tasks.column_keys[column_index]),
        }

    def _tokens(self, places: Sequence[tuple[int, str]], task: str) -> dict[str, Any]:
        """Returns the figures of the rows of these splits by part, and those of every split that has rows."""
        found = {}
        for key, name in self.parts if self.lengths is not None else []:
            whole = self.tokens((key, name), places) if key == task else None
            if whole is not None:
                by_split = {split: self.tokens((key, name), [(i, split)]) for i, split in places}
                found[name] = {**whole, "splits": {split: own for split, own in by_split.items() if own is not None}}
        return found


def early_look(prepared: Prepared, measured_steps: int = 0) -> EarlyLook:
    """Returns what can be told of a run without starting it; what the hub does not give is left out, and said.

    Args:
        prepared: the run; left as it is, and nothing is written into its folder.
        measured_steps: so many steps are timed on the real model; 0: no model is loaded.

    Raises:
        ConfigError: steps are to be timed, and the model cannot be had.
        TrainingError: steps are to be timed, and memory does not suffice.
    """
    config, tasks = prepared.config, tasks_of(prepared.stream)
    size: ModelSize | None = None
    lengths: StreamLengths | None = None
    unreachable = ""
    try:
        size = size_of_tasks(config, tasks)
        lengths = stream_lengths(prepared.stream, tasks, load_tokenizer(config.model), config.training.max_length)
    except UnreachableModelError as error:
        unreachable = str(error)
    timed = None
    if measured_steps:
        if unreachable:
            raise ConfigError(f"--measure: needs the model itself; {unreachable}")
        from cl_mlm.check.timing import timed_steps

        timed = timed_steps(prepared, measured_steps)
    return EarlyLook(
        prepared=prepared,
        tasks=tasks,
        work=workload(prepared, lengths),
        lengths=lengths,
        memory=None if size is None else memory_need(prepared, size),
        disk=[f"disk: not known: {unreachable}"] if size is None else disk_lines(prepared, size),
        unreachable=unreachable,
        timed=timed,
    )
