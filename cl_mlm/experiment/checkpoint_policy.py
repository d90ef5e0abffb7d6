"""When a run writes checkpoints, and which of them it keeps."""

from __future__ import annotations

import logging
import shutil
import time
from typing import TYPE_CHECKING, Any

from cl_mlm.disk import writing
from cl_mlm.experiment.composition import swapping_strategies
from cl_mlm.storage.checkpoint import in_order, last_good, read_step, write_stage, write_step
from cl_mlm.training import hooks
from cl_mlm.training.evaluation import as_scored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cl_mlm.config.keeping import CheckpointConfig
    from cl_mlm.experiment.record import Record
    from cl_mlm.run_folder import RunFolder
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.training.run import Run

log = logging.getLogger(__name__)

KEPT_WHILE_RUNNING = 2  # stages: the last one may turn out damaged


class CheckpointPolicy:
    """The checkpoints of one run.

    Args:
        folder: of the run.
        settings: the config's `checkpoint` section.
        journal: is flushed to disk before a checkpoint that counts on it.
    """

    def __init__(self, folder: RunFolder, settings: CheckpointConfig, journal: Journal) -> None:
        self._folder, self._settings, self._journal = folder, settings, journal
        self._last_written = time.monotonic()

    def last_stage(self) -> Path | None:
        """Returns the last undamaged checkpoint at the end of a stage; None: there is none."""
        checkpoint, faults = last_good(self._folder.stages)
        _warn(faults)
        return checkpoint

    def last_step(self, stage_index: int) -> dict[str, Any] | None:
        """Returns the last undamaged state from within a stage; None: there is none."""
        state, faults = read_step(self._folder.steps, stage_index)
        _warn(faults)
        return state

    def after_step(
        self, stage_index: int, step: int, state: Callable[[], dict[str, Any]], *, is_last: bool = False
    ) -> None:
        """Writes a checkpoint where one is due by time or steps, or where the run ends here (`is_last`)."""
        minutes = (time.monotonic() - self._last_written) / 60
        every_minutes, every_steps = self._settings.every_minutes, self._settings.every_steps
        is_due_by_time = every_minutes is not None and minutes >= every_minutes
        is_due_by_steps = every_steps is not None and step % every_steps == 0
        if is_due_by_time or is_due_by_steps or is_last:
            write_step(self._folder.steps, stage_index, step, state(), self._journal_on_disk())
            self._last_written = time.monotonic()

    def after_stage(self, run: Run, record: Record) -> None:
        """Writes the checkpoint at the end of a stage, and removes those that are not needed any more."""
        journal = self._journal_on_disk()
        backbone, stage_index = run.network.backbone, run.place.stage_index
        states = hooks.states_of(run)
        model = backbone.task_model(run.tasks.keys[stage_index])
        others = {key: other for key, other in backbone.task_models().items() if other is not model}
        swapped = as_scored(run) if swapping_strategies(run.strategies) else None
        write_stage(self._folder.stages, stage_index, model, states, record.to_dict(), others, swapped, journal)
        self.forget(KEPT_WHILE_RUNNING)

    def _journal_on_disk(self) -> dict[str, Any]:
        """Flushes the journal; returns what a checkpoint notes of it, so that a resumed run knows it again."""
        self._journal.sync()
        return self._journal.extent

    def forget(self, num_stages: int) -> None:
        """Removes checkpoints within stages and, unless `keep_stages` is `all`, all stages but the last ones."""
        shutil.rmtree(self._folder.steps, ignore_errors=True)
        if self._settings.keep_stages == "all":
            return
        _remove(in_order(self._folder.stages.glob("[0-9]*"))[:-num_stages])

    def end(self) -> None:
        """Removes all checkpoints of a finished run where `keep_stages` is `none`."""
        if self._settings.keep_stages == "none":
            _remove(self._folder.stages.glob("[0-9]*"))


def _remove(checkpoints: Iterable[Path]) -> None:
    for checkpoint in checkpoints:
        with writing(checkpoint):
            shutil.rmtree(checkpoint)


def _warn(faults: list[str]) -> None:
    for fault in faults:
        log.warning("%s; the checkpoint before it is used", fault)
