"""Per-example squared gradients, for Fisher information.

Axes: R rows, T tokens, I and O inputs and outputs of a layer, H its last axis, V vocabulary, K losses per row.

A layer's weight gradient for one row follows from what went into the layer and from the gradient that comes back, so
one backward pass over a batch gives the gradients of all its rows. A tap on each layer's output squares and adds them
up there and then; autograd computes no weight gradients at all, which pays for most of the extra work.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from cl_mlm.mechanisms.graph_uses import count_uses
from cl_mlm.tokens.windows import by_row

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Sums = Mapping[str, Tensor]
    Rule = Callable[[Any, Tensor | None, Tensor, Sums], None]
    Receive = Callable[[Tensor, Tensor | None], None]
    Losses = Tensor | tuple[Tensor, Tensor]

logger = logging.getLogger(__name__)

# Work space for per-row weight gradients. On a CPU it must stay in a core's cache: 8 times slower beyond it.
CPU_WORK_BYTES = 1 << 20
DEVICE_WORK_BYTES = 64 << 20


class SquaredGradients:
    """Sums over rows of squared per-row gradients; divide by `rows` for the empirical Fisher diagonal.

    Rows must be independent, dropout and gradient checkpointing off: the caller puts the model in `eval` mode. A row
    may be several inputs of the model: their gradients are added up before they are squared.

    Covered are `nn.Linear`, `Conv1D`, `nn.Embedding`, `nn.LayerNorm` and RMS norms, each called at most once in a
    forward pass. Where a requested parameter lies elsewhere, or is shared, everything falls back to one backward pass
    per row: right, but its cost grows with the square of the rows in a batch, so give it small batches.

    Attributes:
        sums: sum of squares of every requested parameter, float32, on the parameter's device; zero where frozen.
        rows: rows added so far.
        slow_modules: names of the modules, or of parameters outside any known layer, that force the slow way.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        import torch

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
        """Says whether one backward pass serves all rows; False: one backward pass per row, which is slow."""
        return not self.slow_modules

    def add(self, loss_per_row: Callable[[], Losses], input_row: Tensor | None = None) -> bool:
        """Adds the squared gradients of one batch; every `.grad` is left exactly as it was.

        Args:
            loss_per_row: runs the forward pass and returns losses (R,) in nats, or (K, R) for K losses per row; or
                `(losses, weights)` with weights of the same shape, not negative, factors on the *squared* gradients.
                The exact Fisher is K classes, their negative log-probabilities and their probabilities. Called again
                where the first call finds that the slow way is due.
            input_row: row of every input, int64 (inputs,), ascending, as in `Batch`; None: a row is one input.

        Returns:
            True if hooks served the batch, False if it went row by row.

        Raises:
            ValueError: losses or weights of a wrong shape, negative weights, losses cut off from the parameters, or
                gradient checkpointing.
        """
        import torch

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
                # Run anew: expanding the output of what turned out to be no table of positions changed the losses.
                losses, roots = _losses_and_roots(loss_per_row())
                count_uses(losses)
                self._add_row_by_row(losses, roots)
        self.rows += losses.shape[1]
        return self.exact_hooks

    def _place_taps(self) -> list[_Tap]:
        """Returns a tap for every module that owns requested parameters; notes what cannot be tapped."""
        homes: dict[int, list[tuple[str, nn.Module, str]]] = defaultdict(list)
        for path, module in self._model.named_modules():
            for local, parameter in module.named_parameters(recurse=False):
                homes[id(parameter)].append((path, module, local))
        names_of = Counter(id(parameter) for parameter in self._trainable.values())
        taps: dict[str, _Tap] = {}
        for name, parameter in self._trainable.items():
            home = homes[id(parameter)]
            if len(home) != 1 or names_of[id(parameter)] > 1:
                self._note_slow(name, "shared by several modules or outside the model")
                continue
            path, module, local = home[0]
            rule = _rule(module)
            if rule is None or local not in {"weight", "bias"}:
                self._note_slow(name if path == "" or rule else path, f"no rule for {type(module).__name__}")
                continue
            taps.setdefault(path, _Tap(path, module, rule, {})).names[local] = name
        return list(taps.values())

    def _hooks(self) -> ExitStack:
        """Returns a context in which modules are tapped."""
        self._batch_rows = None
        stack = ExitStack()
        stack.callback(self._model.register_forward_pre_hook(self._note_batch_rows, with_kwargs=True).remove)
        for tap in self._taps:
            tap.calls, tap.leading = 0, None
            # Prepended: a hook of the user's own may change the output, and the rule needs the layer's.
            stack.callback(tap.module.register_forward_hook(partial(self._tap_output, tap), prepend=True).remove)
        return stack

    def _note_batch_rows(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the number of rows that the model is called with, for position embeddings of one row."""
        import torch

        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and value.dim())
        self._batch_rows = next((len(tensor) for tensor in tensors), None)

    def _tap_output(self, tap: _Tap, _module: nn.Module, args: tuple[Any, ...], output: object) -> object:
        """Forward hook: returns the output, tapped."""
        import torch

        tap.calls += 1
        if len(args) != 1 or not isinstance(output, torch.Tensor) or not torch.is_grad_enabled():
            self._note_slow(tap.path, "called in an unknown way")
            return output
        if isinstance(tap.module, torch.nn.Embedding) and output.dim() > 2 and len(output) == 1 and self._batch_rows:
            # Positions (1, T) are broadcast over the rows, which would sum their gradients; expanding keeps them apart.
            output = output.expand(self._batch_rows, *output.shape[1:])
        tap.leading = output.shape[0]
        layer_input = args[0].detach() if "weight" in tap.names else None
        return _tap_function().apply(output, self._anchor, partial(self._receive, tap), layer_input)

    def _receive(self, tap: _Tap, gradient: Tensor, layer_input: Tensor | None) -> None:
        """Called in the backward pass with the gradient of a tapped output."""
        if self._receiver is not None:  # of a row of several inputs they are more of its tokens
            inner = None if layer_input is None else by_row(layer_input, self._input_row)
            self._receiver(tap, by_row(gradient, self._input_row), inner)

    def _check_taps(self, losses: Tensor) -> None:
        """Notes taps that do not see all of their parameters' gradient, or have no row axis."""
        uses, rows = count_uses(losses), losses.shape[1] if self._input_row is None else len(self._input_row)
        for tap in self._taps:
            num_uses = max(uses[id(self._trainable[name])] for name in tap.names.values())
            if tap.calls > 1 or num_uses > tap.calls:
                self._note_slow(tap.path, "used several times, or without being called, in one forward pass")
            elif tap.leading not in {None, rows}:
                self._note_slow(tap.path, f"output of {tap.leading} rows, inputs of {rows}")

    def _check_row_axis(self, losses: Tensor) -> None:
        """Notes taps whose first axis has the right size by chance: one row's loss must reach that row alone.

        Once is enough, since a later batch of another shape fails the check of sizes.
        """
        import torch

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
        """Adds by one backward pass for each of the K losses."""
        import torch

        def collect(tap: _Tap, gradient: Tensor, layer_input: Tensor | None) -> None:
            sums = {local: self.sums[name] for local, name in tap.names.items()}
            tap.rule(tap.module, layer_input, _rows_tokens(gradient), sums)

        self._receiver = collect
        for k in range(len(losses)):
            # The anchor is the only leaf asked for, so that autograd visits the taps and no weight gradient is made.
            more = k + 1 < len(losses)
            torch.autograd.grad(losses[k], self._anchor, roots[k], retain_graph=more, allow_unused=True)
        self._receiver = None

    def _add_row_by_row(self, losses: Tensor, roots: Tensor) -> None:
        """Adds by one backward pass for each loss of each row."""
        import torch

        parameters = list(self._trainable.values())
        losses, roots = losses.flatten(), roots.flatten()
        for i in range(len(losses)):
            more = i + 1 < len(losses)
            gradients = torch.autograd.grad(losses[i], parameters, roots[i], retain_graph=more, allow_unused=True)
            for name, gradient in zip(self._trainable, gradients, strict=True):
                if gradient is not None:
                    self.sums[name].add_(gradient.to_dense().float().square())

    def _note_slow(self, name: str, reason: str) -> None:
        """Notes what forces the slow way; says so the first time."""
        if self.exact_hooks:
            logger.warning("Per-example gradients need one backward pass per row, which is slow: %s: %s", name, reason)
        if name not in self.slow_modules:
            self.slow_modules.append(name)


@dataclass(eq=False)
class _Tap:
    """A module whose output gradient is read; `calls` and `leading` are of the forward pass at hand."""

    path: str
    module: nn.Module
    rule: Rule
    names: dict[str, str]  # the module's own name of a parameter, `weight` or `bias`: its requested name
    calls: int = 0
    leading: int | None = None  # size of the output's first axis


def _losses_and_roots(result: Losses) -> tuple[Tensor, Tensor]:
    """Returns losses (K, R) and the square roots of their weights: what scales a gradient scales its square twice."""
    losses, weights = result if isinstance(result, tuple) else (result, result.detach().new_ones(result.shape))
    if losses.dim() not in {1, 2} or losses.numel() == 0:
        raise ValueError(f"loss_per_row: losses must be (rows,) or (losses, rows), got {tuple(losses.shape)}")
    if weights.shape != losses.shape:
        raise ValueError(f"loss_per_row: weights must be {tuple(losses.shape)} as losses, got {tuple(weights.shape)}")
    if bool((weights < 0).any()):
        raise ValueError(f"loss_per_row: weights must be >= 0, got {float(weights.min())}")
    roots = weights.detach().to(losses.dtype).sqrt()
    return losses.reshape(-1, losses.shape[-1]), roots.reshape(-1, losses.shape[-1])


@cache
def _tap_function() -> type[torch.autograd.Function]:
    """Returns the autograd function that hands the gradient of its first argument to a receiver."""
    import torch

    class Tap(torch.autograd.Function):
        @staticmethod
        @override
        def forward(ctx: Any, output: Tensor, _anchor: Tensor, receive: Receive, layer_input: Tensor | None) -> Tensor:
            ctx.receive = receive
            ctx.save_for_backward(layer_input)
            return output.data  # not a view for autograd, so that a model may still change it in place

        @staticmethod
        @override
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            ctx.receive(gradients[0], *ctx.saved_tensors)
            return gradients[0], None, None, None

    return Tap


def _rule(module: nn.Module) -> Rule | None:
    """Returns how a module's parameters get their squares; None if unknown, as subclasses are: they may do anything."""
    from torch import nn

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
    """Adds for `y = x W' + b`, W (O, I), or (I, O) if transposed: row r has the gradient Σ_t g_rto x_rti."""
    if layer_input is not None:
        sides = (gradient, _rows_tokens(layer_input))
        _add_outer_squares(sums["weight"], *(sides[::-1] if transposed else sides))
    _add_bias_squares(gradient, sums)


def _layer_norm(module: nn.LayerNorm, layer_input: Tensor | None, gradient: Tensor, sums: Sums) -> None:
    """Adds for `y = x̂ w + b`: row r has the gradient Σ_t g_rth x̂_rth."""
    from torch.nn.functional import layer_norm

    if layer_input is not None:
        normed = layer_norm(_rows_tokens(layer_input), module.normalized_shape, eps=module.eps)
        sums["weight"].add_((gradient * normed).sum(1).square_().sum(0))
    _add_bias_squares(gradient, sums)


def _rms_norm(module: nn.Module, layer_input: Tensor | None, gradient: Tensor, sums: Sums) -> None:
    """Adds for `y = x̂ (w + c)`; x̂ is the output at weight 1 less that at weight 0, whatever c is (0, or Gemma's 1)."""
    from torch.func import functional_call

    weight = next(module.parameters()).detach()
    at_one, at_zero = (
        _rows_tokens(functional_call(module, {"weight": value}, (layer_input,)))
        for value in (weight.new_ones(weight.shape), weight.new_zeros(weight.shape))
    )
    sums["weight"].add_((gradient * (at_one - at_zero)).sum(1).square_().sum(0))


def _embedding(module: nn.Embedding, layer_input: Tensor | None, gradient: Tensor, sums: Sums) -> None:
    """Adds for a table (V, H): a row's gradient for an entry is the sum over the places where the row uses it."""
    import torch

    assert layer_input is not None
    num_rows, num_tokens, width = gradient.shape
    indices = layer_input.reshape(len(layer_input), -1).expand(num_rows, num_tokens).long()
    rows = torch.arange(num_rows, device=indices.device).unsqueeze(1)
    pairs, place = torch.unique(rows * module.num_embeddings + indices, return_inverse=True)
    # index_put_ rather than index_add_: its order of additions is fixed on a GPU too.
    per_row = gradient.new_zeros(len(pairs), width)
    per_row.index_put_((place.flatten(),), gradient.reshape(-1, width), accumulate=True)
    entries = pairs % module.num_embeddings
    if module.padding_idx is not None:
        per_row.mul_((entries != module.padding_idx).unsqueeze(1))  # autograd gives this entry no gradient either
    sums["weight"].index_put_((entries,), per_row.square_().to(sums["weight"].dtype), accumulate=True)


def _add_bias_squares(gradient: Tensor, sums: Sums) -> None:
    """Adds for a bias: row r has the gradient Σ_t g_rth."""
    if "bias" in sums:
        sums["bias"].add_(gradient.sum(1).square_().sum(0))


def _add_outer_squares(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds Σ_r (Σ_t left_rta right_rtb)² to `total` (A, B), in pieces that fit the work space."""
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
                squares.addcmul_(products[0], products[0])  # reads memory once, not three times
            else:
                squares.add_(products.square_().sum(0))
        total[top : top + height].add_(squares)


def _rows_tokens(tensor: Tensor) -> Tensor:
    """Returns `tensor` as (R, T, H), in single precision at least."""
    tensor = tensor if tensor.element_size() == 8 else tensor.float()
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])
