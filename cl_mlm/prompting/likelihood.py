"""Scores answers by the likelihood that a model continues a prompt with them: log p(words | prompt).

A decoder reads prompt and answer as one text. As in EleutherAI's lm-evaluation-harness, white space at the end of a
prompt belongs to the answer, both are tokenized together, and the answer's tokens are those beyond the prompt's own; no
end token is counted. A prompt is read once for all answers. An encoder-decoder reads the prompt and writes the answer.
A prompt that is too long loses its start, but keeps the special tokens there.

Axes: N prompts, W answers, B prompts of a batch, C tokens of an answer.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from cl_mlm.errors import ConfigError
from cl_mlm.prompting.reader import Reader, as_floats, log_probabilities

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cl_mlm.prompting.reader import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Likelihoods:
    """The likelihoods of answers.

    Attributes:
        total: log p of every answer in nats, (N, W).
        num_tokens: tokens of every answer, (N, W).
        is_cut: which prompts were cut, bool (N,).
    """

    total: FloatArray
    num_tokens: IntArray
    is_cut: BoolArray

    @property
    def num_cut(self) -> int:
        """Number of prompts that were cut."""
        return int(self.is_cut.sum())


@dataclass(frozen=True)
class _Question:
    """One prompt with its answers, tokenized.

    Attributes:
        prefix: tokens that come before every answer.
        suffixes: of every answer, the tokens behind the prefix; at least one.
        starts: of every answer, where in its suffix its own tokens start; tokens before are still the prompt's.
        is_cut: whether the prompt was cut.
    """

    prefix: list[int]
    suffixes: list[list[int]]
    starts: list[int]
    is_cut: bool


def likelihoods(reader: Reader, prompts: Sequence[str], answers: Sequence[str]) -> Likelihoods:
    """Returns log p(answer | prompt) of every answer for every prompt.

    Args:
        reader: a decoder or an encoder-decoder.
        prompts: N texts.
        answers: W texts; those for a decoder begin with the delimiter that separates prompt and answer.
    """
    total = np.zeros((len(prompts), len(answers)))
    num_tokens = np.zeros((len(prompts), len(answers)), dtype=np.int64)
    is_cut = np.zeros(len(prompts), dtype=np.bool_)
    batch_prompts = max(1, reader.batch_size // max(1, len(answers)))
    encode, measure = (_as_one_text, _causal) if reader.kind == "causal" else (_as_two_texts, _seq2seq)
    # The longest first: the first batch then needs the most memory.
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    with reader.reading():
        for start in range(0, len(order), batch_prompts):
            where = order[start : start + batch_prompts]
            questions = [encode(reader, prompts[i], answers) for i in where]
            total[where] = as_floats(measure(reader, questions))
            num_tokens[where] = [_num_answer_tokens(question) for question in questions]
            is_cut[where] = [question.is_cut for question in questions]
    return Likelihoods(total, num_tokens, is_cut)


def _num_answer_tokens(question: _Question) -> list[int]:
    """Returns the tokens of every answer, (W,)."""
    return [len(suffix) - start for suffix, start in zip(question.suffixes, question.starts, strict=True)]


def _as_one_text(reader: Reader, prompt: str, answers: Sequence[str]) -> _Question:
    """Returns a question for a decoder, which reads prompt and answer as one text."""
    # The words of a chat template are the question's to their end.
    context = prompt if reader.chat else prompt.rstrip()
    white_space = prompt[len(context) :]
    of_context, *wholes = reader.tokens([context, *(f"{context}{white_space}{answer}" for answer in answers)])
    # At least one token is the answer's own, even where the answer only changes the last token of the context.
    starts = [min(len(of_context), len(whole) - 1) for whole in wholes]
    num_shared = min(_num_shared(wholes), *starts)
    first = reader.frame[0]
    # The last token of an answer is predicted but never read, so that there is room for one token more.
    room = reader.max_length + 1 - len(first) - max(len(whole) - num_shared for whole in wholes)
    if room < 1:
        raise ConfigError(f"prompting.max_length: must leave room for the answers, got {reader.max_length}")
    return _Question(
        prefix=[*first, *wholes[0][max(0, num_shared - room) : num_shared]] or [_start(reader)],
        suffixes=[whole[num_shared:] for whole in wholes],
        starts=[start - num_shared for start in starts],
        is_cut=num_shared > room,
    )


def _num_shared(rows: Sequence[Sequence[int]]) -> int:
    """Returns the length of the longest common prefix of all rows."""
    return next((i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1), min(map(len, rows)))


def _start(reader: Reader) -> int:
    """Returns the token that stands for an empty prompt."""
    for token in (reader.tokenizer.bos_token_id, reader.tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise ConfigError("prompting.template: must not be empty for a model without bos_token and eos_token")


def _as_two_texts(reader: Reader, prompt: str, answers: Sequence[str]) -> _Question:
    """Returns a question for an encoder-decoder: the encoder reads the prompt, the decoder the answer."""
    first, last = reader.frame
    room = reader.max_length - len(first) - len(last)
    of_prompt, *suffixes = reader.tokens([prompt, *answers])
    prefix = [*first, *of_prompt[max(0, len(of_prompt) - room) :], *last]
    return _Question(prefix, suffixes, [0] * len(suffixes), is_cut=len(of_prompt) > room)


def _causal(reader: Reader, questions: Sequence[_Question]) -> torch.Tensor:
    """Returns log p of the answers by a decoder, (B, W); each prompt is read once, and all answers continue its cache.

    The prompt predicts the first token of every suffix; the suffixes are read only where they have more.
    """
    ids, mask = reader.padded([question.prefix for question in questions], left=True)
    longest = max(len(suffix) for question in questions for suffix in question.suffixes)
    more: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in reader.arguments else {}
    if "position_ids" in reader.arguments:
        more["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
    elif longest > 1 or (mask == 0).any():
        # Positions cannot be told, so padding on the left and continuing a cache would shift them.
        return _without_cache(reader, questions)
    output = reader.model(input_ids=ids, attention_mask=mask, use_cache=longest > 1, **more)
    total = _first_tokens(output.logits[:, -1].float().log_softmax(-1), questions)
    if longest == 1:
        return total
    prompt_cache = output.past_key_values
    if not _can_repeat(prompt_cache):
        return _without_cache(reader, questions)
    for chunk, is_last in _chunks(len(questions[0].suffixes), max(1, reader.batch_size // len(questions))):
        cache = prompt_cache if is_last else copy.deepcopy(prompt_cache)
        total[:, chunk] += _go_on(reader, questions, chunk, cache, mask)
    return total


def _first_tokens(log_p: torch.Tensor, questions: Sequence[_Question]) -> torch.Tensor:
    """Returns log p of the first token of every suffix, (B, W); 0 where it is still the prompt's.

    Args:
        log_p: log-probabilities behind every prefix, (B, V) for a vocabulary of V.
        questions: B prompts with W answers each.
    """
    rows = []
    for of_prompt, question in zip(log_p, questions, strict=True):
        is_own = torch.tensor([start == 0 for start in question.starts], device=log_p.device)
        rows.append(of_prompt[[suffix[0] for suffix in question.suffixes]] * is_own)
    return torch.stack(rows)


def _go_on(
    reader: Reader, questions: Sequence[_Question], chunk: slice, cache: Any, mask: torch.Tensor
) -> torch.Tensor:
    """Returns the summed log p of all tokens of suffixes but the first, (B, answers of the chunk).

    Args:
        reader: a decoder.
        questions: B prompts.
        chunk: which answers.
        cache: keys and values of the prompts; mutated.
        mask: mask of the prompts' tokens.
    """
    num_answers = len(questions[0].suffixes[chunk])
    suffixes = [suffix for question in questions for suffix in question.suffixes[chunk]]
    starts = [start for question in questions for start in question.starts[chunk]]
    ids, suffix_mask = reader.padded([suffix[:-1] for suffix in suffixes])
    if ids.shape[1] == 0:
        return torch.zeros(len(questions), num_answers, device=mask.device)
    targets, is_target = _targets(reader, suffixes, starts)
    cache.batch_repeat_interleave(num_answers)
    prompt_mask = mask.repeat_interleave(num_answers, 0)
    positions = prompt_mask.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=ids.device)
    output = reader.model(
        input_ids=ids,
        attention_mask=torch.cat([prompt_mask, suffix_mask], 1),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return (log_probabilities(output.logits, targets) * is_target).sum(1).view(len(questions), num_answers)


def _targets(
    reader: Reader, suffixes: Sequence[Sequence[int]], starts: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the tokens of suffixes but the first, (suffixes, C - 1), and which of them are an answer's own."""
    targets, mask = reader.padded([suffix[1:] for suffix in suffixes])
    places = torch.arange(1, targets.shape[1] + 1, device=targets.device)
    return targets, mask.bool() & (places >= torch.tensor(starts, device=targets.device)[:, None])


def _can_repeat(cache: Any) -> bool:
    """Whether several answers can continue a prompt's cache: it keeps all tokens, and its rows can be repeated."""
    return type(cache) is DynamicCache and not any(cache.is_sliding)


def _without_cache(reader: Reader, questions: Sequence[_Question]) -> torch.Tensor:
    """Returns log p of the answers by a decoder, (B, W); the prompt is read again with every answer."""
    sequences = [
        (question.prefix, suffix, start)
        for question in questions
        for suffix, start in zip(question.suffixes, question.starts, strict=True)
    ]
    total = []
    for begin in range(0, len(sequences), reader.batch_size):
        batch = sequences[begin : begin + reader.batch_size]
        ids, mask = reader.padded([[*prefix, *suffix[:-1]] for prefix, suffix, _ in batch])
        logits = reader.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for i, (prefix, suffix, start) in enumerate(batch):
            first = len(prefix) - 1 + start
            answer = torch.tensor(suffix[start:], device=ids.device)
            total.append(log_probabilities(logits[i, first : first + len(answer)], answer).sum())
    return torch.stack(total).view(len(questions), -1)


def _seq2seq(reader: Reader, questions: Sequence[_Question]) -> torch.Tensor:
    """Returns log p of the answers by an encoder-decoder, (B, W); the prompts are encoded once for all answers."""
    model, decoder_start = reader.model, reader.decoder_start
    assert decoder_start is not None
    ids, mask = reader.padded([question.prefix for question in questions])
    hidden = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    total = []
    for chunk, _ in _chunks(len(questions[0].suffixes), max(1, reader.batch_size // len(questions))):
        num_answers = len(questions[0].suffixes[chunk])
        suffixes = [suffix for question in questions for suffix in question.suffixes[chunk]]
        decoder_ids, _ = reader.padded([[decoder_start, *suffix[:-1]] for suffix in suffixes])
        targets, is_target = reader.padded(suffixes)
        output = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden.repeat_interleave(num_answers, 0)),
            attention_mask=mask.repeat_interleave(num_answers, 0),
            decoder_input_ids=decoder_ids,
            use_cache=False,
        )
        log_p = (log_probabilities(output.logits, targets) * is_target).sum(1)
        total.append(log_p.view(len(questions), num_answers))
    return torch.cat(total, 1)


def _chunks(count: int, size: int) -> Iterator[tuple[slice, bool]]:
    """Yields slices of `size` of `count` things, and whether each is the last."""
    for start in range(0, count, size):
        yield slice(start, start + size), start + size >= count
