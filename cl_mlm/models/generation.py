"""Greedy generation of a batch of rows, whatever generation settings the model brings along.

Axes: R rows, T tokens of the input.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from cl_mlm.models.answer_trie import AnswerTrie
    from cl_mlm.objective import Predictor


def generate_texts(
    run: Predictor,
    inputs: Mapping[str, torch.Tensor],
    max_new_tokens: int,
    decoder_start: int | None = None,
    *,
    end: int | None = None,
) -> list[str]:
    """Returns the text that the model writes for every row, without special tokens and outer white space.

    Each step takes the likeliest token, until the end token or `max_new_tokens`, in the run's precision.

    Args:
        run: has a model that can generate.
        inputs: `input_ids` and `attention_mask`, (R, T); those of a decoder are padded on the left.
        max_new_tokens: tokens that are written at most, the end token included.
        decoder_start: first token of an encoder-decoder's decoder; None: the model is a decoder.
        end: the token that ends an answer; None: the one that ends a text.
    """
    return texts_of(run.tokenizer, generate_tokens(run, inputs, max_new_tokens, decoder_start, end=end), end)


def generate_tokens(
    run: Predictor,
    inputs: Mapping[str, torch.Tensor],
    max_new_tokens: int,
    decoder_start: int | None = None,
    answers: AnswerTrie | None = None,
    end: int | None = None,
) -> list[list[int]]:
    """Returns the tokens that the model writes for every row, the end token included; see `generate_texts`.

    A row that has ended leaves the batch, and so do its keys and values: a long answer costs the steps of one row, not
    those of its batch. A model that does not keep keys and values in the usual way, or prepares its inputs in a way of
    its own, is asked through its `generate`, which keeps all rows to the end.

    Args:
        run: as for `generate_texts`.
        inputs: as for `generate_texts`.
        max_new_tokens: as for `generate_texts`.
        decoder_start: as for `generate_texts`.
        answers: the likeliest token is taken among those that continue one of these; None: among all. Where one answer
            is left, its tokens follow without the model.
        end: as for `generate_texts`.
    """
    import torch

    from cl_mlm.models.writing import begin, write

    end = end_token(run.tokenizer) if end is None else end
    with torch.no_grad(), run.autocast():
        writing = begin(run.model, inputs, decoder_start)
        if writing is not None:
            return write(writing, max_new_tokens, end, answers)
        return _generated(run, inputs, max_new_tokens, decoder_start, answers, end)


def _generated(
    run: Predictor,
    inputs: Mapping[str, torch.Tensor],
    max_new_tokens: int,
    decoder_start: int | None,
    answers: AnswerTrie | None,
    end: int,
) -> list[list[int]]:
    """Returns what `generate_tokens` does, by the model's own `generate`."""
    from transformers import GenerationConfig

    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=end,
        pad_token_id=end if run.tokenizer.pad_token_id is None else run.tokenizer.pad_token_id,
        decoder_start_token_id=decoder_start,
    )
    # A decoder repeats its input, an encoder-decoder the decoder's first token.
    first = inputs["input_ids"].shape[1] if decoder_start is None else 1
    more: dict[str, Any] = {}
    if answers is not None:
        more["prefix_allowed_tokens_fn"] = lambda row, ids: answers.tokens_after(ids[first:].tolist()) or [end]
    model: Any = run.model
    with _generation_config(model, greedy):
        rows = model.generate(**inputs, generation_config=greedy, **more)[:, first:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def texts_of(tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], end: int | None = None) -> list[str]:
    """Returns the texts that written tokens stand for: up to the end token, without special tokens and outer space."""
    end = end_token(tokenizer) if end is None else end
    ended = [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in rows]
    return [text.strip() for text in tokenizer.batch_decode(ended, skip_special_tokens=True)]


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token that ends a text: `eos_token`, else `sep_token`.

    Raises:
        ConfigError: the tokenizer has neither.
    """
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if isinstance(token, int):
            return token
    raise ConfigError("model.name: a model that writes needs a tokenizer with an eos_token or a sep_token, got neither")


def decoder_start_token(model: PreTrainedModel) -> int:
    """Returns the token that an encoder-decoder's decoder begins with.

    Raises:
        ConfigError: neither its config nor its generation config names one.
    """
    for settings in (model.config, model.generation_config):
        token = getattr(settings, "decoder_start_token_id", None)
        if isinstance(token, int):
            return token
    raise ConfigError("model.name: config.json of an encoder-decoder must have decoder_start_token_id, got none")


@contextmanager
def _generation_config(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Puts another generation config in the place of the model's own within the block.

    `generate` fills whatever it is not told from the model's own: beams, forced tokens, penalties.
    """
    former = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = former
