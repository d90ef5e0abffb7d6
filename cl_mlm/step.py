"""One optimiser step: own rows, memory rows, gradient adjustments, clipping, update; and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cl_mlm.objective import Batch
from cl_mlm.randomness import seed_everything
from cl_mlm.view import Run, mean_loss

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch


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

    def state_dict(self) -> dict[str, Any]:
        """Returns what was added since the last reading."""
        return {"sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restores what `state_dict` gave."""
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])


class Step:
    """One optimiser step: own rows, memory rows, gradient adjustments, clipping, update."""

    def __init__(self, run: Run, optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
        self.run, self.optimizer, self.parameters = run, optimizer, parameters
        self.cost = StageCost()
        self.meter = Meter()
        self._by_hook = {
            hook: [s for s in run.strategies if s.overrides(hook)]
            for hook in ("allowed_classes", "memory", "loss_terms", "adjust_gradients", "after_step")
        }

    def take(self, micro_batches: list[npt.NDArray[np.int64]]) -> None:
        """Takes one step over the rows named in `micro_batches`."""
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
            # Would unscale fp16 gradients a second time, were the optimiser one that the accelerator keeps.
            accelerator.clip_grad_norm_(self.parameters, run.config.training.clip)
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
        for strategy in self._by_hook["allowed_classes"]:
            allowed = strategy.allowed_classes(run, batch)
            if allowed is not None:
                batch = batch.with_allowed(allowed if batch.allowed is None else allowed & batch.allowed)
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
