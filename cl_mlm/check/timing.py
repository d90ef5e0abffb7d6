"""A few timed steps on the real model, and what they say of the time of the whole run; the weights are thrown away."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from cl_mlm.experiment.assembly import assemble
from cl_mlm.experiment.running import TRAINING_ADVICE
from cl_mlm.models.modes import evaluation_mode
from cl_mlm.tokens.batching import sorted_batches
from cl_mlm.training.evaluation import ids_of_columns, scorable_columns, scoring
from cl_mlm.training.hardware import memory_advice, peak_memory_bytes
from cl_mlm.training.loop import StageTraining, begin_stage, end_stage, steps_of_epoch, training_ids
from cl_mlm.training.network import caches_features

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from cl_mlm.check.workload import StageWork
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.training.run import Run


@dataclass(frozen=True)
class Timed:
    """What a few steps took, in seconds.

    Attributes:
        steps: that were timed in each stage; one before them was not.
        step: an optimiser step of the first stage (the median).
        later_step: one of the second stage, where strategies have something to guard, or stages several objectives;
            None: no such stage.
        before_row, after_row: strategies' work before and after a later stage, by training row.
        first_after_row: their work after the first one.
        scored_row: scoring a row.
        frozen_row: what a frozen body costs once for each row; 0 where it is not kept.
        peak_bytes: the most memory that the process, or its accelerator, has held so far.
        device: where the model was.
    """

    steps: int
    step: float
    later_step: float | None
    before_row: float
    after_row: float
    first_after_row: float
    scored_row: float
    frozen_row: float
    peak_bytes: int
    device: str

    def training_seconds(self, work: Sequence[StageWork], train_rows: int) -> float | None:
        """Returns the seconds that training all stages takes, early stopping left out; None: steps are not known."""
        total = self.frozen_row * train_rows
        is_first = True
        for stage in work:
            if stage.steps is None:
                return None
            if not stage.steps:
                continue
            step = self.step if is_first or self.later_step is None else self.later_step
            rows = stage.rows or 0
            hooks = self.first_after_row if is_first else self.before_row + self.after_row
            total += stage.steps * step + rows * hooks + stage.validated * self.scored_row
            is_first = False
        return total

    def evaluation_seconds(self, work: Sequence[StageWork], frozen_rows: int) -> float:
        """Returns the seconds that scoring takes after all stages, and before the first."""
        return sum(stage.scored or 0 for stage in work) * self.scored_row + frozen_rows * self.frozen_row


@dataclass(frozen=True)
class _Trial:
    """Seconds of one stage: the first step, every further one, and hooks by row."""

    first: float
    others: list[float]
    before_row: float
    after_row: float

    @property
    def step(self) -> float:
        return statistics.median(self.others)


def timed_steps(prepared: Prepared, num_steps: int) -> Timed:
    """Returns what `num_steps` steps of the first stage take.

    Also those of the second, where strategies are at work or stages have several objectives.

    Strategies' work before and after a stage is done for the rows of these steps only. Scoring a row is timed on
    batches of every length with the model as it is: one that writes texts may not have learnt to stop.

    Raises:
        ConfigError: the model cannot be had.
        TrainingError: memory does not suffice.
    """
    # Made anew: what they have seen here they must not know in a run.
    fresh = tuple(type(strategy)(**strategy.arguments()) for strategy in prepared.strategies)
    with memory_advice(TRAINING_ADVICE):
        run = assemble(replace(prepared, strategies=fresh))
        last = len(run.stream) - 1
        is_joint = any(strategy.regime == "joint" for strategy in fresh)
        has_later = (bool(fresh) or len(run.tasks) > 1) and last > 0 and not is_joint
        first = _trial(run, last if is_joint else 0, num_steps)
        later = _trial(run, 1, num_steps) if has_later else None
        scored_row = _seconds_a_scored_row(run, num_steps)
        once = max(0.0, first.first - first.step) / max(1, len(training_ids(_at(run, last if is_joint else 0))))
        return Timed(
            steps=num_steps,
            step=first.step,
            later_step=None if later is None else later.step,
            before_row=0.0 if later is None else later.before_row,
            after_row=first.after_row if later is None else later.after_row,
            first_after_row=first.after_row,
            scored_row=scored_row,
            frozen_row=once if caches_features(run.config, run.network.backbone) else 0.0,
            peak_bytes=peak_memory_bytes(),
            device=run.network.device.type,
        )


def _trial(run: Run, stage_index: int, num_steps: int) -> _Trial:
    """Takes one step and `num_steps` timed ones of a stage; mutates the run as training the stage would."""
    _at(run, stage_index)
    place = run.place
    place.training_ids = training_ids(run)
    steps = list(steps_of_epoch(run, run.data.lengths(place.training_ids)))
    taken = list(islice(cycle(steps), num_steps + 1))
    # Strategies prepare for, and learn from, no more rows than are trained on.
    place.training_ids = np.unique(np.concatenate([ids for step in taken for ids in step]))
    before = _seconds(run, lambda: begin_stage(run))
    work = StageTraining(run, len(taken))
    seconds = [_seconds(run, partial(work.take_step, step)) for step in taken]
    after = _seconds(run, partial(end_stage, run))
    rows = len(place.training_ids)
    return _Trial(seconds[0], seconds[1:], before / rows, after / rows)


def _at(run: Run, stage_index: int) -> Run:
    run.begin(stage_index)
    return run


def _seconds_a_scored_row(run: Run, num_batches: int) -> float:
    """Returns the seconds of predicting one row, over batches of each task that are evenly spread over all lengths.

    Rows are those of the columns known now; 0 where there are none.
    """
    split = run.config.evaluation.splits[-1]
    columns = scorable_columns(run.stream, run.tasks, split)
    ids = ids_of_columns(run, split, columns)

    def score(of_batch: npt.NDArray[np.int64]) -> None:
        batch = run.data.rows(of_batch, split)
        run.task_of(batch).objective.predict(run.predictor(batch), batch)

    total = 0.0
    with evaluation_mode(run.network.model), scoring(run, columns):
        for positions in run.tasks.split(ids, split):
            of_task = ids[positions]
            batches = sorted_batches(run.data.lengths(of_task, split), run.config.evaluation.batch_size)
            chosen = np.unique(np.linspace(0, len(batches) - 1, min(num_batches, len(batches))).round().astype(int))
            score(of_task[batches[-1]])
            taken = [of_task[batches[i]] for i in chosen.tolist()]
            spent = sum(_seconds(run, partial(score, one)) for one in taken)
            total += len(of_task) * spent / sum(map(len, taken))
    return total / max(1, len(ids))


def _seconds(run: Run, work: Callable[[], object]) -> float:
    """Returns the seconds that `work` takes, that of the device included."""
    _wait(run.network.device)
    started = time.perf_counter()
    work()
    _wait(run.network.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
