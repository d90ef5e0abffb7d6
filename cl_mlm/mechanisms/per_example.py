"""Per-example squared gradients, for Fisher information.

The weight gradient of a layer for one row follows from the row's input to the layer and from the gradient of the row's
output. So one backward pass over a batch is enough for all its rows: a tap on each layer's output computes the rows'
gradients, squares them and adds them up. Autograd computes no weight gradients, which saves about as much as the taps
cost. `row_taps` says where the taps sit, `row_rules` how a layer's gradients follow, `row_parts` how they are added.

Axes: R rows, K losses per row.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Literal

import torch

from cl_mlm.mechanisms.graph_uses import walk
from cl_mlm.mechanisms.row_parts import add_powers
from cl_mlm.mechanisms.row_taps import Taps
from cl_mlm.tokens.windows import by_row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from cl_mlm.mechanisms.row_parts import Part
    from cl_mlm.mechanisms.row_taps import Use

    Losses = Tensor | tuple[Tensor, Tensor]

logger = logging.getLogger(__name__)

MOST_TOLD = 5  # slow modules that a line of the log names


class SquaredGradients:
    """Sums over rows of squared per-row gradients; divided by `rows` they are the diagonal of the Fisher information.

    The caller puts the model in evaluation mode: rows must be independent, without dropout and gradient checkpointing.
    Where a row is several inputs of the model (windows), their gradients are added before they are squared: the row is
    one observation. So are those of a parameter's uses: a layer may be called several times, and a table may be the
    weight of the output layer, too.

    Taps cover `nn.Linear`, `Conv1D`, tables (`nn.Embedding` and what is made of it), T5's and MPNet's relative biases,
    `nn.LayerNorm`, RMS norms, and peft's LoRA, DoRA and IA3. If a requested parameter is used in another way, every row
    takes a backward pass of its own (the slow way). The result is the same, but the cost grows with the square of the
    rows in a batch: use small batches.

    Args:
        model: that the losses are computed with.
        parameters: whose gradients are asked for, by name.
        power: 2; or 1 for sums of absolute values, as Memory Aware Synapses takes them (Aljundi et al. 2018,
            arXiv:1711.09601, equation 2).
        told: names of slow modules that the log has named before and names no more; mutated. None: none.

    Attributes:
        sums: sum of squares of every requested parameter, float32, on the parameter's device; zero where frozen.
        rows: number of rows added so far.
        slow_modules: names of the modules, or of the parameters outside any known layer, that force the slow way.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        *,
        power: Literal[1, 2] = 2,
        told: set[str] | None = None,
    ) -> None:
        self.sums = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in parameters.items()}
        self.rows = 0
        self.slow_modules: list[str] = []
        self._power = power
        self._trainable = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self._names: dict[int, list[str]] = defaultdict(list)
        for name, parameter in self._trainable.items():
            self._names[id(parameter)].append(name)
        self._taps = Taps(model, self._trainable)
        self._told = set() if told is None else told
        self._note_slow(self._taps.untapped)
        self._input_row: Tensor | None = None
        self._verified = False

    @property
    def exact_hooks(self) -> bool:
        """Whether one backward pass serves all rows of a batch; False: every row takes one, which is slow."""
        return not self.slow_modules

    def add(self, loss_per_row: Callable[[], Losses], input_row: Tensor | None = None) -> bool:
        """Adds the squared gradients of one batch; every `.grad` is left exactly as it was.

        Args:
            loss_per_row: runs the forward pass and returns the losses of every row in nats, (R,) or (K, R); or
                `(losses, weights)`, where weights of the same shape, not negative, are factors on the *squared*
                gradients (on the absolute ones for power 1). For the exact Fisher information K is the number of
                classes, the losses are negative log-probabilities and the weights probabilities. It is called a second
                time where the first call shows that only the slow way is right.
            input_row: row of every input, int64 (inputs,), ascending, as in `Batch`; None: a row is one input.

        Returns:
            True if taps served the batch, False if every row took a backward pass.

        Raises:
            ValueError: losses or weights have a wrong shape, a weight is negative, the losses do not depend on the
                parameters, or gradient checkpointing is on.
        """
        self._input_row = input_row
        try:
            with torch.enable_grad():
                num_rows = self._add_at_once(loss_per_row) if self.exact_hooks else None
                if num_rows is None:
                    num_rows = self._add_row_by_row(loss_per_row)
        finally:
            self._taps.forget()
        self.rows += num_rows
        return self.exact_hooks

    def _add_at_once(self, loss_per_row: Callable[[], Losses]) -> int | None:
        """Adds the powers of a batch and returns its rows; None: only the slow way is right, and nothing was added."""
        with self._taps.recording():
            losses, factors = self._losses_and_factors(loss_per_row())
        num_uses = self._count_uses(losses)
        self._check_row_axis(losses)
        if not self.exact_hooks:
            return None
        self._add_tapped(losses, factors, num_uses)
        return losses.shape[1]

    def _count_uses(self, losses: Tensor) -> Counter[int]:
        """Returns how many uses of each parameter the losses depend on, by its `id`.

        Notes parameters that are read elsewhere, too, and outputs that have no axis of inputs.
        """
        reads, nodes = walk(losses)
        inputs = losses.shape[1] if self._input_row is None else len(self._input_row)
        num_uses: Counter[int] = Counter()
        paths: dict[int, str] = {}
        slow: dict[str, str] = {}
        for use in self._taps.live(nodes):
            num_uses.update(use.tap.parameters.values())
            paths |= dict.fromkeys(use.tap.parameters.values(), use.tap.path)
            if use.leading != inputs:
                slow[use.tap.path] = f"output of {use.leading} rows, inputs of {inputs}"
        for parameter, names in self._names.items():
            if reads[parameter] != num_uses[parameter]:
                slow.setdefault(paths.get(parameter, names[0]), "used without being called, or in an unknown way")
        self._note_slow(slow)
        return num_uses

    def _check_row_axis(self, losses: Tensor) -> None:
        """Notes taps whose first axis has the right size but is not the rows: a row's loss must reach that row alone.

        One check is enough: such an axis fails the check of sizes in a later batch of another shape.
        """
        if self._verified or not self.exact_hooks or losses.shape[1] == 1:
            return
        row = losses.shape[1] // 2  # not the first or last, where poolers take their token

        slow: dict[str, str] = {}

        def probe(use: Use, gradient: Tensor, _input: Tensor | None) -> None:
            gradient = by_row(gradient, self._input_row)
            if gradient.count_nonzero() != gradient[row].count_nonzero():
                slow[use.tap.path] = "its first axis is not the rows, or it mixes them"

        self._taps.receiver = probe
        torch.autograd.grad(losses[0, row], self._taps.anchor, retain_graph=True, allow_unused=True)
        self._taps.receiver = None
        self._note_slow(slow)
        self._verified = True

    def _add_tapped(self, losses: Tensor, factors: Tensor, num_uses: Counter[int]) -> None:
        """Adds the powers of a batch by one backward pass for each of the K losses of a row.

        The parts of a parameter wait until those of all its uses are there.
        """
        waiting: dict[int, list[Part]] = defaultdict(list)

        def collect(use: Use, gradient: Tensor, layer_input: Tensor | None) -> None:
            parts = use.tap.rule(use.tap.module, layer_input, gradient, use.options)
            for local_name, parameter in use.tap.parameters.items():
                waiting[parameter].append(parts[local_name].of_rows(self._input_row))
                if len(waiting[parameter]) == num_uses[parameter]:
                    self._add_parts(parameter, waiting.pop(parameter))

        self._taps.receiver = collect
        for k in range(len(losses)):
            # Only the gradient of the anchor, a leaf on which every tap depends, is asked for: autograd then visits
            # the taps, but computes no weight gradient.
            is_last = k + 1 == len(losses)
            torch.autograd.grad(losses[k], self._taps.anchor, factors[k], retain_graph=not is_last, allow_unused=True)
            for parameter in list(waiting):  # this loss does not depend on all uses
                self._add_parts(parameter, waiting.pop(parameter))

    def _add_parts(self, parameter: int, parts: list[Part]) -> None:
        for name in self._names[parameter]:
            add_powers(self.sums[name], parts, self._power)

    def _add_row_by_row(self, loss_per_row: Callable[[], Losses]) -> int:
        """Adds the powers of a batch by one backward pass for each loss of each row; returns its rows."""
        # The forward pass is run without taps: a tap may have expanded an output that was no table of positions, and
        # so changed the losses.
        all_losses, all_factors = self._losses_and_factors(loss_per_row())
        walk(all_losses)
        parameters = list(self._trainable.values())
        losses, factors = all_losses.flatten(), all_factors.flatten()
        for i in range(len(losses)):
            is_last = i + 1 == len(losses)
            gradients = torch.autograd.grad(
                losses[i], parameters, factors[i], retain_graph=not is_last, allow_unused=True
            )
            for name, gradient in zip(self._trainable, gradients, strict=True):
                if gradient is not None:
                    self.sums[name].add_(gradient.to_dense().float().abs().pow_(self._power))
        return all_losses.shape[1]

    def _losses_and_factors(self, result: Losses) -> tuple[Tensor, Tensor]:
        """Returns losses and the factors on their gradients, (K, R) each: the powers are then scaled by the weights."""
        losses, weights = result if isinstance(result, tuple) else (result, result.detach().new_ones(result.shape))
        if losses.dim() not in {1, 2} or losses.numel() == 0:
            raise ValueError(f"loss_per_row: losses must be (rows,) or (losses, rows), got {tuple(losses.shape)}")
        if weights.shape != losses.shape:
            shapes = (tuple(losses.shape), tuple(weights.shape))
            raise ValueError(f"loss_per_row: weights must be {shapes[0]} as losses, got {shapes[1]}")
        if bool((weights < 0).any()):
            raise ValueError(f"loss_per_row: weights must be >= 0, got {float(weights.min())}")
        factors = weights.detach().to(losses.dtype)
        factors = factors.sqrt() if self._power == 2 else factors
        return losses.reshape(-1, losses.shape[-1]), factors.reshape(-1, losses.shape[-1])

    def _note_slow(self, reasons: Mapping[str, str]) -> None:
        """Notes what forces the slow way, each module once; what is new to the log is told in one line."""
        new = [f"{name}: {reason}" for name, reason in reasons.items() if name not in self._told]
        if new:
            more = f"; and {len(new) - MOST_TOLD} more" if len(new) > MOST_TOLD else ""
            logger.warning(
                "Per-example gradients need one backward pass per row, which is slow: %s%s",
                *("; ".join(new[:MOST_TOLD]), more),
            )
        self._told.update(reasons)
        self.slow_modules += [name for name in reasons if name not in self.slow_modules]
