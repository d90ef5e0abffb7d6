"""Scores answers in the gap of a prompt with a masked model: log p(words | the text around them).

Schick and Schütze (2021), Exploiting Cloze Questions for Few Shot Text Classification, arXiv:2001.07676 (one mask), and
(2021) It's Not Just Size That Matters, arXiv:2009.07118, section 3.1 (several). For an answer of k tokens the gap has k
masks. The mask whose token is the likeliest is filled in first, then the next, and the log-probabilities are added.

Axes: N prompts, W answers, T tokens of a prompt, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cl_mlm.data.templates import SLOT
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.prompting.likelihood import Likelihoods
from cl_mlm.prompting.reader import Reader, log_probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class _Gap:
    """One prompt with masks for one answer.

    Attributes:
        tokens: of the prompt, with the answer's tokens filled in so far.
        first: position of the first mask.
        answer: tokens of the answer.
        unfilled: which tokens of the answer are not yet filled in.
        log_p: sum over the tokens filled in, in nats.
    """

    tokens: list[int]
    first: int
    answer: list[int]
    unfilled: list[int]
    log_p: float = 0.0


def cloze_likelihoods(reader: Reader, prompts: Sequence[str], answers: Sequence[str]) -> Likelihoods:
    """Returns log p of every answer in the gap of every prompt, (N, W).

    Args:
        reader: a masked model.
        prompts: N texts, each with one `SLOT`.
        answers: W texts.

    Raises:
        ConfigError: the tokenizer has no mask token.
        DataError: a prompt has no gap, or several.
    """
    if not isinstance(reader.tokenizer.mask_token_id, int):
        raise ConfigError("prompting: a cloze needs a tokenizer with a mask token, which this model's has not")
    odd = next((text for text in prompts if text.count(SLOT) != 1), None)
    if odd is not None:
        raise DataError(
            f"prompting: a prompt must have one gap, got {odd.count(SLOT)} in {odd.replace(SLOT, '[mask]')!r}"
        )
    total = np.zeros((len(prompts), len(answers)))
    num_tokens = np.zeros((len(prompts), len(answers)), dtype=np.int64)
    is_cut = np.zeros(len(prompts), dtype=np.bool_)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    with reader.reading():
        for start in range(0, len(order), reader.batch_size):
            where = order[start : start + reader.batch_size]
            gaps: list[_Gap] = []
            for i in where:
                of_prompt, is_cut[i] = _gaps(reader, prompts[i], answers)
                gaps += of_prompt
            _fill(reader, gaps)
            total[where] = np.array([gap.log_p for gap in gaps]).reshape(len(where), -1)
            num_tokens[where] = np.array([len(gap.answer) for gap in gaps]).reshape(len(where), -1)
    return Likelihoods(total, num_tokens, is_cut)


def _gaps(reader: Reader, prompt: str, answers: Sequence[str]) -> tuple[list[_Gap], bool]:
    """Returns one gap for every answer in a prompt, and whether the prompt was cut for any of them.

    A prompt that is too long loses its start; where the text behind the gap is too long by itself, its end too.
    """
    before, _, behind = prompt.partition(SLOT)
    mask = reader.tokenizer.mask_token_id
    assert isinstance(mask, int)
    left = reader.tokens([before.rstrip()])[0]
    # An answer is tokenized as in running text: its first token carries the space before it, if tokens do so at all.
    space = " " if before != before.rstrip() else ""
    anchor = "a" if before.strip() else ""
    answers_tokens = [_continuation(reader, anchor, space + answer) for answer in answers]
    right = _continuation(reader, "a", behind)
    first, last = reader.frame
    gaps, is_cut = [], False
    for answer in answers_tokens:
        room = reader.max_length - len(first) - len(last) - len(answer)
        if room < 0:
            raise ConfigError(f"prompting.max_length: must leave room for the answers, got {reader.max_length}")
        cut_right = right[: max(0, room)]
        num_left = max(0, min(len(left), room - len(cut_right)))
        cut_left = left[len(left) - num_left :]
        is_cut = is_cut or len(cut_left) < len(left) or len(cut_right) < len(right)
        tokens = [*first, *cut_left, *([mask] * len(answer)), *cut_right, *last]
        gaps.append(_Gap(tokens, len(first) + len(cut_left), answer, list(range(len(answer)))))
    return gaps, is_cut


def _continuation(reader: Reader, anchor: str, text: str) -> list[int]:
    """Returns the tokens of `text` as it follows `anchor`; by itself where the two texts share a token."""
    if not text:
        return []
    if anchor:
        of_anchor, whole = reader.tokens([anchor, anchor + text])
        if len(whole) > len(of_anchor) and whole[: len(of_anchor)] == of_anchor:
            return whole[len(of_anchor) :]
    return reader.tokens([text])[0]


def _fill(reader: Reader, gaps: Sequence[_Gap]) -> None:
    """Fills every gap with its answer, the likeliest token first; the model reads equal texts once."""
    for _ in range(max(len(gap.answer) for gap in gaps)):
        gaps_of: dict[tuple[int, ...], list[_Gap]] = {}
        for gap in gaps:
            if gap.unfilled:
                gaps_of.setdefault(tuple(gap.tokens), []).append(gap)
        texts = list(gaps_of)
        for start in range(0, len(texts), reader.batch_size):
            batch = texts[start : start + reader.batch_size]
            ids, mask = reader.padded(batch)
            logits = reader.model(input_ids=ids, attention_mask=mask).logits
            for text_logits, text in zip(logits, batch, strict=True):
                for gap in gaps_of[text]:
                    _fill_in_likeliest(gap, text_logits)


def _fill_in_likeliest(gap: _Gap, logits: torch.Tensor) -> None:
    """Fills in the likeliest of the unfilled tokens of an answer; mutates the gap.

    Args:
        gap: with at least one unfilled token.
        logits: of the gap's tokens, (T, V).
    """
    positions = [gap.first + i for i in gap.unfilled]
    tokens = torch.tensor([gap.answer[i] for i in gap.unfilled], device=logits.device)
    log_p = log_probabilities(logits[positions], tokens)
    best = int(log_p.argmax())
    gap.log_p += float(log_p[best])
    i = gap.unfilled.pop(best)
    gap.tokens[gap.first + i] = gap.answer[i]
