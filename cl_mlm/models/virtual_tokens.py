"""Virtual tokens: trained vectors that a model reads before every text, as if they were tokens of it.

A module of virtual tokens lies within the part of a model that reads them, and hooks on that part put them in. So the
model is called, asked to generate and given to pipelines as ever: whoever calls it knows nothing of them.

Axes: I inputs, P virtual tokens, T tokens.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers.models.auto import modeling_auto

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cl_mlm.objective import Head

NAME: Final = "virtual_tokens"  # within the part that reads them
LEARNED: Final = ("prompt", "p_tuning", "prefix")  # modes that train them
_FORMS: Final[dict[Head, Any]] = {
    "sequence": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "span": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,  # has BART's class, too
}


class VirtualTokens(torch.nn.Module):
    """What all kinds of virtual tokens share.

    Hooks are methods of the module, so that a deep copy of a model has its own.

    Args:
        weight: what is trained, (P, ...).
        reader: the part of a model that reads them.

    Attributes:
        num: P.
        num_read: T of the present forward pass.
        is_off: whether the model reads its text alone for now.
    """

    def __init__(self, weight: torch.Tensor, reader: torch.nn.Module) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.num = len(weight)
        self.num_read = 0
        self.is_off = False
        self._names = tuple(inspect.signature(reader.forward).parameters)

    @property
    def is_encoded(self) -> bool:
        """Whether the model reads what is computed of the weights."""
        return len([*self.children()]) > 0

    def encode(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns what the model reads of weights, (..., P, W): the weights themselves, or what is computed of them."""
        return weight

    def values(self) -> torch.Tensor:
        """Returns what the model reads, (P, ...)."""
        return self.encode(self.weight)

    def for_inputs(self, num: int) -> torch.Tensor:
        """Returns what the model reads for each of `num` inputs, (I, P, ...); all read the same.

        `SquaredGradients` has the weight itself expanded instead, to tell the inputs' gradients apart.
        """
        return self.values().expand(num, -1, -1)

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments of the reader by name, and notes how many tokens it reads."""
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        embedded = given.get("inputs_embeds")
        self.num_read = (given["input_ids"] if embedded is None else embedded).shape[1]
        return given

    def lengthen(self, given: dict[str, Any]) -> None:
        """Lets the text's tokens see the virtual ones, and be counted after them: mutates mask and positions.

        Who goes on from a cache may have counted the virtual tokens in it.
        """
        mask, positions, cache = (given.get(name) for name in ("attention_mask", "position_ids", "past_key_values"))
        num_held = self.num if cache is None else cache.get_seq_length() or self.num
        is_counted = mask is not None and mask.shape[-1] == num_held + self.num_read
        if mask is not None and not is_counted:
            given["attention_mask"] = self.longer(mask)
        if positions is not None and not (is_counted and goes_on(cache)):
            given["position_ids"] = positions + self.num

    def longer(self, mask: torch.Tensor) -> torch.Tensor:
        """Returns an attention mask, (I, T), that lets every token see the virtual ones, too, (I, P + T)."""
        if mask.dim() != 2:
            raise ValueError(f"virtual tokens need an attention mask of inputs and tokens, got {tuple(mask.shape)}")
        return torch.cat([mask.new_ones(len(mask), self.num), mask], 1)


def goes_on(cache: Any) -> bool:
    """Says whether a cache of keys and values holds some: those of the virtual tokens are among them."""
    return cache is not None and cache.get_seq_length() > 0


def virtual_tokens_of(model: torch.nn.Module) -> VirtualTokens | None:
    """Returns the virtual tokens of a model; None: it has none."""
    return next((module for module in model.modules() if isinstance(module, VirtualTokens)), None)


def form_of(model: PreTrainedModel) -> Head:
    """Returns the form of a model, by its class."""
    name = type(model).__name__
    return next(head for head, classes in _FORMS.items() if name in classes.values())


def is_encoder(model: PreTrainedModel) -> bool:
    """Says whether a model reads its text in both directions, and writes none."""
    return not model.config.is_encoder_decoder and model.config.model_type in _FORMS["masked"]
