"""Per-example squared gradients, for Fisher information.

The weight gradient of a layer for one row follows from the row's input to the layer and from the gradient of the row's
output. So one backward pass over a batch is enough for all its rows: a tap on each layer's output computes the rows'
gradients, squares them and adds them up. Autograd computes no weight gradients, which saves about as much as the taps
cost.

Axes: R rows, T tokens, I and O inputs and outputs of a layer, H its last axis, V vocabulary, K losses per row.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import layer_norm
from typing_extensions import override

from cl_mlm.mechanisms.graph_uses import count_uses
from cl_mlm.tokens.windows import by_row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    Sums = Mapping[str, Tensor]
    Rule = Callable[[Any, Tensor | None, Tensor, Sums], None]
    Receive = Callable[[Tensor, Tensor | None], None]
    Losses = Tensor | tuple[Tensor, Tensor]

logger = logging.getLogger(__name__)

# Work space for per-row weight gradients. On a CPU it must fit a core's cache: beyond it, the work is 8 times slower.
CPU_WORK_BYTES = 1 << 20
DEVICE_WORK_BYTES = 64 << 20


class SquaredGradients:
    """Sums over rows of squared per-row gradients; divided by `rows` they are the diagonal of the Fisher information.

    The caller puts the model in evaluation mode: rows must be independent, without dropout and gradient checkpointing.
    Where a row is several inputs of the model (windows), their gradients are added before they are squared: the row is
    one observation.

    Taps cover `nn.Linear`, `Conv1D`, `nn.Embedding`, `nn.LayerNorm` and RMS norms, each called at most once in a
    forward pass. If a requested parameter lies elsewhere, or is shared, every row takes a backward pass of its own (the
    slow way). The result is the same, but the cost grows with the square of the rows in a batch: use small batches.

    Attributes:
        sums: sum of squares of every requested parameter, float32, on the parameter's device; zero where frozen.
        rows: number of rows added so far.
        slow_modules: names of the modules, or of the parameters outside any known layer, that force the slow way.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self.sums = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in parameters.items()}
        self.rows = 0
        self._model = model
        self._trainable = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self._anchor = torch.zeros((), requires_grad=True)
        self.slow_modules: list[str] = []
        self._taps = self._place_taps()
        self._batch_rows: int | None = None
        self._input_row: Tensor | None = None
        self._receiver: Callable[[_Tap, Tensor, Tensor | None], None] | None = None
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
                gradients. For the exact Fisher information K is the number of classes, the losses are negative
                log-probabilities and the weights probabilities. It is called a second time where the first call shows
                that only the slow way is right.
            input_row: row of every input, int64 (inputs,), ascending, as in `Batch`; None: a row is one input.

        Returns:
            True if taps served the batch, False if every row took a backward pass.

        Raises:
            ValueError: losses or weights have a wrong shape, a weight is negative, the losses do not depend on the
                parameters, or gradient checkpointing is on.
        """
        self._input_row = input_row
        with torch.enable_grad():
            if self.exact_hooks:
                with self._hooks():
                    losses, roots = _losses_and_roots(loss_per_row())
                self._check_taps(losses)
                self._check_row_axis(losses)
            if self.exact_hooks:
                self._add_hooked(losses, roots)
            else:
                # Run again without taps: a tap may have expanded an output that was no table of positions, and so
                # changed the losses.
                losses, roots = _losses_and_roots(loss_per_row())
                count_uses(losses)
                self._add_row_by_row(losses, roots)
        self.rows += losses.shape[1]
        return self.exact_hooks

    def _place_taps(self) -> list[_Tap]:
        """Returns a tap for every module that owns requested parameters; notes what cannot be tapped."""
        owners: dict[int, list[tuple[str, nn.Module, str]]] = defaultdict(list)
        for path, module in self._model.named_modules():
            for local_name, parameter in module.named_parameters(recurse=False):
                owners[id(parameter)].append((path, module, local_name))
        num_names = Counter(id(parameter) for parameter in self._trainable.values())
        taps: dict[str, _Tap] = {}
        for name, parameter in self._trainable.items():
            owners_of_this = owners[id(parameter)]
            if len(owners_of_this) != 1 or num_names[id(parameter)] > 1:
                self._note_slow(name, "shared by several modules or outside the model")
                continue
            path, module, local_name = owners_of_this[0]
            rule = _rule(module)
            if rule is None or local_name not in {"weight", "bias"}:
                self._note_slow(name if path == "" or rule else path, f"no rule for {type(module).__name__}")
                continue
            taps.setdefault(path, _Tap(path, module, rule, {})).names[local_name] = name
        return list(taps.values())

    def _hooks(self) -> ExitStack:
        """Returns a context in which modules are tapped."""
        self._batch_rows = None
        stack = ExitStack()
        stack.callback(self._model.register_forward_pre_hook(self._note_batch_rows, with_kwargs=True).remove)
        for tap in self._taps:
            tap.calls, tap.leading = 0, None
            # First of all hooks: another hook may change the output, and the rule needs that of the layer.
            stack.callback(tap.module.register_forward_hook(partial(self._tap_output, tap), prepend=True).remove)
        return stack

    def _note_batch_rows(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the number of rows that the model is called with; `_tap_output` expands position embeddings to it."""
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and value.dim())
        self._batch_rows = next((len(tensor) for tensor in tensors), None)

    def _tap_output(self, tap: _Tap, _module: nn.Module, args: tuple[Any, ...], output: object) -> object:
        """Forward hook of a tapped module; returns the output with the tap on it."""
        tap.calls += 1
        if len(args) != 1 or not isinstance(output, torch.Tensor) or not torch.is_grad_enabled():
            self._note_slow(tap.path, "called in an unknown way")
            return output
        if isinstance(tap.module, torch.nn.Embedding) and output.dim() > 2 and len(output) == 1 and self._batch_rows:
            # Position embeddings (1, T, H) are broadcast over the rows, so their gradient would be the sum over rows.
            # Expanding them keeps the rows apart.
            output = output.expand(self._batch_rows, *output.shape[1:])
        tap.leading = output.shape[0]
        layer_input = args[0].detach() if "weight" in tap.names else None
        return _TapFunction.apply(output, self._anchor, partial(self._receive, tap), layer_input)

    def _receive(self, tap: _Tap, gradient: Tensor, layer_input: Tensor | None) -> None:
        """Called in the backward pass with the gradient of a tapped output."""
        if self._receiver is not None:
            # The inputs of one row are put end to end: for the rules they are more tokens of the row.
            layer_input = None if layer_input is None else by_row(layer_input, self._input_row)
            self._receiver(tap, by_row(gradient, self._input_row), layer_input)

    def _check_taps(self, losses: Tensor) -> None:
        """Notes taps that miss a part of their parameters' gradient, or whose output has no row axis."""
        uses, rows = count_uses(losses), losses.shape[1] if self._input_row is None else len(self._input_row)
        for tap in self._taps:
            num_uses = max(uses[id(self._trainable[name])] for name in tap.names.values())
            if tap.calls > 1 or num_uses > tap.calls:
                self._note_slow(tap.path, "used several times, or without being called, in one forward pass")
            elif tap.leading not in {None, rows}:
                self._note_slow(tap.path, f"output of {tap.leading} rows, inputs of {rows}")

    def _check_row_axis(self, losses: Tensor) -> None:
        """Notes taps whose first axis has the right size but is not the rows: a row's loss must reach that row alone.

        One check is enough: such an axis fails the check of sizes in a later batch of another shape.
        """
        if self._verified or not self.exact_hooks or losses.shape[1] == 1:
            return
        row = losses.shape[1] // 2  # not the first or last, where poolers take their token

        def probe(tap: _Tap, gradient: Tensor, _input: Tensor | None) -> None:
            if gradient.count_nonzero() != gradient[row].count_nonzero():
                self._note_slow(tap.path, "its first axis is not the rows, or it mixes them")

        self._receiver = probe
        torch.autograd.grad(losses[0, row], self._anchor, retain_graph=True, allow_unused=True)
        self._receiver = None
        self._verified = True

    def _add_hooked(self, losses: Tensor, roots: Tensor) -> None:
        """Adds the squares of a batch by one backward pass for each of the K losses of a row."""

        def collect(tap: _Tap, gradient: Tensor, layer_input: Tensor | None) -> None:
            sums = {local_name: self.sums[name] for local_name, name in tap.names.items()}
            tap.rule(tap.module, layer_input, _rows_tokens(gradient), sums)

        self._receiver = collect
        for k in range(len(losses)):
            # Only the gradient of the anchor, a leaf on which every tap depends, is asked for: autograd then visits
            # the taps, but computes no weight gradient.
            is_last = k + 1 == len(losses)
            torch.autograd.grad(losses[k], self._anchor, roots[k], retain_graph=not is_last, allow_unused=True)
        self._receiver = None

    def _add_row_by_row(self, losses: Tensor, roots: Tensor) -> None:
        """Adds the squares of a batch by one backward pass for each loss of each row."""
        parameters = list(self._trainable.values())
        losses, roots = losses.flatten(), roots.flatten()
        for i in range(len(losses)):
            is_last = i + 1 == len(losses)
            gradients = torch.autograd.grad(
                losses[i], parameters, roots[i], retain_graph=not is_last, allow_unused=True
            )
            for name, gradient in zip(self._trainable, gradients, strict=True):
                if gradient is not None:
                    self.sums[name].add_(gradient.to_dense().float().square())

    def _note_slow(self, name: str, reason: str) -> None:
        """Notes what forces the slow way; the first time with a warning."""
        if self.exact_hooks:
            logger.warning("Per-example gradients need one backward pass per row, which is slow: %s: %s", name, reason)
        if name not in self.slow_modules:
            self.slow_modules.append(name)


@dataclass(eq=False)
class _Tap:
    """A module whose output gradient is read.

    Attributes:
        path: of the module in the model.
        module: the module.
        rule: adds up the squares of its parameters.
        names: the module's own name of a parameter, `weight` or `bias`, to its requested name.
        calls: calls of the module in the present forward pass.
        leading: size of the first axis of its output in the present forward pass.
    """

    path: str
    module: nn.Module
    rule: Rule
    names: dict[str, str]
    calls: int = 0
    leading: int | None = None


def _losses_and_roots(result: Losses) -> tuple[Tensor, Tensor]:
    """Returns losses and the square roots of their weights, (K, R) each.

    The roots scale the gradients, so that the weights scale the squares.
    """
    losses, weights = result if isinstance(result, tuple) else (result, result.detach().new_ones(result.shape))
    if losses.dim() not in {1, 2} or losses.numel() == 0:
        raise ValueError(f"loss_per_row: losses must be (rows,) or (losses, rows), got {tuple(losses.shape)}")
    if weights.shape != losses.shape:
        raise ValueError(f"loss_per_row: weights must be {tuple(losses.shape)} as losses, got {tuple(weights.shape)}")
    if bool((weights < 0).any()):
        raise ValueError(f"loss_per_row: weights must be >= 0, got {float(weights.min())}")
    roots = weights.detach().to(losses.dtype).sqrt()
    return losses.reshape(-1, losses.shape[-1]), roots.reshape(-1, losses.shape[-1])


class _TapFunction(torch.autograd.Function):
    """Returns its first argument; in the backward pass it hands the gradient to a receiver."""

    @staticmethod
    @override
    def forward(ctx: Any, output: Tensor, _anchor: Tensor, receive: Receive, layer_input: Tensor | None) -> Tensor:
        ctx.receive = receive
        ctx.save_for_backward(layer_input)
        return output.data  # no view for autograd, so that the model may still change it in place

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.receive(gradients[0], *ctx.saved_tensors)
        return gradients[0], None, None, None


def _rule(module: nn.Module) -> Rule | None:
    """Returns the rule for a module's parameters; None if there is none, as for subclasses, which may do anything."""
    kind = type(module)
    if kind is nn.Linear:
        return _linear
    if (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D"):
        return partial(_linear, transposed=True)
    if isinstance(module, nn.LayerNorm) and kind is nn.LayerNorm and len(module.normalized_shape) == 1:
        return _layer_norm
    if isinstance(module, nn.Embedding) and kind is nn.Embedding:
        plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
        return _embedding if plain else None
    shapes = [(name, parameter.dim()) for name, parameter in module.named_parameters()]
    if kind.__name__.endswith(("RMSNorm", "T5LayerNorm")) and shapes == [("weight", 1)]:
        return _rms_norm
    return None


def _linear(_: nn.Module, layer_input: Tensor | None, gradient: Tensor, sums: Sums, transposed: bool = False) -> None:
    """Adds squares for `y = x W' + b`, W (O, I), or (I, O) if transposed: row r has the gradient Σ_t g_rto x_rti."""
    if layer_input is not None:
        sides = (gradient, _rows_tokens(layer_input))
        _add_outer_squares(sums["weight"], *(sides[::-1] if transposed else sides))
    _add_bias_squares(gradient, sums)


def _layer_norm(module: nn.LayerNorm, layer_input: Tensor | None, gradient: Tensor, sums: Sums) -> None:
    """Adds squares for `y = x̂ w + b`: row r has the gradient Σ_t g_rth x̂_rth."""
    if layer_input is not None:
        normed = layer_norm(_rows_tokens(layer_input), module.normalized_shape, eps=module.eps)
        sums["weight"].add_((gradient * normed).sum(1).square_().sum(0))
    _add_bias_squares(gradient, sums)


def _rms_norm(module: nn.Module, layer_input: Tensor | None, gradient: Tensor, sums: Sums) -> None:
    """Adds squares for `y = x̂ (w + c)`, where c is 0, or 1 in Gemma: row r has the gradient Σ_t g_rth x̂_rth.

    x̂ is the output at weight 1 minus the output at weight 0, whatever c is.
    """
    weight = next(module.parameters()).detach()
    at_one, at_zero = (
        _rows_tokens(functional_call(module, {"weight": value}, (layer_input,)))
        for value in (weight.new_ones(weight.shape), weight.new_zeros(weight.shape))
    )
    sums["weight"].add_((gradient * (at_one - at_zero)).sum(1).square_().sum(0))


def _embedding(module: nn.Embedding, layer_input: Tensor | None, gradient: Tensor, sums: Sums) -> None:
    """Adds squares for a table (V, H): a row's gradient for an entry is the sum over the row's tokens that use it."""
    assert layer_input is not None
    num_rows, num_tokens, width = gradient.shape
    indices = layer_input.reshape(len(layer_input), -1).expand(num_rows, num_tokens).long()
    rows = torch.arange(num_rows, device=indices.device).unsqueeze(1)
    pairs, place = torch.unique(rows * module.num_embeddings + indices, return_inverse=True)
    per_row = gradient.new_zeros(len(pairs), width)
    _add_at(per_row, place.flatten(), gradient.reshape(-1, width))
    entries = pairs % module.num_embeddings
    if module.padding_idx is not None:
        per_row.mul_((entries != module.padding_idx).unsqueeze(1))  # as autograd, which gives padding no gradient
    _add_at(sums["weight"], entries, per_row.square_().to(sums["weight"].dtype))


def _add_at(total: Tensor, places: Tensor, values: Tensor) -> None:
    """Adds `values` (N, H) to the rows `places`, int64 (N,), of `total`, always in the same order."""
    # The additions of `index_put_` have no fixed order on several CPU threads, those of `index_add_` none on a GPU.
    if total.device.type == "cpu":
        total.index_add_(0, places, values)
    else:
        total.index_put_((places,), values, accumulate=True)


def _add_bias_squares(gradient: Tensor, sums: Sums) -> None:
    """Adds squares for a bias: row r has the gradient Σ_t g_rth."""
    if "bias" in sums:
        sums["bias"].add_(gradient.sum(1).square_().sum(0))


def _add_outer_squares(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds Σ_r (Σ_t left_rta right_rtb)² to `total` (A, B), in strips and groups of rows that fit the work space."""
    if left.shape[1] == 1:
        total.add_(left[:, 0].square().t() @ right[:, 0].square())
        return
    budget = (CPU_WORK_BYTES if left.device.type == "cpu" else DEVICE_WORK_BYTES) // left.element_size()
    height = min(left.shape[2], max(1, budget // right.shape[2]))
    num_rows = max(1, budget // (height * right.shape[2]))
    for top in range(0, left.shape[2], height):
        strip = left[:, :, top : top + height].transpose(1, 2)
        squares = strip.new_zeros(strip.shape[1], right.shape[2])
        for first in range(0, len(strip), num_rows):
            products = strip[first : first + num_rows] @ right[first : first + num_rows]
            if len(products) == 1:
                squares.addcmul_(products[0], products[0])  # reads memory once instead of three times
            else:
                squares.add_(products.square_().sum(0))
        total[top : top + height].add_(squares)


def _rows_tokens(tensor: Tensor) -> Tensor:
    """Returns `tensor` as (R, T, H), in single precision at least."""
    tensor = tensor if tensor.element_size() == 8 else tensor.float()
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])
