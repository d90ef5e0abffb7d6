"""Bottleneck adapters: a small two-layer network behind a linear layer, added to what the layer gives.

Houlsby et al., Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751, section 2.1: `h + W_up g(W_down h)`,
with biases. `houlsby` places one behind the attention's output layer and one behind that of the feed-forward part, each
before the residual sum (figure 2); `pfeiffer` the latter alone (Pfeiffer et al., AdapterFusion, arXiv:2005.00247).

Differs from the papers: an adapter reads the layer's output before its dropout; with `start: zero` W_up is 0 at first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from typing_extensions import override

from cl_mlm.models.targets import bottleneck_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cl_mlm.config.schema import FinetuningConfig

DEVIATION: Final = 1e-2  # of the truncated normal distribution that Houlsby et al. draw weights from


class Bottleneck(nn.Module):
    """`W_up gelu(W_down h)`, with biases; 2Hd + H + d parameters in fp32.

    Args:
        size: H, numbers of the hidden state.
        width: d, numbers between the two layers.
        start: `zero`: W_up is 0; `normal`: both matrices are near 0, truncated normal.
        device: of the parameters.
    """

    def __init__(self, size: int, width: int, start: str, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(size, width, device=device)
        self.up = nn.Linear(width, size, device=device)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=DEVIATION, a=-2 * DEVIATION, b=2 * DEVIATION)
            nn.init.zeros_(linear.bias)
        if start == "zero":
            # A gradient then reaches W_up alone at first, and there in proportion to W_down.
            nn.init.zeros_(self.up.weight)
            nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)

    @override
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns what is added to `hidden`, (…, H), in the precision of the weights."""
        added: torch.Tensor = self.up(nn.functional.gelu(self.down(hidden.to(self.down.weight.dtype))))
        return added


class Adapted(nn.Module):
    """A linear layer with a bottleneck behind it.

    Args:
        base_layer: the layer, frozen by the caller.
        bottleneck: what is added to its output.
        adapter: the bottleneck's name within this module.
    """

    def __init__(self, base_layer: nn.Module, bottleneck: Bottleneck, adapter: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._adapter = adapter
        self.add_module(adapter, bottleneck)

    @property
    def weight(self) -> Any:
        """The weight of the layer, whose precision some families ask for (T5)."""
        return self.base_layer.weight

    @property
    def bias(self) -> Any:
        """The bias of the layer."""
        return self.base_layer.bias

    @override
    def forward(self, *inputs: Any, **named: Any) -> torch.Tensor:
        """Returns the layer's output, (…, H), with the bottleneck's added."""
        hidden: torch.Tensor = self.base_layer(*inputs, **named)
        added: torch.Tensor = self.get_submodule(self._adapter)(hidden)
        return hidden + added.to(hidden.dtype)


def insert_bottlenecks(model: PreTrainedModel, finetuning: FinetuningConfig, adapter: str) -> None:
    """Puts a bottleneck behind the layers that the placement names; mutates the model.

    Args:
        model: with its head.
        finetuning: mode and options.
        adapter: name of each bottleneck, part of its parameters' names.

    Raises:
        ConfigError: the model's family is not known here, or it has no such blocks.
    """
    assert finetuning.width is not None
    assert finetuning.start is not None
    body = model.base_model
    for name in bottleneck_targets(model, finetuning.placement or "houlsby", finetuning.layers):
        layer: Any = body.get_submodule(name)
        size = layer.nf if hasattr(layer, "nf") else layer.out_features  # GPT-2's Conv1D calls it nf
        bottleneck = Bottleneck(size, finetuning.width, finetuning.start, layer.weight.device)
        body.set_submodule(name, Adapted(layer, bottleneck, adapter))
