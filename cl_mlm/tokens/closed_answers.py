"""Answers of a closed list, of which a model that writes chooses one: constrained decoding.

Axes: R rows, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.batch import Predictions
from cl_mlm.models.answer_trie import AnswerTrie
from cl_mlm.models.generation import generate_tokens, texts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from cl_mlm.objective import Predictor


def choose(
    run: Predictor,
    inputs: Mapping[str, torch.Tensor],
    answers: Sequence[str],
    decoder_start: int | None,
    tokens: Sequence[list[int]],
) -> Predictions:
    """Returns one of the answers for every row, and as `free` what the model writes where nothing holds it to them.

    Each step takes the likeliest token among those that continue an answer. Where free writing gives the tokens of an
    answer, it has taken the same steps; only the other rows are written a second time.

    Args:
        run: has a model that can generate.
        inputs: `input_ids` and `attention_mask`, (R, T); those of a decoder are padded on the left.
        answers: texts that differ in their tokens.
        decoder_start: first token of an encoder-decoder's decoder; None: the model is a decoder.
        tokens: of every answer, as those of targets in training, with the end token.
    """
    trie, most, end = AnswerTrie(tokens), max(map(len, tokens)), tokens[0][-1]
    free = generate_tokens(run, inputs, most, decoder_start, end=end)
    places = [trie.place_of(row) for row in free]
    others = [row for row, place in enumerate(places) if place is None]
    if others:
        picked = {name: tensor[others] for name, tensor in inputs.items()}
        for row, written in zip(others, generate_tokens(run, picked, most, decoder_start, trie, end), strict=True):
            places[row] = trie.place_of(written)
    values = [answers[place] for place in places if place is not None]
    return Predictions(values, free=texts_of(run.tokenizer, free, end))


def token_faults(answers: Sequence[str], tokens: Sequence[list[int]], max_new_tokens: int) -> list[str]:
    """Returns why a model cannot be held to these answers: some have the same tokens, or too many of them."""
    faults, seen = [], dict[tuple[int, ...], str]()
    for answer, own in zip(answers, map(tuple, tokens), strict=True):
        first = seen.setdefault(own, answer)
        if first != answer:
            faults.append(f"stream.options.answers: {first!r} and {answer!r} have the same tokens, so that none can be")
        if own[-1] in own[:-1]:
            faults.append(f"stream.options.answers: {answer!r} holds the token that ends a text, so that it cannot be")
        if len(own) > max_new_tokens:
            size = f"has {len(own)} tokens with the end token"
            faults.append(
                f"stream.options.max_new_tokens: {answer!r} {size}, got {max_new_tokens}, so that it cannot be"
            )
    if not faults:
        return []
    rest = f" ({len(faults) - 1} more such faults)" if len(faults) > 1 else ""
    return [f"{faults[0]} chosen with decode: constrained{rest}"]
