"""The sequential fine-tuning loop, readable top to bottom: stages, epochs, steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cl_mlm.batching import training_batches
from cl_mlm.evaluation import evaluate
from cl_mlm.objective import Batch
from cl_mlm.optimisation import make_optimizer, make_scheduler
from cl_mlm.randomness import seed_everything
from cl_mlm.view import Run, mean_loss

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


@dataclass
class StageCost:
    """What training one stage took.

    Attributes:
        train_seconds: wall-clock time, strategies' work before and after the stage included.
        train_examples: rows that went forward and backward, memory rows included.
        train_tokens: tokens of those rows, padding left out.
        flags: what a reader must know: a loss that was not finite.
    """

    train_seconds: float = 0.0
    train_examples: int = 0
    train_tokens: int = 0
    steps: int = 0
    flags: list[str] = field(default_factory=list)


class Meter:
    """Sums on the device; read, and so synchronised, only when something is logged."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: torch.Tensor) -> None:
        """Adds one value, a scalar tensor."""
        value = value.detach().float()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Returns the mean of everything added since the last reading, and starts anew."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def train_stage(run: Run, reporter: Reporter) -> StageCost:
    """Trains one stage, `run.stage_index`, on the rows that the strategies' regime gives; mutates the model."""
    started = time.perf_counter()
    stage = run.stream.stages[run.stage_index]
    run.epoch = run.step = 0
    run.training_ids = _training_ids(run)
    run.labels.begin(run.stage_index, run.last_trained)
    run.backbone.grow(run.labels.seen, run.seed, run.stage_index)
    for strategy in run.strategies:
        model = strategy.before_stage(run, stage)
        if model is not None:
            run.backbone.model = model  # type: ignore[assignment]
    cost = _optimise(run, reporter)
    for strategy in run.strategies:
        strategy.after_stage(run, stage)
    run.last_trained = run.stage_index
    cost.train_seconds = time.perf_counter() - started
    return cost


def _training_ids(run: Run) -> npt.NDArray[np.int64]:
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


def _optimise(run: Run, reporter: Reporter) -> StageCost:
    from accelerate.optimizer import AcceleratedOptimizer

    training = run.config.training
    lengths = run.split_rows["train"].lengths(run.training_ids)
    num_steps = _num_steps(run)
    parameters = run.trainable()
    head_names = [name for name, _ in run.backbone.head_parameters()]
    bare = make_optimizer(parameters, head_names, training)
    scheduler = make_scheduler(bare, num_steps, training)
    # Not `prepare_optimizer`, which keeps every stage's optimiser for good. After the scheduler, which wraps `step`:
    # under fp16 accelerate puts back the `step` that it found.
    optimizer = AcceleratedOptimizer(bare, device_placement=False, scaler=run.accelerator.scaler)
    step = Step(run, optimizer, list(parameters.values()))
    best = BestWeights(run) if training.patience else None
    run.backbone.train_mode(run.config.finetuning.mode)
    while run.step < num_steps:
        for micro_batches in _steps_of_epoch(run, lengths):
            run.learning_rate = float(scheduler.get_last_lr()[0])
            run.logging = (run.step + 1) % run.config.tracking.log_every == 0 or run.step + 1 == num_steps
            step.take(micro_batches)
            if not optimizer.step_was_skipped:  # fp16 skips a step whose gradient overflowed
                scheduler.step()
            run.step += 1
            values = step.read() if run.logging else {}
            reporter.training(run.step, num_steps, run.epoch, sum(map(len, micro_batches)), values)
            if run.step == num_steps:
                break
        run.epoch += 1
        if best is not None and best.stops(training.patience or 0, reporter):
            break
    if best is not None:
        best.restore()
    step.cost.steps = run.step
    return step.cost


def _num_steps(run: Run) -> int:
    training = run.config.training
    rows = training.batch_size * training.accumulation
    steps = training.steps or training.epochs * math.ceil(len(run.training_ids) / rows)
    return min(steps, LIMITED_STEPS) if run.config.limit else steps


def _steps_of_epoch(run: Run, lengths: npt.NDArray[np.int32]) -> Iterator[list[npt.NDArray[np.int64]]]:
    """Yields the row ids of every micro-batch, step by step; the order is addressed by (seed, stage, epoch)."""
    training = run.config.training
    batches = training_batches(lengths, training.batch_size, run.seed, run.stage_index, run.epoch)
    for start in range(0, len(batches), training.accumulation):
        yield [run.training_ids[positions] for positions in batches[start : start + training.accumulation]]


class Step:
    """One optimiser step: own rows, memory rows, gradient adjustments, clipping, update."""

    def __init__(self, run: Run, optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
        self.run, self.optimizer, self.parameters = run, optimizer, parameters
        self.cost = StageCost()
        self.meter = Meter()
        self._by_hook = {
            hook: [s for s in run.strategies if s.overrides(hook)]
            for hook in ("memory", "loss_terms", "adjust_gradients", "after_step")
        }

    def take(self, micro_batches: list[npt.NDArray[np.int64]]) -> None:
        """Takes one step over the rows named in `micro_batches`."""
        from torch.nn.utils import clip_grad_norm_

        run, accelerator = self.run, self.run.accelerator
        batches = [run.rows(ids) for ids in micro_batches]
        total = sum(float(batch.count.sum()) for batch in batches) if len(batches) > 1 else None
        for index, batch in enumerate(batches):
            self._backward(batch, 1 / len(batches), ("own", index), total)
        for index, batch in enumerate(batches):
            for strategy in self._by_hook["memory"]:
                for number, (weight, memory) in enumerate(strategy.memory(run, batch)):
                    address = ("memory", strategy.name, index, number)
                    self._backward(memory.with_origin("memory"), weight / len(batches), address)
        accelerator.unscale_gradients(self.optimizer)
        for strategy in self._by_hook["adjust_gradients"]:
            for name, value in strategy.adjust_gradients(run).items():
                self.meter.add(f"train/term/{name}", value)
        if run.config.training.clip is not None:
            # Not accelerate's clipping: it would unscale fp16 gradients a second time.
            clip_grad_norm_(self.parameters, run.config.training.clip)
        self.optimizer.step()
        for strategy in self._by_hook["after_step"]:
            strategy.after_step(run)
        self.optimizer.zero_grad()

    def _backward(
        self, batch: Batch, weight: float, address: tuple[str | int, ...], total: float | None = None
    ) -> None:
        """Adds the gradient of one micro-batch.

        Own rows: their summed loss over `total` items of the whole step, plus terms by their share of it. Memory rows:
        `weight` times their mean loss and terms.
        """
        run = self.run
        seed_everything(run.seed, "dropout", run.stage_index, run.epoch, run.step, *address)
        outputs = run.forward(batch)
        loss: torch.Tensor = mean_loss(run.task_loss(outputs, batch), batch, total)
        self.meter.add(f"train/loss/{batch.origin}", loss if total is None else loss / weight)
        loss = loss if total is not None else loss * weight
        for strategy in self._by_hook["loss_terms"]:
            for name, term in strategy.loss_terms(run, batch, outputs).items():
                loss = loss + term * weight
                self.meter.add(f"train/term/{name}", term)
        run.accelerator.backward(loss)
        self.cost.train_examples += len(batch)
        self.cost.train_tokens += batch.num_tokens

    def read(self) -> dict[str, float]:
        """Returns the means since the last reading; a loss that is not finite is flagged once."""
        values = {**self.meter.read(), "train/learning_rate": self.run.learning_rate}
        bad = sorted(name for name, value in values.items() if not math.isfinite(value))
        if bad and not self.cost.flags:
            self.cost.flags.append(f"loss not finite: {', '.join(bad)} at step {self.run.step}")
        return values


class BestWeights:
    """Early stopping: the weights with the best score on the stage's own validation rows."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.score = -math.inf
        self.waited = 0
        self.values: dict[str, torch.Tensor] = {}

    def stops(self, patience: int, reporter: Reporter) -> bool:
        """Scores the model; returns whether `patience` epochs have passed without a better score."""
        import torch

        score = _validation_score(self.run)
        reporter.epoch(self.run.epoch, {"validation/score": score})
        if score > self.score:
            self.score, self.waited = score, 0
            with torch.no_grad():
                self.values = {n: t.detach().clone() for n, t in self._state().items()}
        else:
            self.waited += 1
        return self.waited >= patience

    def restore(self) -> None:
        """Puts the best weights back."""
        import torch

        with torch.no_grad():
            for name, tensor in self._state().items():
                tensor.copy_(self.values[name])

    def _state(self) -> dict[str, torch.Tensor]:
        buffers = {name: buffer for name, buffer in self.run.model.named_buffers() if buffer.is_floating_point()}
        return {**self.run.trainable(), **buffers}


def _validation_score(run: Run) -> float:
    """Returns the mean score over the validation rows of the stages in training."""
    import numpy as np

    from cl_mlm.stream import unpack_row_ids

    stages, _ = unpack_row_ids(run.training_ids)
    columns = sorted({*np.unique(stages).tolist()})
    scores = evaluate(run, "validation", columns).scores
    return float(np.mean([scores[j]["score"] for j in columns]))
