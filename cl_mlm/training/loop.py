"""The sequential fine-tuning loop, readable top to bottom: stages, epochs, steps."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.optimizer import AcceleratedOptimizer

from cl_mlm.errors import ClMlmError
from cl_mlm.tokens.batching import cut_batch, training_batches
from cl_mlm.training import hook_rules, hooks
from cl_mlm.training.cost import StageCost
from cl_mlm.training.early_stopping import BestWeights
from cl_mlm.training.optimizer import make_optimizer, make_scheduler
from cl_mlm.training.stage_state import changing_tensors, put_back, take_over, trained_state
from cl_mlm.training.step import Step, not_finite

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from cl_mlm.config.schema import TrainingConfig
    from cl_mlm.training.observers import Observer, StageCache
    from cl_mlm.training.run import Run

LIMITED_STEPS = 2
NO_ROWS = "trained on no rows: 0 steps"


def train_stage(
    run: Run,
    observer: Observer,
    checkpoint: Mapping[str, Any] | None = None,
    cache: StageCache | None = None,
) -> StageCost:
    """Trains the stage `run.place.stage_index` on the rows that the strategies' regime gives; mutates the model.

    Args:
        run: mutated: model, labels, place.
        observer: is told of every step.
        checkpoint: a state that `observer.may_checkpoint` was given within this stage. The model and the strategies are
            as they were when the stage began: what precedes the first step is done again, then the state is restored.
        cache: trained stages: consulted unless a checkpoint is being resumed, and updated after training.
    """
    started = time.perf_counter()
    run.begin(run.place.stage_index)
    run.place.training_ids = training_ids(run)
    begin_stage(run)
    trained = cache.look_up(run) if cache is not None and checkpoint is None else None
    if trained is None:
        _optimise(run, observer, checkpoint, started)
        if cache is not None and checkpoint is None:
            seconds = time.perf_counter() - started
            cache.store(run, trained_state(run, {**asdict(run.cost), "train_seconds": seconds}))
    else:
        take_over(run, trained)
        started, run.cost = time.perf_counter(), StageCost(**{**trained["cost"], "reused_from": trained["run"]})
    end_stage(run)
    run.cost.train_seconds += time.perf_counter() - started
    return run.cost


def begin_stage(run: Run) -> None:
    """Grows the heads and tells the strategies that the stage with `run.place.training_ids` begins; mutates the run."""
    run.tasks.count_labels(run.place.stage_index, run.place.last_trained)
    run.grow()
    for strategy in run.strategies:
        hooks.stage_event(run, strategy, "before_stage")
    run.network.backbone.train_mode()


def end_stage(run: Run) -> None:
    """Tells the strategies that the stage is trained; mutates the run."""
    for strategy in run.strategies:
        hooks.stage_event(run, strategy, "after_stage")
    run.place.last_trained = run.place.stage_index


def training_ids(run: Run) -> npt.NDArray[np.int64]:
    """Returns the rows of this stage: a strategy's own choice, else those of the strategies' regime."""
    for strategy in run.strategies:
        chosen = hooks.training_data(run, strategy)
        if chosen is not None:
            return chosen
    last = run.place.stage_index
    is_sequential = all(strategy.regime == "sequential" for strategy in run.strategies)
    return np.concatenate([run.data.ids(j) for j in range(last if is_sequential else 0, last + 1)])


def _optimise(run: Run, observer: Observer, checkpoint: Mapping[str, Any] | None, started: float) -> None:
    place, patience = run.place, run.training.patience
    task_rows = [len(ids) for ids in run.data.by_task(place.training_ids)]
    work = StageTraining(run, num_steps(run.training, task_rows, run.config.limit))
    if checkpoint is not None:
        work.load_state_dict(checkpoint)
    lengths = run.data.lengths(place.training_ids)
    while place.step < work.num_steps:
        for micro_batches in steps_of_epoch(run, lengths, work.epoch_step):
            work.take_step(micro_batches)
            values = work.step.read() if place.logging else {}
            observer.step_done(place.step, work.num_steps, place.epoch, sum(map(len, micro_batches)), values)
            observer.may_checkpoint(place.step, lambda: work.state_dict(time.perf_counter() - started))
            if place.step == work.num_steps:
                break
        # Once an epoch, whatever is logged: no score and no best weights are taken of what is not finite.
        work.check()
        place.epoch, work.epoch_step = place.epoch + 1, 0
        if patience and work.best.should_stop(patience, observer):
            break
    if patience:
        work.best.restore()
    run.cost.steps = place.step
    if not len(place.training_ids):
        run.cost.flags.append(NO_ROWS)


class StageTraining:
    """What moves while a stage is trained: weights, optimiser, schedule, early stopping, sums, place in the epoch."""

    def __init__(self, run: Run, num_steps: int) -> None:
        training, parameters = run.training, run.network.trainable()
        head_names = [name for name, _ in run.network.backbone.head_parameters()]
        self.run, self.num_steps, self.epoch_step = run, num_steps, 0
        self.bare = make_optimizer(parameters, head_names, training, hooks.parameter_settings(run))
        self.scheduler = make_scheduler(self.bare, num_steps, training)
        # Not `prepare_optimizer`, which keeps every stage's optimiser for good. After the scheduler, which wraps
        # `step`: under fp16 accelerate puts back the `step` that it found.
        scaler = run.network.accelerator.scaler
        self.optimizer = AcceleratedOptimizer(self.bare, device_placement=False, scaler=scaler)
        self.step = Step(run, self.optimizer, list(parameters.values()))
        self.best = BestWeights(run)
        self._form = hook_rules.form(run)

    def take_step(self, micro_batches: list[npt.NDArray[np.int64]]) -> None:
        """Takes one optimiser step and moves schedule and counters on.

        Raises:
            OwnCodeError: a strategy has changed what the step needs.
        """
        place, log_every = self.run.place, self.run.config.tracking.log_every
        place.learning_rate = float(self.scheduler.get_last_lr()[0])
        place.logging = (place.step + 1) % log_every == 0 or place.step + 1 == self.num_steps
        try:
            self.step.take(micro_batches)
        except Exception as error:
            if not isinstance(error, ClMlmError):
                hooks.explain(self.run, self._form, error)
            raise
        if not self.optimizer.step_was_skipped:  # fp16 skips a step whose gradient overflowed
            self.scheduler.step()
        place.step += 1
        self.epoch_step += 1

    def check(self) -> None:
        """Refuses to go on from losses or weights that are not finite, or from a model of another form.

        Waits for the device once.

        Raises:
            TrainingError: naming what is not finite.
            OwnCodeError: a strategy has changed the form of the model.
        """
        hooks.require_form(self.run, self._form)
        self.step.check()
        bad = self.run.network.not_finite()
        if bad:
            raise not_finite(self.run, f"{len(bad)} weights are not finite, {bad[0]} the first")

    def state_dict(self, seconds: float) -> dict[str, Any]:
        """Returns everything that the next step depends on, tensors and plain values; `seconds` were spent so far.

        Raises:
            TrainingError: a loss or a weight is not finite: resuming from here would be of no use.
        """
        self.check()
        place, scaler = self.run.place, self.run.network.accelerator.scaler
        return {
            "place": {"epoch": place.epoch, "step": place.step, "epoch_step": self.epoch_step},
            "weights": changing_tensors(self.run),
            "optimizer": {str(i): values for i, values in self.bare.state_dict()["state"].items()},
            "learning_rates": [group["lr"] for group in self.bare.param_groups],
            "scheduler": self.scheduler.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
            "strategies": hooks.states_of(self.run),
            "best": self.best.state_dict(),
            "meter": self.step.meter.state_dict(),
            "cost": {**asdict(self.run.cost), "train_seconds": seconds},
            "parts": self.step.num_pieces,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        run, saved = self.run, state["place"]
        run.place.epoch, run.place.step, self.epoch_step = saved["epoch"], saved["step"], saved["epoch_step"]
        put_back(run, state["weights"])
        moments = {int(index): values for index, values in state["optimizer"].items()}
        self.bare.load_state_dict({"state": moments, "param_groups": self.bare.state_dict()["param_groups"]})
        for group, rate in zip(self.bare.param_groups, state["learning_rates"], strict=True):
            group["lr"] = rate
        self.scheduler.load_state_dict(state["scheduler"])
        if run.network.accelerator.scaler is not None:
            run.network.accelerator.scaler.load_state_dict(state["scaler"])
        for i, strategy in enumerate(run.strategies):
            hooks.restore(strategy, state["strategies"][str(i)])
        self.best.load_state_dict(state["best"])
        self.step.meter.load_state_dict(state["meter"], run.network.device)
        run.cost = StageCost(**state["cost"])
        self.step.num_pieces = state["parts"]


def num_steps(training: TrainingConfig, task_rows: Sequence[int], limit: int | None = None) -> int:
    """Returns the optimiser steps of a stage, early stopping left out; 0 where there are no rows.

    Args:
        training: the settings of the stage.
        task_rows: training rows of every task.
        limit: of the run; None: no smoke run.
    """
    if not sum(task_rows):
        return 0
    steps = training.steps or training.epochs * steps_per_epoch(training, task_rows)
    return min(steps, LIMITED_STEPS) if limit else steps


def steps_per_epoch(training: TrainingConfig, task_rows: Sequence[int]) -> int:
    """Returns the optimiser steps of one pass over the rows of every task; a step trains on rows of one task."""
    return sum(math.ceil(rows / training.step_rows) for rows in task_rows)


def steps_of_epoch(run: Run, lengths: npt.NDArray[np.int32], first: int = 0) -> Iterator[list[npt.NDArray[np.int64]]]:
    """Yields the row ids of every micro-batch, step by step from step `first` of the epoch.

    The order is addressed by (seed, stage, epoch). Which rows a step has depends on the product of `batch_size` and
    `accumulation` alone: the rows of a step are drawn first, and then cut into micro-batches.
    """
    training, place = run.training, run.place
    tasks = run.tasks.codes(place.training_ids) if len(run.tasks) > 1 else None
    steps = training_batches(lengths, training.step_rows, place.seed, place.stage_index, place.epoch, tasks)
    for positions in steps[first:]:
        yield cut_batch(place.training_ids[positions], training.batch_size)
