"""Greedy generation of a batch of rows, whatever the model's own habits of generation are.

Axes: R rows, T tokens of the input, N new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError
from cl_mlm.objective import Predictor

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def generate_texts(
    run: Predictor, inputs: Mapping[str, torch.Tensor], max_new_tokens: int, decoder_start: int | None = None
) -> list[str]:
    """Returns what the model writes for every row, without special tokens and outer white space.

    Each step takes the likeliest token, up to the end token or to `max_new_tokens`, in the run's precision.

    Args:
        run: with a model that can generate.
        inputs: `input_ids` and `attention_mask`, (R, T); a decoder's are padded on the left.
        max_new_tokens: the end token included.
        decoder_start: the decoder's first token in an encoder-decoder; None: a decoder.
    """
    from transformers import GenerationConfig

    end = end_token(run.tokenizer)
    plain = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=end,
        pad_token_id=run.tokenizer.pad_token_id,
        decoder_start_token_id=decoder_start,
    )
    model: Any = run.model
    with run.autocast(), _habits(model, plain):
        found = model.generate(**inputs, generation_config=plain)
    first = inputs["input_ids"].shape[1] if decoder_start is None else 1
    rows = [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in found[:, first:].tolist()]
    return [text.strip() for text in run.tokenizer.batch_decode(rows, skip_special_tokens=True)]


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token that ends a text: `eos_token`, else `sep_token`.

    Raises:
        ConfigError: the tokenizer has neither.
    """
    for found in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if isinstance(found, int):
            return found
    raise ConfigError("model.name: a model that writes needs a tokenizer with an eos_token or a sep_token, got neither")


def decoder_start_token(model: PreTrainedModel) -> int:
    """Returns the token that an encoder-decoder's decoder begins with.

    Raises:
        ConfigError: neither its config nor its generation config names one.
    """
    for settings in (model.config, model.generation_config):
        found = getattr(settings, "decoder_start_token_id", None)
        if isinstance(found, int):
            return found
    raise ConfigError("model.name: config.json of an encoder-decoder must have decoder_start_token_id, got none")


@contextmanager
def _habits(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Puts the model's generation config aside: beams, forced tokens or penalties of it fill whatever is unset."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
