"""The sequential fine-tuning loop, readable top to bottom: stages, epochs, steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from cl_mlm.config.schema import Config
from cl_mlm.strategy import Strategy
from cl_mlm.tokens.batching import training_batches
from cl_mlm.training.evaluation import evaluate
from cl_mlm.training.optimizer import make_optimizer, make_scheduler
from cl_mlm.training.run import Run
from cl_mlm.training.step import StageCost, Step, not_finite

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

LIMITED_STEPS = 2


class Reporter(Protocol):
    """Hears of the loop's progress; a display and the journal are two."""

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """An epoch ended."""
        ...

    def training(self, step: int, num_steps: int, epoch: int, rows: int, values: Mapping[str, float]) -> None:
        """Called every step with `values` empty, but for every `tracking.log_every`-th."""
        ...

    def keep(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Called after every step; `state` gives what goes on from here, where the reporter wants to keep it."""
        ...


class Shared(Protocol):
    """Stages that were trained before, by whatever run."""

    def find(self, run: Run) -> Mapping[str, Any] | None:
        """Returns what training the present stage ends with, where that is known."""
        ...

    def keep(self, run: Run, state: Mapping[str, Any]) -> None:
        """Takes what training the present stage ended with."""
        ...


def train_stage(
    run: Run, reporter: Reporter, kept: Mapping[str, Any] | None = None, shared: Shared | None = None
) -> StageCost:
    """Trains one stage, `run.stage_index`, on the rows that the strategies' regime gives; mutates the model.

    Args:
        run: mutated: model, labels, place.
        reporter: hears of every step.
        kept: a state that `reporter.keep` was given within this stage, to go on from; the model and the strategies are
            as they were when the stage began, so that what happens before the first step is simply done again.
        shared: asked, where there is nothing to go on from, for what training ends with, and told of it afterwards.
    """
    started = time.perf_counter()
    stage = run.stream.stages[run.stage_index]
    run.enter(run.stage_index)
    run.epoch = run.step = 0
    run.training_ids = training_ids(run)
    begin_stage(run)
    found = shared.find(run) if shared is not None and kept is None else None
    if found is None:
        cost = _optimise(run, reporter, kept, started)
        if shared is not None and kept is None:
            shared.keep(run, trained_state(run, {**asdict(cost), "train_seconds": time.perf_counter() - started}))
    else:
        take_over(run, found)
        started, cost = time.perf_counter(), StageCost(**{**found["cost"], "reused_from": found["run"]})
    for strategy in run.strategies:
        strategy.after_stage(run, stage)
    run.last_trained = run.stage_index
    cost.train_seconds += time.perf_counter() - started
    return cost


def begin_stage(run: Run) -> None:
    """Lets the model and the strategies know of the stage `run.stage_index` and its `training_ids`; mutates the run."""
    stage = run.stream.stages[run.stage_index]
    run.tasks.begin(run.stage_index, run.last_trained)
    run.grow()
    for strategy in run.strategies:
        model = strategy.before_stage(run, stage)
        if model is not None:
            run.backbone.model = model  # type: ignore[assignment]
    run.backbone.train_mode(run.config.finetuning.mode)


def training_ids(run: Run) -> npt.NDArray[np.int64]:
    """Returns the rows of this stage: a strategy's own choice, else what the regime says."""
    import numpy as np

    stage = run.stream.stages[run.stage_index]
    for strategy in run.strategies:
        chosen = strategy.training_data(run, stage)
        if chosen is not None:
            return chosen
    everything = any(strategy.regime != "sequential" for strategy in run.strategies)
    first = 0 if everything else run.stage_index
    return np.concatenate([run.split_rows["train"].ids(j) for j in range(first, run.stage_index + 1)])


def _optimise(run: Run, reporter: Reporter, kept: Mapping[str, Any] | None, started: float) -> StageCost:
    work = Work(run, num_steps(run.config, [len(ids) for ids in run.by_task(run.training_ids)]))
    if kept is not None:
        work.load_state_dict(kept)
    lengths = run.split_rows["train"].lengths(run.training_ids)
    patience = run.config.training.patience
    while run.step < work.num_steps:
        for micro_batches in steps_of_epoch(run, lengths, work.epoch_step):
            work.take(micro_batches)
            values = work.step.read() if run.logging else {}
            reporter.training(run.step, work.num_steps, run.epoch, sum(map(len, micro_batches)), values)
            reporter.keep(run.step, lambda: work.state_dict(time.perf_counter() - started))
            if run.step == work.num_steps:
                break
        run.epoch, work.epoch_step = run.epoch + 1, 0
        if patience and work.best.stops(patience, reporter):
            break
    if patience:
        work.best.restore()
    bad = [name for name, tensor in run.trainable().items() if not tensor.isfinite().all()]
    if bad:
        raise not_finite(run, f"{len(bad)} weights are not finite, {bad[0]} the first")
    work.step.cost.steps = run.step
    return work.step.cost


class Work:
    """What moves while a stage is trained: weights, optimiser, schedule, early stopping, sums, place in the epoch."""

    def __init__(self, run: Run, num_steps: int) -> None:
        from accelerate.optimizer import AcceleratedOptimizer

        training = run.config.training
        parameters = run.trainable()
        head_names = [name for name, _ in run.backbone.head_parameters()]
        self.run, self.num_steps, self.epoch_step = run, num_steps, 0
        self.bare = make_optimizer(parameters, head_names, training)
        self.scheduler = make_scheduler(self.bare, num_steps, training)
        # Not `prepare_optimizer`, which keeps every stage's optimiser for good. After the scheduler, which wraps
        # `step`: under fp16 accelerate puts back the `step` that it found.
        self.optimizer = AcceleratedOptimizer(self.bare, device_placement=False, scaler=run.accelerator.scaler)
        self.step = Step(run, self.optimizer, list(parameters.values()))
        self.best = BestWeights(run)

    def take(self, micro_batches: list[npt.NDArray[np.int64]]) -> None:
        """Takes one optimiser step and moves schedule and counters on."""
        run = self.run
        run.learning_rate = float(self.scheduler.get_last_lr()[0])
        run.logging = (run.step + 1) % run.config.tracking.log_every == 0 or run.step + 1 == self.num_steps
        self.step.take(micro_batches)
        if not self.optimizer.step_was_skipped:  # fp16 skips a step whose gradient overflowed
            self.scheduler.step()
        run.step += 1
        self.epoch_step += 1

    def state_dict(self, seconds: float) -> dict[str, Any]:
        """Returns everything that the next step depends on, tensors and plain values; `seconds` were spent so far.

        Raises:
            TrainingError: a loss is not finite: going on from here would be of no use.
        """
        self.step.check()
        scaler = self.run.accelerator.scaler
        return {
            "place": {"epoch": self.run.epoch, "step": self.run.step, "epoch_step": self.epoch_step},
            "weights": changing_tensors(self.run),
            "optimizer": self.bare.state_dict()["state"],
            "learning_rates": [group["lr"] for group in self.bare.param_groups],
            "scheduler": self.scheduler.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
            "strategies": {str(i): strategy.state_dict() for i, strategy in enumerate(self.run.strategies)},
            "best": self.best.state_dict(),
            "meter": self.step.meter.state_dict(),
            "cost": {**asdict(self.step.cost), "train_seconds": seconds},
            "parts": self.step.parts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        import torch

        run, place = self.run, state["place"]
        run.epoch, run.step, self.epoch_step = place["epoch"], place["step"], place["epoch_step"]
        with torch.no_grad():
            for name, tensor in changing_tensors(run).items():
                tensor.copy_(state["weights"][name])
        moments = {int(index): values for index, values in state["optimizer"].items()}
        self.bare.load_state_dict({"state": moments, "param_groups": self.bare.state_dict()["param_groups"]})
        for group, rate in zip(self.bare.param_groups, state["learning_rates"], strict=True):
            group["lr"] = rate
        self.scheduler.load_state_dict(state["scheduler"])
        if run.accelerator.scaler is not None:
            run.accelerator.scaler.load_state_dict(state["scaler"])
        for i, strategy in enumerate(run.strategies):
            strategy.load_state_dict(state["strategies"][str(i)])
        self.best.load_state_dict(state["best"])
        self.step.meter.load_state_dict(state["meter"], run.device)
        self.step.cost = StageCost(**state["cost"])
        self.step.parts = state["parts"]


def changing_tensors(run: Run) -> dict[str, torch.Tensor]:
    """Returns what training can change of the model: trainable parameters and floating-point buffers, by name."""
    buffers = {name: buffer for name, buffer in run.model.named_buffers() if buffer.is_floating_point()}
    return {**run.trainable(), **buffers}


def changing_strategies(run: Run) -> list[tuple[Strategy, Mapping[str, Any]]]:
    """Returns the strategies that can change what training this stage computes, each with its signature."""
    found = [(strategy, strategy.training_signature(run.stage_index)) for strategy in run.strategies]
    return [(strategy, signature) for strategy, signature in found if signature is not None]


def trained_state(run: Run, cost: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what training the present stage has changed: weights, strategies' states, place, cost."""
    return {
        "weights": changing_tensors(run),
        "strategies": [strategy.state_dict() for strategy, _ in changing_strategies(run)],
        "place": {"epoch": run.epoch, "step": run.step},
        "cost": cost,
    }


def take_over(run: Run, state: Mapping[str, Any]) -> None:
    """Leaves the run as training this stage would: restores what `trained_state` gave."""
    import torch

    with torch.no_grad():
        for name, tensor in changing_tensors(run).items():
            tensor.copy_(state["weights"][name])
    changed = changing_strategies(run)
    for (strategy, _), kept in zip(changed, state["strategies"], strict=True):
        strategy.load_state_dict(kept)
    run.epoch, run.step = state["place"]["epoch"], state["place"]["step"]


def num_steps(config: Config, task_rows: Sequence[int]) -> int:
    """Returns the optimiser steps of a stage, early stopping left out; `task_rows`: rows of every task in training."""
    training = config.training
    steps = training.steps or training.epochs * steps_per_epoch(config, task_rows)
    return min(steps, LIMITED_STEPS) if config.limit else steps


def steps_per_epoch(config: Config, task_rows: Sequence[int]) -> int:
    """Returns the optimiser steps of one pass over so many rows of every task; a micro-batch holds rows of one."""
    batches = sum(math.ceil(rows / config.training.batch_size) for rows in task_rows)
    return math.ceil(batches / config.training.accumulation)


def steps_of_epoch(run: Run, lengths: npt.NDArray[np.int32], first: int = 0) -> Iterator[list[npt.NDArray[np.int64]]]:
    """Yields the row ids of every micro-batch, step by step from step `first` of the epoch.

    The order is addressed by (seed, stage, epoch).
    """
    training = run.config.training
    tasks = run.tasks.codes(run.training_ids) if len(run.tasks) > 1 else None
    batches = training_batches(lengths, training.batch_size, run.seed, run.stage_index, run.epoch, tasks)
    for start in range(first * training.accumulation, len(batches), training.accumulation):
        yield [run.training_ids[positions] for positions in batches[start : start + training.accumulation]]


class BestWeights:
    """Early stopping: the weights with the best score on the validation rows of the stage's own columns."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.score = -math.inf
        self.waited = 0
        self.values: dict[str, torch.Tensor] = {}

    def stops(self, patience: int, reporter: Reporter) -> bool:
        """Scores the model; returns whether `patience` epochs have passed without a better score."""
        import torch

        score = _validation_score(self.run)
        reporter.epoch(self.run.epoch, {"train/validation_score": score})
        if score > self.score:
            self.score, self.waited = score, 0
            with torch.no_grad():
                self.values = {n: t.detach().clone() for n, t in changing_tensors(self.run).items()}
        else:
            self.waited += 1
        return self.waited >= patience

    def restore(self) -> None:
        """Puts the best weights back."""
        import torch

        with torch.no_grad():
            for name, tensor in changing_tensors(self.run).items():
                tensor.copy_(self.values[name])

    def state_dict(self) -> dict[str, Any]:
        """Returns the best score, the epochs waited since, and the weights that gave it."""
        return {"score": repr(self.score), "waited": self.waited, "values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.score, self.waited = float(state["score"]), int(state["waited"])
        self.values = {name: tensor.to(self.run.device) for name, tensor in state["values"].items()}


def columns_in_training(run: Run) -> list[int]:
    """Returns the columns that the stages of the rows in training train for."""
    import numpy as np

    from cl_mlm.stream import unpack_row_ids

    stages = {*np.unique(unpack_row_ids(run.training_ids)[0]).tolist()}
    return [j for j, column in enumerate(run.stream.columns) if not stages.isdisjoint(column.trained_in)]


def _validation_score(run: Run) -> float:
    """Returns the mean score over the validation rows of the columns that the stages in training train for."""
    import numpy as np

    columns = columns_in_training(run)
    scores = evaluate(run, "validation", columns).scores
    return float(np.mean([scores[j]["score"] for j in columns]))
