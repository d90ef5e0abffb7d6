"""What a masked model puts into the gap of a prompt: log p(words | the text around them).

Schick and Schütze (2021), Exploiting Cloze Questions for Few Shot Text Classification, arXiv:2001.07676 (one mask), and
(2021) It's Not Just Size That Matters, arXiv:2009.07118, section 3.1 (several): an answer of k tokens is asked for with
k masks; the mask whose token is the likeliest is filled in first, then the next, and the log-probabilities are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_mlm.errors import ConfigError, DataError
from cl_mlm.prompting.likelihood import Likelihoods
from cl_mlm.prompting.reader import Reader, log_probabilities
from cl_mlm.prompting.templates import SLOT

if TYPE_CHECKING:
    import torch


@dataclass
class _Gap:
    """One prompt with masks for one answer.

    Attributes:
        tokens: of the prompt, with those filled in so far.
        first: place of the first mask.
        answer: its tokens.
        open: which of them are not yet filled in.
        total: log p of the others, in nats.
    """

    tokens: list[int]
    first: int
    answer: list[int]
    open: list[int]
    total: float = 0.0


def cloze_likelihoods(reader: Reader, prompts: Sequence[str], answers: Sequence[str]) -> Likelihoods:
    """Returns log p of every answer in the gap of every prompt, (N, W).

    Args:
        reader: a masked model.
        prompts: N texts, each with one `SLOT`.
        answers: W texts.

    Raises:
        ConfigError: the tokenizer has no mask token.
        DataError: a prompt has not one gap.
    """
    import numpy as np

    if not isinstance(reader.tokenizer.mask_token_id, int):
        raise ConfigError("prompting: a cloze needs a tokenizer with a mask token, which this model's has not")
    odd = next((text for text in prompts if text.count(SLOT) != 1), None)
    if odd is not None:
        raise DataError(
            f"prompting: a prompt must have one gap, got {odd.count(SLOT)} in {odd.replace(SLOT, '[mask]')!r}"
        )
    total = np.zeros((len(prompts), len(answers)))
    num_tokens = np.zeros((len(prompts), len(answers)), dtype=np.int64)
    num_cut = 0
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    with reader.reading():
        for start in range(0, len(order), reader.batch_size):
            where = order[start : start + reader.batch_size]
            gaps: list[_Gap] = []
            for i in where:
                made, is_cut = _gaps(reader, prompts[i], answers)
                gaps += made
                num_cut += is_cut
            _fill(reader, gaps)
            total[where] = np.array([gap.total for gap in gaps]).reshape(len(where), -1)
            num_tokens[where] = np.array([len(gap.answer) for gap in gaps]).reshape(len(where), -1)
    return Likelihoods(total, num_tokens, num_cut)


def _gaps(reader: Reader, prompt: str, answers: Sequence[str]) -> tuple[list[_Gap], bool]:
    """Returns a prompt with masks for every answer, and whether it was cut.

    A prompt that is too long loses its beginning, and its end where the gap would go with the beginning.
    """
    before, _, behind = prompt.partition(SLOT)
    mask = reader.tokenizer.mask_token_id
    assert isinstance(mask, int)
    left = reader.tokens([before.rstrip()])[0]
    # In a running text, so that an answer's first token carries the space before it where tokens do.
    space = " " if before != before.rstrip() else ""
    anchor = "a" if before.strip() else ""
    own = [_continued(reader, anchor, space + answer) for answer in answers]
    right = _continued(reader, "a", behind)
    first, last = reader.frame
    gaps, is_cut = [], False
    for answer in own:
        room = reader.max_length - len(first) - len(last)
        kept_right = right[: max(0, room - len(answer))]
        kept_left = left[len(left) - max(0, min(len(left), room - len(answer) - len(kept_right))) :]
        is_cut = is_cut or len(kept_left) < len(left) or len(kept_right) < len(right)
        tokens = [*first, *kept_left, *([mask] * len(answer)), *kept_right, *last]
        gaps.append(_Gap(tokens, len(first) + len(kept_left), answer, list(range(len(answer)))))
    return gaps, is_cut


def _continued(reader: Reader, anchor: str, text: str) -> list[int]:
    """Returns the tokens that `text` adds behind `anchor`."""
    if not text:
        return []
    own, whole = reader.tokens([anchor, anchor + text]) if anchor else ([], reader.tokens([text])[0])
    return whole[len(own) :] if whole[: len(own)] == own and len(whole) > len(own) else reader.tokens([text])[0]


def _fill(reader: Reader, gaps: Sequence[_Gap]) -> None:
    """Fills every gap with its answer, the likeliest token first; equal texts are read once."""
    for _ in range(max(len(gap.answer) for gap in gaps)):
        waiting = [gap for gap in gaps if gap.open]
        texts: dict[tuple[int, ...], list[_Gap]] = {}
        for gap in waiting:
            texts.setdefault(tuple(gap.tokens), []).append(gap)
        unique = list(texts)
        for start in range(0, len(unique), reader.batch_size):
            part = unique[start : start + reader.batch_size]
            ids, mask = reader.padded(part)
            logits = reader.model(input_ids=ids, attention_mask=mask).logits
            for row, text in zip(logits, part, strict=True):
                for gap in texts[text]:
                    _take(gap, row)


def _take(gap: _Gap, logits: torch.Tensor) -> None:
    """Fills in the likeliest of the open tokens, given (T, V) logits."""
    import torch

    places = [gap.first + i for i in gap.open]
    wanted = torch.tensor([gap.answer[i] for i in gap.open], device=logits.device)
    found = log_probabilities(logits[places], wanted)
    best = int(found.argmax())
    gap.total += float(found[best])
    i = gap.open.pop(best)
    gap.tokens[gap.first + i] = gap.answer[i]
