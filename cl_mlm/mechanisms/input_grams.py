"""Gram matrices of what layers read: the subspace that a stage's rows span at a layer's input.

For methods that keep updates out of that subspace: gradient projection memory (Saha et al. 2021, arXiv:2103.09762),
which takes singular vectors of the inputs, the eigenvectors of this matrix; InfLoRA (Liang and Li 2024,
arXiv:2404.00228).

Axes: I inputs of the model, T tokens, H numbers that a layer reads of a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn


class InputGrams:
    """`Σ x xᵀ` over all tokens x, (H,), that a layer has read, for several layers at once.

    The caller puts the model in evaluation mode. Several calls of a layer add up.

    Args:
        model: owns the layers.
        names: of the layers, `nn.Linear` or `Conv1D`, as `model.get_submodule` takes them.

    Attributes:
        grams: (H, H) of every layer by name, float64, on the CPU.
        tokens: number of tokens added so far, by name.

    Raises:
        ValueError: a name is not that of such a layer.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        modules: dict[str, Any] = dict(model.named_modules())
        unknown = [name for name in names if not isinstance(modules.get(name), torch.nn.Linear | Conv1D)]
        if unknown:
            raise ValueError(f"names: must be linear layers of the model, got {', '.join(unknown)}")
        self._layers = {name: modules[name] for name in names}
        # The weight of Conv1D is (inputs, outputs), that of a Linear (outputs, inputs).
        sizes = {n: layer.weight.shape[0 if isinstance(layer, Conv1D) else 1] for n, layer in self._layers.items()}
        self.grams = {name: torch.zeros(size, size, dtype=torch.float64) for name, size in sizes.items()}
        self.tokens = dict.fromkeys(names, 0)

    @contextmanager
    def recording(self, masks: Tensor | Mapping[str, Tensor]) -> Iterator[None]:
        """Within the block, what the layers read is added.

        Args:
            masks: attention mask, (I, T), 0 where a token is padding; or that of every layer by name, where layers read
                different texts (encoder and decoder). A layer that reads one vector an input, (I, H), needs none of T.

        Raises:
            ValueError: within the block, a layer reads something that is neither (I, T, H) nor (I, H).
        """
        by_name = masks if isinstance(masks, Mapping) else dict.fromkeys(self._layers, masks)
        missing = self._layers.keys() - by_name.keys()
        if missing:
            raise ValueError(f"masks: must name every layer, {', '.join(sorted(missing))} are missing")
        with ExitStack() as stack:
            for name, layer in self._layers.items():
                stack.callback(layer.register_forward_pre_hook(partial(self._add, name, by_name[name])).remove)
            yield

    @torch.no_grad()
    def _add(self, name: str, mask: Tensor, _module: nn.Module, args: tuple[Any, ...]) -> None:
        read: Tensor = args[0].detach()
        if read.shape[:-1] == mask.shape:
            read = read[mask.to(read.device) != 0]
        elif read.dim() != 2 or len(read) != len(mask):
            raise ValueError(
                f"masks: {name} reads {tuple(read.shape)}, which a mask of {tuple(mask.shape)} does not describe"
            )
        read = (read.cpu() if read.device.type == "mps" else read).double()  # Apple's accelerators have no float64
        self.grams[name] += (read.t() @ read).cpu()
        self.tokens[name] += len(read)
