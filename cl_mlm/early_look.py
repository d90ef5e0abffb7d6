"""An early look at a run: what its rows are to the model, how many steps it takes, what memory and time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cl_mlm.api import run_folder
from cl_mlm.backbone import load_tokenizer
from cl_mlm.disk import ModelSize, disk_lines, model_size
from cl_mlm.errors import ConfigError, UnreachableModelError
from cl_mlm.lengths import StreamLengths, digest, joined, stream_lengths
from cl_mlm.memory import MemoryNeed, memory_need
from cl_mlm.stream import SPLITS
from cl_mlm.workload import StageWork, workload

if TYPE_CHECKING:
    from cl_mlm.preparation import Prepared
    from cl_mlm.timing import Timed


@dataclass(frozen=True)
class EarlyLook:
    """What is known of a run before it starts.

    Attributes:
        prepared: the run.
        work: of every stage.
        lengths: tokens of every split by (stage index, split) and part of a row; None where there is no tokenizer.
        memory: None where the model's config cannot be had.
        unreachable: why there is no tokenizer or config; empty: there is.
        timed: what a few steps took; None: none was asked for.
    """

    prepared: Prepared
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
    def parts(self) -> list[str]:
        """Parts of a row whose tokens are counted."""
        return list(next(iter(self.lengths.values()))) if self.lengths else []

    def tokens(self, part: str, stage_index: int | None = None, split: str | None = None) -> dict[str, Any]:
        """Returns the figures of one part of rows: those of a stage and split, or of all."""
        assert self.lengths is not None
        return digest(
            joined(
                [
                    own[part]
                    for (i, name), own in self.lengths.items()
                    if stage_index in (None, i) and split in (None, name)
                ]
            )
        )

    @property
    def seconds(self) -> tuple[float | None, float] | None:
        """Estimated seconds of training (None: steps are not known) and of evaluation; None: nothing was timed."""
        if self.timed is None:
            return None
        stages = self.prepared.stream.stages
        scored = self.prepared.config.evaluation.splits
        return (
            self.timed.training_seconds(self.work, sum(len(stage.train) for stage in stages)),
            self.timed.evaluation_seconds(self.work, sum(len(s.split(name)) for s in stages for name in scored)),
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
            "tokens": {part: self.tokens(part) for part in self.parts},
            "steps": self.steps,
            "steps_at_most": bool(config.training.patience),
            "scored_rows": sum(stage.scored for stage in self.work),
            "memory": None if self.memory is None else {**asdict(self.memory), "total": self.memory.total},
            "disk": self.disk,
            "not_known": self.unreachable or None,
            "timed": None if self.timed is None else asdict(self.timed),
            "seconds": None if seconds is None else {"training": seconds[0], "evaluation": seconds[1]},
            "run_folder": str(run_folder(config)),
        }

    def _stage(self, stage_index: int) -> dict[str, Any]:
        stage = self.prepared.stream.stages[stage_index]
        return {
            "name": stage.name,
            "labels": len(stage.labels),
            "rows": {split: len(stage.split(split)) for split in SPLITS},
            "training": asdict(self.work[stage_index]),
            "tokens": {
                part: {
                    **self.tokens(part, stage_index),
                    "splits": {split: self.tokens(part, stage_index, split) for split in SPLITS},
                }
                for part in self.parts
            },
        }


def early_look(prepared: Prepared, measured_steps: int = 0) -> EarlyLook:
    """Returns what can be told of a run without starting it; what the hub does not give is left out, and said.

    Args:
        prepared: the run; left as it is, and nothing is written into its folder.
        measured_steps: so many steps are timed on the real model; 0: no model is loaded.

    Raises:
        ConfigError: steps are to be timed, and the model cannot be had.
        TrainingError: steps are to be timed, and memory does not suffice.
    """
    config, stream, objective = prepared.config, prepared.stream, prepared.objective
    size: ModelSize | None = None
    lengths: StreamLengths | None = None
    unreachable = ""
    try:
        size = model_size(config, stream.labels, objective)
        lengths = stream_lengths(stream, objective, load_tokenizer(config.model), config.training.max_length)
    except UnreachableModelError as error:
        unreachable = str(error)
    timed = None
    if measured_steps:
        if unreachable:
            raise ConfigError(f"--measure: needs the model itself; {unreachable}")
        from cl_mlm.timing import timed_steps

        timed = timed_steps(prepared, measured_steps)
    return EarlyLook(
        prepared=prepared,
        work=workload(prepared),
        lengths=lengths,
        memory=None if size is None else memory_need(prepared, size),
        disk=[f"disk: not known: {unreachable}"] if size is None else disk_lines(prepared, size),
        unreachable=unreachable,
        timed=timed,
    )
