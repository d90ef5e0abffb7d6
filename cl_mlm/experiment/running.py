"""One run, stage by stage: train, measure, write down, keep; resumes where the run folder ends."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.assembly import assemble
from cl_mlm.experiment.checkpoint_policy import CheckpointPolicy
from cl_mlm.experiment.interruption import Interruption
from cl_mlm.experiment.kept_numbers import checkpoint_bytes
from cl_mlm.experiment.lost_tables import make_lost_tables
from cl_mlm.experiment.places import check_room
from cl_mlm.experiment.record import Record
from cl_mlm.experiment.reporting import variant_tags, write_head, write_results
from cl_mlm.experiment.scoring import Scoring
from cl_mlm.experiment.shared_stages import FOLDER as SHARED_FOLDER
from cl_mlm.experiment.shared_stages import SharedStages
from cl_mlm.metrics import average_accuracy
from cl_mlm.models.size import ModelSize
from cl_mlm.storage.checkpoint import read_stage
from cl_mlm.storage.inventory import lost_tables, write_inventory
from cl_mlm.storage.run_lookup import in_short
from cl_mlm.storage.state_files import state_bytes
from cl_mlm.tracking.slugs import slugs
from cl_mlm.training import hooks
from cl_mlm.training.ceiling import ceilings
from cl_mlm.training.hardware import memory_advice, peak_memory_bytes
from cl_mlm.training.loop import train_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.experiment.progress import Progress
    from cl_mlm.run_folder import RunFolder
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.training.ceiling import Ceilings
    from cl_mlm.training.cost import StageCost
    from cl_mlm.training.run import Run

TRAINING_ADVICE = (
    "training.halve_on_oom=true (the same rows a step in smaller passes), or training.batch_size lower and "
    "training.accumulation higher by the same factor (the same rows a step; what is drawn in it, such as dropout, and "
    "rounding differ), training.max_length lower, training.gradient_checkpointing=true"
)
SMOKE_FLAG = "a smoke run (limit {}): its scores mean nothing, and none is flagged as being at chance"
EVALUATION_ADVICE = "evaluation.batch_size lower, training.max_length lower"


class Experiment:
    """A prepared run and its folder; is told of every step (`cl_mlm.training.observers.Observer`).

    Args:
        prepared: what is run.
        folder: where it is written; see `RunFolder`.
        journal: of the run.
        progress: the live display.
        notes: what was not the same in this run's sessions.
        on_step: called whenever a step is done.
        interruption: what asks the run to end; None: nothing does.
    """

    def __init__(
        self,
        prepared: Prepared,
        folder: RunFolder,
        journal: Journal,
        progress: Progress,
        notes: Sequence[str] = (),
        on_step: Callable[[], None] = lambda: None,
        interruption: Interruption | None = None,
    ) -> None:
        self.prepared, self.folder, self.journal, self.progress = prepared, folder, journal, progress
        self.notes, self.on_step = notes, on_step
        self.stage_index = 0
        self.has_begun = False  # to train or, where all is trained, to write its results
        self.resumed_stage: int | None = None
        self.interruption = interruption or Interruption()
        self.num_steps = 0
        self.checkpoints = CheckpointPolicy(folder, prepared.config.checkpoint, journal)
        self.shared = SharedStages(_shared_folder(folder), folder.path.name, _num_shared(prepared, folder))
        self.stage_slugs = slugs([stage.name for stage in prepared.stream.stages])
        self.column_slugs = slugs([column.name for column in prepared.stream.columns])
        self.scoring = Scoring(folder, journal, self.column_slugs, prepared.prompting, self.shared)

    def execute(self) -> dict[str, Any]:
        """Trains and measures every stage that is not yet kept; returns the summary."""
        write_head(self.prepared, self.folder, self.journal, self.notes)
        run, record = self._restore()
        # They follow from stream and tokenizer alone, so that a resumed run finds the same ones.
        reachable = ceilings(run.stream, run.tasks, run.network.tokenizer, run.config)
        limit = self.prepared.config.limit
        said = [*self.notes, *([] if limit is None else [SMOKE_FLAG.format(limit)])]
        record.flags += [note for note in said if note not in record.flags]
        if record.next_stage < len(run.stream):
            check_room(self.folder.path, checkpoint_bytes(self.prepared, _size_of(run)))
        self.has_begun = True
        self.resumed_stage = record.next_stage or None  # None: the run is new, or not beyond its first stage
        stages = range(len(run.stream))
        if self.prepared.is_joint:
            stages = stages[-1:]
        for stage_index in stages:
            if stage_index >= record.next_stage:
                self._run_stage(run, record, stage_index, is_first=stage_index == stages[0])
        return self._finish(record, reachable)

    def step_done(self, step: int, num_steps: int, epoch: int, rows: int, values: Mapping[str, float]) -> None:
        """Tells the display and, where values were read, the journal."""
        self.on_step()
        self.num_steps = num_steps
        self.progress.step(step, num_steps, epoch, rows, values)
        if values:
            self.journal.metrics(values, step, self.stage_index)

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        """Tells the journal."""
        self.journal.metrics(values, epoch, self.stage_index)

    def may_checkpoint(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Writes a checkpoint where one is due, or where the run was asked to end, which it then does."""
        is_asked_to_end = self.interruption.asked is not None
        with self.interruption.writing():
            self.checkpoints.after_step(self.stage_index, step, state, is_last=is_asked_to_end)
        if is_asked_to_end:
            self.interruption.end()
        self.interruption.step_done(is_last=step == self.num_steps)

    def _run_stage(self, run: Run, record: Record, stage_index: int, *, is_first: bool) -> None:
        self.stage_index = stage_index
        run.begin(stage_index)
        self.journal.stage_start(stage_index, self.stage_slugs[stage_index])
        tags = {"stage": run.stage.name, "labels": ", ".join(run.stage.labels), **variant_tags(self.prepared.config)}
        self.journal.tags(tags, stage_index)
        if is_first:
            with memory_advice(EVALUATION_ADVICE):
                self.scoring.before_training(run, record)
        self.progress.stage(stage_index, len(run.stream), run.stage.name)
        checkpoint = self.checkpoints.last_step(stage_index)
        if checkpoint is not None or stage_index == self.resumed_stage:
            self.progress.resumes(stage_index, 0 if checkpoint is None else checkpoint["place"]["step"])
        begun = time.perf_counter()
        with self.interruption.at_steps(), memory_advice(TRAINING_ADVICE):
            cost = train_stage(run, self, checkpoint, self.shared)
        started = time.perf_counter()
        with memory_advice(EVALUATION_ADVICE):
            evaluated = self.scoring.after_stage(run)
            self.scoring.prompt(run, record, stage_index)
        self._record_cost(run, record, cost, time.perf_counter() - started)
        row = self.scoring.write(run, record, evaluated)
        scores = None
        if row is not None:
            own = [row[j] for j, column in enumerate(run.stream.columns) if stage_index in column.trained_in]
            matrix = record.matrix if "test" in evaluated else record.validation
            scores = {"score": _mean(own), "mean so far": average_accuracy(matrix[: stage_index + 1], run.stream.home)}
        self.progress.stage_done(scores, started - begun, time.perf_counter() - started)
        record.next_stage = stage_index + 1
        measured = {"time/train_seconds": cost.train_seconds, "cost/steps": cost.steps}
        self.journal.metrics(measured, stage_index, stage_index)
        self.journal.status("FINISHED", stage_index)
        # A stage that is not measured is short: training it again costs less than a checkpoint of each of them.
        if run.stream.is_measured(stage_index):
            self.checkpoints.after_stage(run, record)

    def _record_cost(self, run: Run, record: Record, cost: StageCost, eval_seconds: float) -> None:
        stage = run.stage.name
        if cost.reused_from and cost.reused_from != self.folder.path.name:
            record.reused.append({"stage": stage, "run": cost.reused_from})
            self.journal.tags({"reused_from": cost.reused_from}, self.stage_index)
            self.progress.reuses(stage, cost.reused_from)
        record.add_cost(cost, eval_seconds, _sizes(run))
        record.flags += [f"{stage}: {flag}" for flag in cost.flags]

    def _restore(self) -> tuple[Run, Record]:
        """Returns the run as its last good checkpoint left it, or a new one."""
        prepared, checkpoint = self.prepared, self.checkpoints.last_stage()
        if checkpoint is None:
            return assemble(prepared), Record.empty(len(prepared.stream), len(prepared.stream.columns))
        states, values = read_stage(checkpoint)
        record = Record.from_dict(values)
        record.tables |= make_lost_tables(prepared, self.folder, record.tables, is_exact=self.journal.is_exact)
        for i, strategy in enumerate(prepared.strategies):
            hooks.restore(strategy, states[str(i)])
        return assemble(prepared, checkpoint, record.next_stage), record

    def _finish(self, record: Record, reachable: Ceilings) -> dict[str, Any]:
        lost = lost_tables(self.folder, record.tables)  # while the run went on
        if lost:
            raise RunFolderError(f"{in_short([*lost.values()])}; the same command makes it again, or says why not")
        results = write_results(self.prepared, record, self.folder, self.journal, self.column_slugs, reachable)
        # Before the run counts as finished, for then nobody tidies any more; one stage is enough to come back here.
        self.checkpoints.forget(1)
        self.journal.status("FINISHED")
        self.journal.sync()
        # After the journal's last line: it says that the run is finished, and whole.
        write_inventory(self.folder.path, with_checkpoints=self.prepared.config.checkpoint.keep_stages != "none")
        self.checkpoints.end()
        return results


def _shared_folder(folder: RunFolder) -> Path:
    """Returns where the runs of one `output` share stages: `<output>/<experiment>/<run>` is the folder of one."""
    return folder.path.parent.parent / SHARED_FOLDER


def _num_shared(prepared: Prepared, folder: RunFolder) -> int:
    """Returns how many first stages the run shares with others."""
    is_again = folder.path.name != prepared.config.run_name
    # A run that is made again must not be given what it is to make again.
    return 0 if is_again or prepared.config.limit else prepared.config.checkpoint.reuse_stages


def _mean(scores: Sequence[float]) -> float:
    """Returns the mean of the scores that were taken; NaN: none was."""
    taken = [score for score in scores if not math.isnan(score)]
    return sum(taken) / len(taken) if taken else math.nan


def _size_of(run: Run) -> ModelSize:
    """Returns what the model takes as it is now; heads may still grow."""
    trainable = run.network.trainable().values()
    weights = run.network.backbone.task_model(run.tasks.keys[-1]).num_bytes
    trained = sum(p.numel() * p.element_size() for p in trainable)
    return ModelSize(weights, weights, trained, trained, sum(p.numel() for p in trainable))


def _sizes(run: Run) -> dict[str, float]:
    return {
        "peak_memory_bytes": peak_memory_bytes(),
        "buffer_bytes": sum(hooks.buffer_bytes(run, strategy) for strategy in run.strategies),
        "strategy_state_bytes": sum(state_bytes(hooks.state_of(run, strategy)) for strategy in run.strategies),
        "trainable_parameters": sum(p.numel() for p in run.network.trainable().values()),
    }
