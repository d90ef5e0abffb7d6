"""peft's description of virtual tokens, and the names under which an adapter's file holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cl_mlm.models.prefixes import Prefix
from cl_mlm.models.virtual_tokens import NAME, VirtualTokens, form_of, virtual_tokens_of

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import PreTrainedModel

    from cl_mlm.config.schema import FinetuningConfig
    from cl_mlm.objective import Head

READ: Final = "prompt_embeddings"  # peft's name of what a model reads
START: Final = "base_model."  # of a head's names in a `PeftModel` with virtual tokens
# peft has no form for masked language models; the one for features calls any model.
TASKS: Final[dict[Head, str]] = {
    "sequence": "SEQ_CLS",
    "token": "TOKEN_CLS",
    "span": "QUESTION_ANS",
    "causal": "CAUSAL_LM",
    "seq2seq": "SEQ_2_SEQ_LM",
    "masked": "FEATURE_EXTRACTION",
}


def peft_reads(model: PreTrainedModel) -> bool:
    """Says whether peft makes of a file what is computed here.

    It gives the layers of an encoder-decoder's decoder others' prefixes: of an even number of layers, half of the
    prefix is never read.
    """
    return not (isinstance(virtual_tokens_of(model), Prefix) and model.config.is_encoder_decoder)


def prompt_config(model: PreTrainedModel, finetuning: FinetuningConfig) -> PeftConfig:
    """Returns peft's description of a model's virtual tokens.

    Args:
        model: with its virtual tokens.
        finetuning: mode and options.
    """
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

    tokens = virtual_tokens_of(model)
    assert tokens is not None
    decoder: Any = model.config.get_text_config(decoder=True)
    shared: dict[str, Any] = {
        "task_type": TASKS[form_of(model)],
        "num_virtual_tokens": tokens.num,
        "num_transformer_submodules": 1,
        "num_layers": decoder.num_hidden_layers,
        "num_attention_heads": decoder.num_attention_heads,
        "token_dim": tokens.weight.shape[1],
    }
    if isinstance(tokens, Prefix):
        layers, heads, size = tokens.shape
        shared |= {"num_layers": layers, "num_attention_heads": heads, "token_dim": heads * size}
        return PrefixTuningConfig(**shared)
    if finetuning.mode == "p_tuning":
        return PromptEncoderConfig(**shared, encoder_hidden_size=finetuning.hidden_size or tokens.weight.shape[1])
    return PromptTuningConfig(**shared)


def named_tokens(tokens: VirtualTokens) -> dict[str, torch.nn.Parameter]:
    """Returns what is trained of virtual tokens, by its name in the file; weights that are read go by peft's name."""
    return {
        READ if not tokens.is_encoded and name == "weight" else f"{NAME}.{name}": parameter
        for name, parameter in tokens.named_parameters()
    }


def computed_tokens(tokens: VirtualTokens) -> dict[str, torch.Tensor]:
    """Returns, by peft's name, what a model reads where it is computed of what is trained."""
    return {READ: tokens.values()} if tokens.is_encoded else {}
