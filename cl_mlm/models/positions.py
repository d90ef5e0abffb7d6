"""How many tokens a model can read: the sizes of its tables of positions, found in the modules and not by family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_mlm.models.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from cl_mlm.objective import Head

# What transformers' families call a table of the positions of tokens: an embedding or, with sines, a buffer.
TABLES = ("position_embeddings", "char_position_embeddings", "embed_positions", "wpe", "positions_embed")
BUFFERS = ("embed_positions", "pos_encoding")
NO_TEXT = ("vision", "visual", "image", "audio", "speech", "entity")  # parts that read no tokens
GROWS = ("make_weight", "make_weights")  # a table of sines that is made longer where a row needs it
# A tokenizer without a limit of its own says so by a number of thirty digits.
LONGEST = 10**6


@dataclass(frozen=True)
class PositionLimits:
    """Tokens that a model can read at most; beyond them an index is out of range. None: its weights set no limit.

    Attributes:
        input: of what the model reads.
        target: of what an encoder-decoder writes, the token that its decoder begins with included and the last one not;
            None for other models too.
    """

    input: int | None
    target: int | None = None


def position_limits(model: PreTrainedModel) -> PositionLimits:
    """Returns the limits of a model; its weights may be without memory.

    A table of positions has rows that no token takes: those up to the padding's (RoBERTa) or a fixed number of them
    (BART, OPT). Rotary, relative and linear (ALiBi) positions have no table, and no limit; only MPT's are cut off.
    Virtual tokens take positions, too.
    """
    settings: PretrainedConfig = model.config
    taken = {name: tokens.num for name, tokens in model.named_modules() if isinstance(tokens, VirtualTokens)}
    before_target = sum(num for name, num in taken.items() if _is_of_decoder(name))
    before_source = sum(taken.values()) - before_target
    tables = list(_tables(model))
    if not settings.is_encoder_decoder:
        cut_off = settings.max_seq_len if hasattr(model.base_model, "build_mpt_alibi_tensor") else None
        limit = smallest(cut_off, *(size for _, size in tables))
        return PositionLimits(None if limit is None else limit - sum(taken.values()))
    target = min((size - before_target for name, size in tables if _is_of_decoder(name)), default=None)
    source = min((size - before_source for name, size in tables if not _is_of_decoder(name)), default=None)
    if model.get_output_embeddings() is None:  # the decoder reads the input too
        return PositionLimits(smallest(source, target))
    return PositionLimits(source, target)


def stated_length(settings: PretrainedConfig) -> int | None:
    """Returns the tokens that a model's config names, for which it was made; None where it names none."""
    named = (getattr(settings, name, None) for name in ("n_positions", "max_position_embeddings"))
    return min((number for number in named if isinstance(number, int) and number > 0), default=None)


def own_length(
    limit: int | None, settings: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, kind: Head
) -> int | None:
    """Returns the longest sequence that suits a model, by its weights, config and tokenizer; None: none says it.

    Args:
        limit: what the weights set, from `position_limits`.
        settings: the model's config.
        tokenizer: the model's.
        kind: the form of the model; of a decoder, the config is a better source than the tokenizer.
    """
    own = stated_length(settings) if limit is None else limit
    of_tokenizer = tokenizer.model_max_length
    if of_tokenizer >= LONGEST or (kind == "causal" and own is not None):
        return own
    return smallest(own, int(of_tokenizer))


def smallest(*limits: int | None) -> int | None:
    """Returns the least of limits; None, which is no limit, where there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def _tables(model: PreTrainedModel) -> Iterator[tuple[str, int]]:
    """Yields the name of every table of positions and the tokens for which it has rows."""
    stated = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if _last(name) in TABLES and _reads_text(name):
            weight: torch.Tensor | None = getattr(module, "weight", None)
            if weight is not None and weight.dim() == 2 and not any(hasattr(module, method) for method in GROWS):
                size = weight.shape[0] - _num_unusable(module)
                # Nystromformer, YOSO and MRA leave out two rows without saying so in the module.
                yield name, min(size, stated) if isinstance(stated, int) and stated > 0 else size
    for name, buffer in model.named_buffers():
        if _last(name) in BUFFERS and _reads_text(name) and buffer.dim() == 2:
            yield name, buffer.shape[0]


def _num_unusable(module: Any) -> int:
    """Returns the rows at the start of a table that no token takes."""
    offset = getattr(module, "offset", None)
    if isinstance(offset, int):
        return offset
    padding: int | None = getattr(module, "padding_idx", None)
    num_predicted = int(hasattr(module, "_forward"))  # ProphetNet looks up the position behind the last token too
    return num_predicted + (0 if padding is None else padding + 1)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _reads_text(name: str) -> bool:
    return not any(word in name for word in NO_TEXT)


def _is_of_decoder(name: str) -> bool:
    return "decoder" in name.split(".")
