"""Times a few steps on the real model and derives the time of the whole run; the trained weights are discarded."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from cl_mlm.experiment.assembly import assemble
from cl_mlm.experiment.running import TRAINING_ADVICE
from cl_mlm.models.modes import evaluation_mode
from cl_mlm.tokens.batching import sorted_batches
from cl_mlm.training.determinism import determinism
from cl_mlm.training.evaluation import ids_of_columns, scorable_columns, scoring
from cl_mlm.training.hardware import memory_advice, peak_memory_bytes
from cl_mlm.training.loop import StageTraining, begin_stage, end_stage, steps_of_epoch, training_ids
from cl_mlm.training.network import caches_features

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from cl_mlm.check.workload import StageWork
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.training.run import Run


@dataclass(frozen=True)
class Timed:
    """What a few steps took; times in seconds.

    Attributes:
        steps: the number of timed steps of a stage; one more before them was not timed.
        step: an optimiser step of the first stage (the median).
        later_step: an optimiser step of the second stage, if it does other work than the first: strategies have
            something to guard, or the stages have several objectives. None: it does not.
        own_steps: an optimiser step of every further stage with a batch size that the stages above do not stand for,
            by the stage's index.
        before_row, after_row: the strategies' work before and after a later stage, by training row.
        first_after_row: the strategies' work after the first stage, by training row.
        scored_row: scoring one row.
        frozen_row: reading a row once with a frozen body whose outputs are cached; 0: they are not.
        peak_bytes: the most memory that the process, or its accelerator, has held so far.
        device: the type of the model's device.
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
    own_steps: Mapping[int, float] = field(default_factory=dict)

    def training_seconds(self, work: Sequence[StageWork], train_rows: int) -> float | None:
        """Returns the seconds that training takes if no stage stops early; None: a number of steps is not known.

        Args:
            work: of every stage.
            train_rows: of all stages; a frozen body reads each once.
        """
        total = self.frozen_row * train_rows
        is_first = True
        for i, stage in enumerate(work):
            if stage.steps is None:
                return None
            if not stage.steps:
                continue
            step = self.own_steps.get(i, self.step if is_first or self.later_step is None else self.later_step)
            rows = stage.rows or 0
            hooks = self.first_after_row if is_first else self.before_row + self.after_row
            total += stage.steps * step + rows * hooks + stage.validated * self.scored_row
            is_first = False
        return total

    def evaluation_seconds(self, work: Sequence[StageWork], frozen_rows: int) -> float:
        """Returns the seconds that scoring takes, before the first stage and after every one.

        Args:
            work: of every stage.
            frozen_rows: rows that are scored at least once; a frozen body reads each once.
        """
        return sum(stage.scored or 0 for stage in work) * self.scored_row + frozen_rows * self.frozen_row


@dataclass(frozen=True)
class _Trial:
    """Seconds of one stage.

    Attributes:
        first_step: the first step, which also fills caches.
        later_steps: every further step.
        before_row, after_row: the strategies' work before and after the stage, by training row.
    """

    first_step: float
    later_steps: list[float]
    before_row: float
    after_row: float

    @property
    def step(self) -> float:
        return statistics.median(self.later_steps)


def timed_steps(prepared: Prepared, num_steps: int) -> Timed:
    """Times `num_steps` steps of the first stage, and of the second if it does other work than the first.

    The strategies' work before and after a stage is timed on the rows of these steps only. Scoring is timed on batches
    of all lengths, with the weights as they are: a generative model that has not learnt to stop writes `max_new_tokens`
    tokens, so its time is an upper bound.

    Raises:
        ConfigError: the model cannot be had.
        TrainingError: memory does not suffice.
    """
    # New objects: strategies keep what they see, and a run must not start with it.
    fresh = tuple(type(strategy)(**strategy.arguments()) for strategy in prepared.strategies)
    with determinism(prepared.config.training), memory_advice(TRAINING_ADVICE):
        run = assemble(replace(prepared, strategies=fresh))
        last_stage = len(run.stream) - 1
        first_stage = last_stage if prepared.is_joint else 0
        has_later = (bool(fresh) or len(run.tasks) > 1) and last_stage > 0 and not prepared.is_joint
        first = _trial(run, first_stage, num_steps)
        later = _trial(run, 1, num_steps) if has_later else None
        timed = {first_stage: first} if later is None else {first_stage: first, 1: later}
        own_steps = _own_steps(run, timed, num_steps)
        scored_row = _seconds_a_scored_row(run, num_steps)
        return Timed(
            steps=num_steps,
            step=first.step,
            later_step=None if later is None else later.step,
            before_row=0.0 if later is None else later.before_row,
            after_row=first.after_row if later is None else later.after_row,
            first_after_row=first.after_row,
            scored_row=scored_row,
            frozen_row=_seconds_a_frozen_row(run, first_stage, first),
            peak_bytes=peak_memory_bytes(),
            device=run.network.device.type,
            own_steps=own_steps,
        )


def _own_steps(run: Run, timed: Mapping[int, _Trial], num_steps: int) -> dict[int, float]:
    """Returns the seconds of a step of the stages whose batch size differs from that of the stage timed for them.

    Args:
        run: mutated as training the stages that are timed here would.
        timed: the first stage that is trained and, where later ones do other work, the second.
        num_steps: that are timed.
    """
    first, stands_for_later, found = min(timed), max(timed), {}
    names = [stage.name for stage in run.stream.stages]
    sizes = [run.config.training.at_stage(i, names).batch_size for i in range(len(names))]
    seconds = {sizes[stands_for_later]: timed[stands_for_later].step}
    for i in range(first + 1, len(names)):
        if sizes[i] not in seconds:
            seconds[sizes[i]] = _trial(run, i, num_steps).step
        if sizes[i] != sizes[stands_for_later]:
            found[i] = seconds[sizes[i]]
    return found


def _trial(run: Run, stage_index: int, num_steps: int) -> _Trial:
    """Takes `1 + num_steps` steps of a stage; mutates the run as training the stage would."""
    run.begin(stage_index)
    place = run.place
    place.training_ids = training_ids(run)
    if not len(place.training_ids):
        begin_stage(run)
        end_stage(run)
        return _Trial(0.0, [0.0], 0.0, 0.0)  # such a stage trains 0 steps
    epoch = list(steps_of_epoch(run, run.data.lengths(place.training_ids)))
    steps = list(islice(cycle(epoch), num_steps + 1))
    # Without the rows that no step reads: strategies prepare for all of these rows, and learn from them.
    place.training_ids = np.unique(np.concatenate([ids for step in steps for ids in step]))
    before = _seconds(run, partial(begin_stage, run))
    training = StageTraining(run, len(steps))
    seconds = [_seconds(run, partial(training.take_step, step)) for step in steps]
    after = _seconds(run, partial(end_stage, run))
    num_rows = len(place.training_ids)
    return _Trial(seconds[0], seconds[1:], before / num_rows, after / num_rows)


def _seconds_a_frozen_row(run: Run, stage_index: int, trial: _Trial) -> float:
    """Returns the seconds in which a frozen body reads one row; 0 if its outputs are not cached.

    The first step of `trial` fills the cache with all training rows of the stage; what it takes longer than a later
    step is the time of those rows.
    """
    if not caches_features(run.config, run.network.backbone):
        return 0.0
    run.begin(stage_index)
    num_rows = len(training_ids(run))
    return max(0.0, trial.first_step - trial.step) / max(1, num_rows)


def _seconds_a_scored_row(run: Run, num_batches: int) -> float:
    """Returns the seconds of predicting one row, the mean over the rows of all columns that can be scored now.

    Of each task `num_batches` batches are timed, evenly spread over all lengths. 0: there are no rows.
    """
    split = run.config.evaluation.splits[-1]
    columns = scorable_columns(run.stream, run.tasks, split)
    ids = ids_of_columns(run, split, columns)

    def predict(batch_ids: npt.NDArray[np.int64]) -> None:
        batch = run.data.rows(batch_ids, split)
        run.task_of(batch).objective.predict(run.predictor(batch), batch)

    total = 0.0
    with evaluation_mode(run.network.model), scoring(run, columns):
        for positions in run.tasks.split(ids, split):
            task_ids = ids[positions]
            batches = sorted_batches(run.data.lengths(task_ids, split), run.config.evaluation.batch_size)
            chosen = np.unique(np.linspace(0, len(batches) - 1, min(num_batches, len(batches))).round().astype(int))
            predict(task_ids[batches[-1]])  # not timed: the longest batch allocates the memory of all
            timed_batches = [task_ids[batches[i]] for i in chosen.tolist()]
            seconds = sum(_seconds(run, partial(predict, batch_ids)) for batch_ids in timed_batches)
            total += len(task_ids) * seconds / sum(map(len, timed_batches))
    return total / max(1, len(ids))


def _seconds(run: Run, work: Callable[[], object]) -> float:
    """Returns the seconds that `work` takes until the device has finished it."""
    _wait(run.network.device)
    started = time.perf_counter()
    work()
    _wait(run.network.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    """Waits until an accelerator has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
