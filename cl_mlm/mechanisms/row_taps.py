"""Taps: they read the gradients of what layers give, in the backward pass.

A tap sits on every call of a layer that owns requested parameters, and on every look-up in a requested table, whatever
module makes it: what a module does with the entries before or after (a factor, an offset) is autograd's business.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from cl_mlm.mechanisms.row_rules import find_rule, lookup, relative_bias, whole
from cl_mlm.models.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from cl_mlm.mechanisms.row_rules import Rule

    Receiver = Callable[["Use", Tensor, Tensor | None], None]

BIAS_METHODS = ("compute_bias", "compute_position_bias")  # T5 and its kin; MPNet


@dataclass(eq=False)
class Tap:
    """A layer or table whose output gradient is read.

    Attributes:
        path: of the module in the model.
        module: the layer, or the owner of the table.
        rule: gives the parameters' gradient by row.
        parameters: `id` of the requested parameters, by their name within the layer.
    """

    path: str
    module: nn.Module
    rule: Rule
    parameters: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Use:
    """A call of a tapped layer.

    Attributes:
        tap: the tap.
        options: further arguments of the call.
        leading: size of the first axis of its output.
        node: of autograd's graph; a use that the losses do not depend on has one outside their graph.
    """

    tap: Tap
    options: Mapping[str, Any]
    leading: int
    node: Any = None


class Taps:
    """The taps of a model, and their uses in the forward pass that was recorded last.

    Attributes:
        anchor: a leaf on which the output of every use depends.
        untapped: why a parameter has no tap, by the name of its module, or by its own where no module is to blame.
        uses: of the last forward pass.
        receiver: called in the backward pass with a use, the gradient of its output, and its input, where a rule reads
            it; None: nothing is done.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self.anchor = torch.zeros((), requires_grad=True)
        self.untapped: dict[str, str] = {}
        self.uses: list[Use] = []
        self.receiver: Receiver | None = None
        self._model = model
        self._layers: dict[str, Tap] = {}
        self._tables: dict[int, Tap] = {}
        self._replaced: list[_RelativeBias | _Expanded] = []
        self._num_inputs: int | None = None
        self._place(parameters)

    def live(self, nodes: set[Any]) -> list[Use]:
        """Returns the uses that lie in a graph with these nodes: the others have no gradient."""
        return [use for use in self.uses if use.node in nodes]

    def forget(self) -> None:
        """Lets go of the last forward pass: a use and its node name each other, and would keep the graph alive."""
        self.receiver = None
        for use in self.uses:
            use.node, use.options = None, {}
        self.uses = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within the block, the model's forward pass is tapped."""
        self.forget()
        self._num_inputs = None
        with ExitStack() as stack:
            stack.callback(self._model.register_forward_pre_hook(self._note_inputs, with_kwargs=True).remove)
            for tap in self._layers.values():
                # First of all hooks: another hook may change the output, and the rule needs that of the layer.
                hook = partial(self._tap_layer, tap)
                stack.callback(tap.module.register_forward_hook(hook, prepend=True, with_kwargs=True).remove)
            for method in self._replaced:
                stack.enter_context(method.replaced(self))
            if self._tables:
                stack.enter_context(_LookUps(self))
            yield

    def tap(self, tap: Tap, output: Tensor, layer_input: Tensor | None, options: Mapping[str, Any]) -> Tensor:
        """Returns the output of a call with the tap on it."""
        use = Use(tap, options, output.shape[0])
        tapped: Tensor = _TapFunction.apply(output, self.anchor, partial(self._receive, use), layer_input)
        use.node = tapped.grad_fn
        self.uses.append(use)
        return tapped

    def tap_rows(self, tap: Tap, output: Tensor, layer_input: Tensor, options: Mapping[str, Any]) -> Tensor:
        """As `tap`; an output (1, …) that is broadcast over the inputs is expanded, which keeps the inputs apart."""
        if output.dim() > 2 and len(output) == 1 and self._num_inputs:
            output = output.expand(self._num_inputs, *output.shape[1:])
        return self.tap(tap, output, layer_input, options)

    def table(self, weight: object) -> Tap | None:
        """Returns the tap of a table that is looked up here; None: another, or one of relative biases."""
        return self._tables.get(id(weight))

    def _place(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Makes a tap for every module that owns requested parameters; notes what cannot be tapped."""
        owners: dict[int, list[tuple[str, nn.Module, str]]] = defaultdict(list)
        modules = dict(self._model.named_modules())
        for path, module in modules.items():
            for local_name, parameter in module.named_parameters(recurse=False):
                owners[id(parameter)].append(_owner(modules, path, local_name))
        for name, parameter in parameters.items():
            # One tap is enough here: BERT names its output layer's bias in the module around it, too.
            if not sum(self._place_one(parameter, *owner) for owner in owners[id(parameter)]):
                path, module, local_name = next(iter(owners[id(parameter)]), ("", None, ""))
                has_rule = module is None or find_rule(module) is not None
                reason = "outside the model" if module is None else f"no rule for {type(module).__name__}"
                self.untapped[name if has_rule or not path else path] = reason
        for path, module in modules.items():
            self._replaced += _relative_biases(path, module, self._tables)
        for bias in self._replaced:
            self._tables.pop(bias.tap.parameters["weight"], None)

    def _place_one(self, parameter: nn.Parameter, path: str, module: nn.Module, local_name: str) -> bool:
        """Makes a tap for a parameter in one of its owners; returns whether there is a rule for it."""
        if isinstance(module, nn.Embedding) and local_name == "weight":
            if module.max_norm is not None or module.scale_grad_by_freq:
                return False
            self._tables.setdefault(id(parameter), Tap(path, module, lookup, {"weight": id(parameter)}))
            return True
        if isinstance(module, VirtualTokens):
            self._replaced.append(_Expanded(Tap(path, module, whole, {"weight": id(parameter)}), module))
            return True
        rule = find_rule(module)
        if rule is None or not (local_name in ("weight", "bias") or local_name.startswith("ia3_l.")):
            return False
        self._layers.setdefault(path, Tap(path, module, rule)).parameters[local_name] = id(parameter)
        return True

    def _note_inputs(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the number of inputs that the model is called with."""
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and value.dim())
        self._num_inputs = next((len(tensor) for tensor in tensors), None)

    def _tap_layer(
        self, tap: Tap, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> object:
        """Forward hook of a tapped layer. A call of an unknown form has no tap; it shows in the count of uses."""
        if len(args) != 1 or not isinstance(output, torch.Tensor) or not torch.is_grad_enabled():
            return output
        return self.tap(tap, output, args[0].detach() if tap.parameters.keys() - {"bias"} else None, kwargs)

    def _receive(self, use: Use, gradient: Tensor, layer_input: Tensor | None) -> None:
        if self.receiver is not None:
            self.receiver(use, gradient, layer_input)


class _LookUps(TorchFunctionMode):
    """Within the block, every look-up in a tapped table has a tap."""

    def __init__(self, taps: Taps) -> None:
        super().__init__()
        self._taps = taps

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is not nn.functional.embedding or len(args) < 2 or not torch.is_grad_enabled():
            return output
        tap = self._taps.table(args[1])
        if tap is None:
            return output
        padding = args[2] if len(args) > 2 else (kwargs or {}).get("padding_idx")
        return self._taps.tap_rows(tap, output, args[0], {"padding_idx": padding})


@dataclass(eq=False)
class _RelativeBias:
    """A method that looks biases up by (query, key), which have no axis of inputs, and gives (1 or I, heads, Q, K)."""

    tap: Tap
    owner: nn.Module
    method: str

    @contextmanager
    def replaced(self, taps: Taps) -> Iterator[None]:
        """Within the block, what the method returns is expanded to all inputs and has a tap."""
        compute: Any = getattr(self.owner, self.method)
        places: list[Tensor] = []
        hook = self.tap.module.register_forward_pre_hook(lambda _, args: places.append(args[0]))

        def tapped(*args: Any, **kwargs: Any) -> Tensor:
            places.clear()
            biases: Tensor = compute(*args, **kwargs)
            if len(places) != 1 or places[0].dim() != 2 or not torch.is_grad_enabled():
                return biases
            return taps.tap_rows(self.tap, biases, places[0], {})

        setattr(self.owner, self.method, tapped)
        try:
            yield
        finally:
            delattr(self.owner, self.method)
            hook.remove()


@dataclass(eq=False)
class _Expanded:
    """Virtual tokens, which are computed once and expanded to all inputs: the weight is expanded instead."""

    tap: Tap
    owner: VirtualTokens

    @contextmanager
    def replaced(self, taps: Taps) -> Iterator[None]:
        """Within the block, the tokens are computed for every input of a weight that has a tap."""
        weight = self.owner.weight

        def for_inputs(num: int) -> Tensor:
            expanded = weight.expand(num, *weight.shape)
            return self.owner.encode(taps.tap(self.tap, expanded, None, {}) if torch.is_grad_enabled() else expanded)

        vars(self.owner)["for_inputs"] = for_inputs
        try:
            yield
        finally:
            del vars(self.owner)["for_inputs"]


class _TapFunction(torch.autograd.Function):
    """Returns its first argument; in the backward pass it hands the gradient to a receiver."""

    @staticmethod
    @override
    def forward(
        ctx: Any, output: Tensor, _anchor: Tensor, receive: Callable[..., None], layer_input: Tensor | None
    ) -> Tensor:
        ctx.receive = receive
        ctx.save_for_backward(layer_input)
        return output.data  # no view for autograd, so that the model may still change it in place

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.receive(gradients[0], *ctx.saved_tensors)
        return gradients[0], None, None, None


def _owner(modules: Mapping[str, nn.Module], path: str, local_name: str) -> tuple[str, nn.Module, str]:
    """Returns path and module of the layer that owns a parameter, and its name there; a dictionary is no layer."""
    while path and isinstance(modules[path], nn.ParameterDict):
        path, _, last = path.rpartition(".")
        local_name = f"{last}.{local_name}"
    return path, modules[path], local_name


def _relative_biases(path: str, module: nn.Module, tables: Mapping[int, Tap]) -> list[_RelativeBias]:
    """Returns what computes biases by relative position in a module from a tapped table."""
    table = getattr(module, "relative_attention_bias", None)
    method = next((name for name in BIAS_METHODS if callable(getattr(module, name, None))), None)
    if not isinstance(table, nn.Embedding) or method is None or id(table.weight) not in tables:
        return []
    tap = Tap(f"{path}.relative_attention_bias", table, relative_bias, {"weight": id(table.weight)})
    return [_RelativeBias(tap, module, method)]
