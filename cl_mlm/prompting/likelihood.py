"""How likely a model is to go on with a label's words: log p(words | prompt).

Axes: N prompts, W answers, T tokens of a prompt, C tokens of an answer, V vocabulary.

A decoder reads prompt and answer as one text. As in EleutherAI's lm-evaluation-harness, white space at the end of a
prompt belongs to the answer, both are tokenized together, and the answer's tokens are those beyond the prompt's own; no
end token is counted. A prompt is read once for all answers. An encoder-decoder reads the prompt and writes the answer.
A prompt that is too long loses its beginning, special tokens apart.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError
from cl_mlm.prompting.reader import Reader, as_floats, log_probabilities

if TYPE_CHECKING:
    import torch

    from cl_mlm.prompting.reader import FloatArray, IntArray


@dataclass(frozen=True)
class Likelihoods:
    """What was measured.

    Attributes:
        total: log p of every answer in nats, (N, W).
        num_tokens: tokens of every answer, (N, W).
        num_cut: prompts that were cut.
    """

    total: FloatArray
    num_tokens: IntArray
    num_cut: int


@dataclass(frozen=True)
class _Asked:
    """One prompt with its answers: what all share, how each goes on, and where in that its own tokens begin."""

    prefix: list[int]
    suffixes: list[list[int]]
    starts: list[int]
    is_cut: bool


def likelihoods(reader: Reader, prompts: Sequence[str], answers: Sequence[str]) -> Likelihoods:
    """Returns log p(answer | prompt) of every answer for every prompt.

    Args:
        reader: a decoder or an encoder-decoder.
        prompts: N texts.
        answers: W texts, of a decoder with what stands between prompt and answer before them.
    """
    import numpy as np

    total = np.zeros((len(prompts), len(answers)))
    num_tokens = np.zeros((len(prompts), len(answers)), dtype=np.int64)
    num_cut, rows = 0, max(1, reader.batch_size // max(1, len(answers)))
    measure, encode = (_causal, _together) if reader.kind == "causal" else (_seq2seq, _apart)
    # The longest first, so that memory is taken once.
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    with reader.reading():
        for start in range(0, len(order), rows):
            where = order[start : start + rows]
            asked = [encode(reader, prompts[i], answers) for i in where]
            total[where] = as_floats(measure(reader, asked))
            num_tokens[where] = [[len(s) - b for s, b in zip(a.suffixes, a.starts, strict=True)] for a in asked]
            num_cut += sum(a.is_cut for a in asked)
    return Likelihoods(total, num_tokens, num_cut)


def _together(reader: Reader, prompt: str, answers: Sequence[str]) -> _Asked:
    """Returns prompt and answers as one text for a decoder."""
    context = prompt.rstrip()
    between = prompt[len(context) :]
    own, *wholes = reader.tokens([context, *(f"{context}{between}{answer}" for answer in answers)])
    begins = [min(len(own), len(whole) - 1) for whole in wholes]
    shared = min(_num_shared(wholes), *begins)
    first = reader.frame[0]
    room = reader.max_length + 1 - len(first) - max(len(whole) - shared for whole in wholes)
    if room < 1:
        raise ConfigError(f"prompting.max_length: must leave room for the answers, got {reader.max_length}")
    prefix = [*first, *wholes[0][max(0, shared - room) : shared]] or [_start(reader)]
    return _Asked(
        prefix,
        [whole[shared:] for whole in wholes],
        [begin - shared for begin in begins],
        is_cut=shared > room,
    )


def _num_shared(rows: Sequence[Sequence[int]]) -> int:
    """Returns how many tokens all rows begin with alike."""
    return next((i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1), min(map(len, rows)))


def _start(reader: Reader) -> int:
    """Returns the token that an empty prompt is."""
    for found in (reader.tokenizer.bos_token_id, reader.tokenizer.eos_token_id):
        if isinstance(found, int):
            return found
    raise ConfigError("prompting.template: must not be empty for a model without bos_token and eos_token")


def _apart(reader: Reader, prompt: str, answers: Sequence[str]) -> _Asked:
    """Returns the prompt for an encoder and the answers for its decoder."""
    first, last = reader.frame
    room = reader.max_length - len(first) - len(last)
    own, *suffixes = reader.tokens([prompt, *answers])
    prefix = [*first, *own[max(0, len(own) - room) :], *last]
    return _Asked(prefix, suffixes, [0] * len(suffixes), is_cut=len(own) > room)


def _causal(reader: Reader, asked: Sequence[_Asked]) -> torch.Tensor:
    """Returns log p, (rows, W): the prompts are read once, and what they left is read on from by every answer."""
    import torch

    ids, mask = reader.padded([a.prefix for a in asked], left=True)
    longest = max(len(suffix) for a in asked for suffix in a.suffixes)
    more: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in reader.arguments else {}
    if "position_ids" in reader.arguments:
        more["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
    elif longest > 1 or (mask == 0).any():
        return _whole(reader, asked)
    read = reader.model(input_ids=ids, attention_mask=mask, use_cache=longest > 1, **more)
    first = read.logits[:, -1].float().log_softmax(-1)
    total = torch.stack(
        [
            first[i, [suffix[0] for suffix in a.suffixes]] * torch.tensor([b == 0 for b in a.starts], device=ids.device)
            for i, a in enumerate(asked)
        ]
    )
    if longest == 1:
        return total
    past = read.past_key_values
    if not _can_repeat(past):
        return _whole(reader, asked)
    for words, is_last in _chunks(len(asked[0].suffixes), max(1, reader.batch_size // len(asked))):
        cache = past if is_last else copy.deepcopy(past)
        total[:, words] += _go_on(reader, asked, words, cache, mask)
    return total


def _go_on(reader: Reader, asked: Sequence[_Asked], words: slice, cache: Any, mask: torch.Tensor) -> torch.Tensor:
    """Returns log p of every token of the answers `words` but the first, summed, (rows, words); uses the cache up."""
    import torch

    number = len(asked[0].suffixes[words])
    suffixes = [suffix for a in asked for suffix in a.suffixes[words]]
    ids, own = reader.padded([suffix[:-1] for suffix in suffixes])
    targets, is_target = _targets(reader, suffixes, [b for a in asked for b in a.starts[words]])
    if ids.shape[1] == 0:
        return torch.zeros(len(asked), number, device=mask.device)
    cache.batch_repeat_interleave(number)
    before = mask.repeat_interleave(number, 0)
    positions = before.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=ids.device)
    read = reader.model(
        input_ids=ids,
        attention_mask=torch.cat([before, own], 1),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return (log_probabilities(read.logits, targets) * is_target).sum(1).view(len(asked), number)


def _targets(
    reader: Reader, suffixes: Sequence[Sequence[int]], starts: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the tokens of suffixes but the first, (sequences, C - 1), and which of them are an answer's own."""
    import torch

    targets, mask = reader.padded([suffix[1:] for suffix in suffixes])
    places = torch.arange(1, targets.shape[1] + 1, device=targets.device)
    return targets, mask.bool() & (places >= torch.tensor(starts, device=targets.device)[:, None])


def _can_repeat(cache: Any) -> bool:
    """Says whether what a prompt left can be read on from by several answers."""
    from transformers import DynamicCache

    return type(cache) is DynamicCache and not any(cache.is_sliding)


def _whole(reader: Reader, asked: Sequence[_Asked]) -> torch.Tensor:
    """Returns log p, (rows, W), of a model that cannot share a prompt: every answer is read with it."""
    import torch

    number = len(asked[0].suffixes)
    pairs = [(a.prefix, suffix, begin) for a in asked for suffix, begin in zip(a.suffixes, a.starts, strict=True)]
    found = []
    for start in range(0, len(pairs), reader.batch_size):
        part = pairs[start : start + reader.batch_size]
        ids, mask = reader.padded([[*prefix, *suffix[:-1]] for prefix, suffix, _ in part])
        logits = reader.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for i, (prefix, suffix, begin) in enumerate(part):
            first = len(prefix) - 1 + begin
            wanted = torch.tensor(suffix[begin:], device=ids.device)
            found.append(log_probabilities(logits[i, first : first + len(wanted)], wanted).sum())
    return torch.stack(found).view(len(asked), number)


def _seq2seq(reader: Reader, asked: Sequence[_Asked]) -> torch.Tensor:
    """Returns log p, (rows, W): the prompts are encoded once, and every answer is decoded from them."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    model, start = reader.model, reader.decoder_start
    assert start is not None
    ids, mask = reader.padded([a.prefix for a in asked])
    hidden = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    found = []
    for words, _ in _chunks(len(asked[0].suffixes), max(1, reader.batch_size // len(asked))):
        number = len(asked[0].suffixes[words])
        suffixes = [suffix for a in asked for suffix in a.suffixes[words]]
        written, _ = reader.padded([[start, *suffix[:-1]] for suffix in suffixes])
        targets, is_target = reader.padded(suffixes)
        read = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden.repeat_interleave(number, 0)),
            attention_mask=mask.repeat_interleave(number, 0),
            decoder_input_ids=written,
            use_cache=False,
        )
        found.append((log_probabilities(read.logits, targets) * is_target).sum(1).view(len(asked), number))
    return torch.cat(found, 1)


def _chunks(count: int, size: int) -> Iterator[tuple[slice, bool]]:
    """Yields slices of `size` and whether each is the last."""
    for start in range(0, count, size):
        yield slice(start, start + size), start + size >= count
