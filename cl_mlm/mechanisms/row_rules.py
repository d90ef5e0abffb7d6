"""Rules: the gradient of a layer's parameters by row, from its input and the gradient of its output.

Each kind of layer has one. A rule takes the layer, its input, the gradient of its output, both (I, …), and what else
the call was given; it returns a part for each parameter, by its name within the layer, in single precision at least.
The input is None where nothing but the bias is asked for. `find_rule` names the layers that have a rule.

Axes: I inputs of the model, T tokens, V entries of a table, H its last axis.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import layer_norm, one_hot

from cl_mlm.mechanisms.row_parts import Entries, Outer, Part, Whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    Rule: TypeAlias = Callable[[Any, Tensor | None, Tensor, Mapping[str, Any]], dict[str, Part]]

CONV1D = ("transformers.pytorch_utils", "Conv1D")
IA3 = ("peft.tuners.ia3.layer", "Linear")
DORA = ("peft.tuners.lora.dora", "DoraLinearLayer")


def find_rule(module: nn.Module) -> Rule | None:
    """Returns the rule for a module's parameters; None if there is none, as for subclasses, which may do anything.

    Tables (`nn.Embedding`) are not found here: their rules are `lookup` and `relative_bias`.
    """
    kind = type(module)
    name = (kind.__module__, kind.__name__)
    if kind is nn.Linear:
        return linear
    if name == CONV1D:
        return partial(linear, transposed=True)
    if isinstance(module, nn.LayerNorm) and kind is nn.LayerNorm and len(module.normalized_shape) == 1:
        return norm
    if name == IA3 and len(module.active_adapters) == 1:  # type: ignore[arg-type]
        return ia3
    is_norm = kind.__name__.endswith(("RMSNorm", "T5LayerNorm"))
    shapes = [(name, parameter.dim()) for name, parameter in module.named_parameters()]
    return scale if (is_norm or name == DORA) and shapes == [("weight", 1)] else None


def linear(
    _: Any, layer_input: Tensor | None, gradient: Tensor, _options: Mapping[str, Any], transposed: bool = False
) -> dict[str, Part]:
    """Of `y = x W' + b`, W (O, I), or (I, O) if transposed: W has the gradient Σ_t g_to x_ti, b Σ_t g_to."""
    gradient = tokens(gradient)
    parts: dict[str, Part] = {"bias": Whole(gradient.sum(1))}
    if layer_input is not None:
        sides = _busy_tokens(gradient, tokens(layer_input))
        parts["weight"] = Outer(*(sides[::-1] if transposed else sides))
    return parts


def norm(module: Any, layer_input: Tensor | None, gradient: Tensor, _options: Mapping[str, Any]) -> dict[str, Part]:
    """Of `y = x̂ w + b`: w has the gradient Σ_t g_th x̂_th, b Σ_t g_th."""
    gradient = tokens(gradient)
    parts: dict[str, Part] = {"bias": Whole(gradient.sum(1))}
    if layer_input is not None:
        normed = layer_norm(tokens(layer_input), module.normalized_shape, eps=module.eps)
        parts["weight"] = Whole((gradient * normed).sum(1))
    return parts


def scale(module: Any, layer_input: Tensor | None, gradient: Tensor, options: Mapping[str, Any]) -> dict[str, Part]:
    """Of `y = a w + c` by element, as RMS norms (c is 0, or x̂ in Gemma) and DoRA's magnitudes: w has Σ_t g_th a_th.

    a is the difference of the outputs at w and at 0, over w. A small w is taken as 1: rounding drowns the difference.
    """
    weight = next(module.parameters()).detach()
    weight = torch.where(weight.abs() < 1, 1, weight)
    at_weight, at_zero = (
        tokens(functional_call(module, {"weight": value}, (layer_input,), dict(options)))
        for value in (weight, torch.zeros_like(weight))
    )
    return {"weight": Whole((tokens(gradient) * (at_weight - at_zero) / weight).sum(1))}


def ia3(module: Any, layer_input: Tensor | None, gradient: Tensor, _options: Mapping[str, Any]) -> dict[str, Part]:
    """Of `y = l ∘ f(x)` or, before the last layer of a block's feed-forward part, `y = f(l ∘ x)`; l is the scale."""
    assert layer_input is not None
    (name,) = module.active_adapters
    scales = module.ia3_l[name].detach()
    if module.is_feedforward:
        with torch.enable_grad():
            scaled = (layer_input * scales.flatten()).to(layer_input.dtype).requires_grad_()
            output = module.base_layer(scaled)
        (inner,) = torch.autograd.grad(output, scaled, gradient.to(output.dtype))
        products = tokens(inner) * tokens(layer_input)
    else:
        products = tokens(gradient) * tokens(module.base_layer(layer_input))
    return {f"ia3_l.{name}": Whole(products.sum(1).view(-1, *scales.shape))}


def lookup(_: Any, layer_input: Tensor | None, gradient: Tensor, options: Mapping[str, Any]) -> dict[str, Part]:
    """Of a table (V, H): an entry has the gradient of every token that names it; as in autograd, padding has none."""
    assert layer_input is not None
    gradient = tokens(gradient)
    entries = layer_input.reshape(len(layer_input), -1).expand(gradient.shape[:2]).long()
    padding = options.get("padding_idx")
    if padding is not None:
        gradient = gradient * (entries != padding).unsqueeze(-1)
    return {"weight": Entries(entries, gradient)}


def relative_bias(
    module: Any, layer_input: Tensor | None, gradient: Tensor, _options: Mapping[str, Any]
) -> dict[str, Part]:
    """Of a table of biases (V, heads), read at (query, key): an entry has the sum over the pairs that name it."""
    assert layer_input is not None
    places = layer_input.reshape(-1, layer_input.shape[-2] * layer_input.shape[-1])[0].long()
    chosen = one_hot(places, len(module.weight)).to(gradient.dtype)
    return {"weight": Whole((gradient.flatten(2) @ chosen).transpose(1, 2))}


def whole(_: Any, _layer_input: Tensor | None, gradient: Tensor, _options: Mapping[str, Any]) -> dict[str, Part]:
    """Of a weight that is expanded to all inputs: its gradient by input is that of what is expanded."""
    return {"weight": Whole(gradient if gradient.element_size() == 8 else gradient.float())}


def tokens(tensor: Tensor) -> Tensor:
    """Returns `tensor` as (I, T, H), in single precision at least."""
    tensor = tensor if tensor.element_size() == 8 else tensor.float()
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _busy_tokens(gradient: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both without tokens whose gradient is 0, as far as every input has such: padding, prompts."""
    busy = (gradient != 0).any(-1)
    most = max(1, int(busy.sum(1).max()))
    if most == busy.shape[1]:
        return gradient, values
    first = busy.logical_not().byte().argsort(dim=1, stable=True)[:, :most]
    places = (first + torch.arange(0, busy.numel(), busy.shape[1], device=busy.device).unsqueeze(1)).flatten()
    return _chosen(gradient, places, most), _chosen(values, places, most)


def _chosen(side: Tensor, places: Tensor, most: int) -> Tensor:
    """Returns those tokens of (I, T, H) that stand at `places` of all inputs' tokens end to end, (I, most, H)."""
    return side.flatten(0, 1).index_select(0, places).view(len(side), most, -1)
