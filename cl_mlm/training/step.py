"""One optimiser step: own rows, memory rows, gradient adjustments, clipping, update; and what it cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from cl_mlm.batch import Batch, mean_loss
from cl_mlm.errors import TrainingError
from cl_mlm.randomness import seed_everything, torch_generator
from cl_mlm.training import hook_rules, hooks
from cl_mlm.training.hardware import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from cl_mlm.strategy import Strategy
    from cl_mlm.training.run import Run


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

    def peek(self) -> dict[str, float]:
        """Returns the sums since the last reading."""
        return {name: float(total) for name, total in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Returns what was added since the last reading."""
        return {"sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restores what `state_dict` gave."""
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])


class Step:
    """One optimiser step: own rows, memory rows, gradient adjustments, clipping, update.

    Attributes:
        num_pieces: into how many forward passes a micro-batch is cut; doubled where memory does not suffice and
            `training.halve_on_oom` is set.
    """

    def __init__(self, run: Run, optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
        self.run, self.optimizer, self.parameters = run, optimizer, parameters
        self.meter = Meter()
        self.num_pieces = 1
        self._by_hook = {hook: [s for s in run.strategies if s.overrides(hook)] for hook in hook_rules.EVERY_STEP}
        self._by_hook["adjust_gradients"].sort(key=lambda strategy: strategy.projects)  # penalties come first

    def take(self, micro_batches: list[npt.NDArray[np.int64]]) -> None:
        """Takes one step over the rows named in `micro_batches`."""
        run, accelerator = self.run, self.run.network.accelerator
        batches = [run.data.rows(ids) for ids in micro_batches]
        while not self._gather(batches):
            self.optimizer.zero_grad()
            self.num_pieces *= 2
            run.cost.flags.append(
                f"out of memory at step {run.place.step + 1}: from there on each micro-batch is run in "
                f"{self.num_pieces} parts"
            )
        accelerator.unscale_gradients(self.optimizer)
        if run.network.backbone.is_shared:
            self._leave_untouched()
        for strategy in self._by_hook["observe_gradients"]:
            hooks.observe_gradients(run, strategy)
        for strategy in self._by_hook["adjust_gradients"]:
            for name, value in hooks.adjust_gradients(run, strategy).items():
                self.meter.add(f"train/term/{name}", value)
        if run.training.clip is not None:
            # Would unscale fp16 gradients a second time, were the optimiser one that the accelerator keeps.
            accelerator.clip_grad_norm_(self.parameters, run.training.clip)
        self.optimizer.step()
        for strategy in self._by_hook["after_step"]:
            hooks.after_step(run, strategy)
        self.optimizer.zero_grad()

    def _gather(self, batches: list[Batch]) -> bool:
        """Adds the gradients of the step's own rows and of memory rows; says whether memory sufficed.

        Own rows, all of one task, add their summed loss over the items of the whole step, and terms by their share of
        its rows. Memory rows add `weight` times their mean loss and terms, by the share of the micro-batch that they
        belong to.

        Raises:
            RuntimeError: out of memory, and cutting micro-batches is not allowed or not possible any more.
        """
        items = sum(float(batch.count.sum()) for batch in batches)
        rows = sum(map(len, batches))
        values: dict[str, torch.Tensor] = {}
        seen = list(batches)
        self.run.place.num_micro_batches = len(batches)
        self.run.place.micro_batch = 0
        for strategy in self._by_hook["before_step"]:
            hooks.before_step(self.run, strategy)
        try:
            for index, batch in enumerate(batches):
                self.run.place.micro_batch = index
                self._backward(batch, values, 1.0, items, rows, ("own", index))
            for index, batch in enumerate(batches):
                self.run.place.micro_batch = index
                for strategy in self._by_hook["memory"]:
                    for number, (weight, memory) in enumerate(hooks.memory(self.run, strategy, batch)):
                        count, share = float(memory.count.sum()), weight / len(batches)
                        seen.append(memory)
                        address = ("memory", strategy.name, index, number)
                        self._backward(memory.as_memory(strategy.name), values, share, count, len(memory), address)
        except (RuntimeError, MemoryError) as error:
            # Halving is left to the caller: as long as this block lasts, the traceback keeps the failed graph alive.
            possible = self.run.training.halve_on_oom and self.num_pieces < max(map(len, batches))
            if not (possible and is_out_of_memory(error)):
                raise
            return False
        for name, value in values.items():
            self.meter.add(name, value / (len(seen) - len(batches)) if name == "train/loss/memory" else value)
        self.run.cost.train_examples += sum(map(len, seen))
        self.run.cost.train_tokens += sum(batch.num_tokens for batch in seen)
        return True

    def _backward(
        self,
        batch: Batch,
        values: dict[str, torch.Tensor],
        weight: float,
        items: float,
        rows: int,
        address: tuple[str | int, ...],
    ) -> None:
        """Adds the gradient of one micro-batch: `weight` times its summed loss over `items`, and terms by row share."""
        run, place = self.run, self.run.place
        for strategy in self._by_hook["allowed_classes"]:
            allowed = hooks.allowed_classes(run, strategy, batch, address)
            if allowed is not None:
                batch = batch.with_allowed(allowed if batch.allowed is None else allowed & batch.allowed)
        batch = run.task_of(batch).objective.varied(
            batch, torch_generator(place.seed, "varied", place.stage_index, place.epoch, place.step, *address)
        )
        forward = run.network.forward_packed if run.training.pack else run.network.forward
        for number, piece in enumerate(batch.pieces(self.num_pieces)):
            of_piece = (*address, number) if self.num_pieces > 1 else address
            seed_everything(place.seed, "dropout", place.stage_index, place.epoch, place.step, *of_piece)
            outputs = forward(piece)
            loss: torch.Tensor = mean_loss(run.task_loss(outputs, piece), piece, items)
            _add(values, f"train/loss/{piece.origin}", loss)
            for strategy in self._by_hook["loss_terms"]:
                for name, term in hooks.loss_terms(run, strategy, piece, outputs, of_piece).items():
                    share = term * (len(piece) / rows)
                    loss = loss + share
                    _add(values, f"train/term/{name}", share)
            run.network.accelerator.backward(loss * weight)

    def _leave_untouched(self) -> None:
        """With several heads, drops the all-zero gradients of parameters not yet updated in this stage.

        A head that only strategies of weight 0 reach has such gradients: with them, weight decay would move a head that
        nothing trains, and clipping would count it.
        """
        state = self.optimizer.state
        new = [p for p in self.parameters if p.grad is not None and not state.get(p)]
        moved = _nonzero([p.grad for p in new])
        for parameter, has_moved in zip(new, moved, strict=True):
            if not has_moved:
                parameter.grad = None

    def check(self) -> None:
        """Refuses to go on from sums that are not finite.

        Raises:
            TrainingError: naming what is not finite.
        """
        self._refuse_bad(self.meter.peek())

    def read(self) -> dict[str, float]:
        """Returns the means since the last reading.

        Raises:
            TrainingError: one is not finite.
        """
        values = self.meter.read()
        self._refuse_bad(values)
        return {**values, "train/learning_rate": self.run.place.learning_rate}

    def _refuse_bad(self, values: Mapping[str, float]) -> None:
        bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise not_finite(self.run, ", ".join(bad))


def not_finite(run: Run, what: str) -> TrainingError:
    """Returns the error for a loss or weights that are not finite: where it happened and what may help."""
    training, place = run.training, run.place
    advice = [f"{run.training_key('learning_rate')} lower than {training.learning_rate:g}"]
    if training.clip is None:
        advice.append("training.clip=1.0 (now null)")
    if training.precision != "fp32":
        weights = "model.dtype=float32 with " if run.config.model.dtype != "float32" else ""
        advice.append(f"{weights}training.precision=fp32 (now {training.precision})")
    advice += [f"a smaller weight of {strategy.name}" for strategy in run.strategies if hasattr(strategy, "weight")]
    acting = [
        f"{', '.join(named)} of strategy {strategy.name}" for strategy in run.strategies if (named := _acts(strategy))
    ]
    look = f"Worth a look: {'; '.join(acting)}. " if acting else ""
    return TrainingError(
        f"stage {run.stage.name!r}, step {place.step}, epoch {place.epoch}: {what}; training stopped. "
        f"Worth trying: {', '.join(advice)}. {look}What was measured before is kept, and so are the checkpoints before"
    )


def _acts(strategy: Strategy) -> list[str]:
    """Returns the hooks of a strategy that take part in losses, gradients and weights while steps are taken.

    Where `allowed_classes` leaves a row no class, for one, its loss is not a number.
    """
    parts = ("allowed_classes", "loss_terms", "adjust_gradients", "after_step")
    return [hook for hook in parts if strategy.overrides(hook)]


def _nonzero(gradients: list[Any]) -> list[bool]:
    """Returns which gradients are not all zero; waits for the device once."""
    if not gradients:
        return []
    are_nonzero: list[bool] = torch.stack([gradient.any() for gradient in gradients]).tolist()
    return are_nonzero


def _add(values: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    value = value.detach().float()
    values[name] = values[name] + value if name in values else value
