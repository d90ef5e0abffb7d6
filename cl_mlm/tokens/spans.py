"""Pieces of a text in characters and in tokens: where an answer stands, and which span is the likeliest.

Axes: I inputs, T tokens. A place is begin and end in characters of the context, the end not included.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

OUTSIDE = -1  # instead of a character's place, for tokens that are not of the context


def best_spans(log_p: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the likeliest span of at most `longest` tokens: its log-probability, start and end, (I,) each.

    Args:
        log_p: of starting and of ending at every position, (I, T, 2).
        longest: tokens of a span.
    """
    from torch.nn.functional import pad

    longest = min(longest, log_p.shape[1])
    ends = pad(log_p[..., 1], (0, longest - 1), value=float("-inf")).unfold(1, longest, 1)
    best = (log_p[..., 0, None] + ends).flatten(1).max(-1)  # (I, T * longest)
    start = best.indices // longest
    # Where no span is possible the place means nothing, but must be one.
    return best.values, start, (start + best.indices % longest).clamp_max(log_p.shape[1] - 1)


def first_answer(context: str, answers: Mapping[str, Any]) -> tuple[int, int]:
    """Returns where the first answer begins and ends, in characters, white space around it left out."""
    text, start = answers["text"][0], answers["answer_start"][0]
    return start + len(text) - len(text.lstrip()), start + len(text.rstrip())


def context_places(offsets: Sequence[tuple[int, int]], sequences: Sequence[int | None]) -> list[tuple[int, int]]:
    """Returns the place in the context of every token, OUTSIDE for tokens of the question and special ones."""
    return [
        place if sequence == 1 and place[1] > place[0] else (OUTSIDE, OUTSIDE)
        for place, sequence in zip(offsets, sequences, strict=True)
    ]


def token_span(places: Sequence[tuple[int, int]], span: tuple[int, int], none: int) -> tuple[int, int]:
    """Returns the first and last token of a span, or twice `none` where the window does not hold the whole span."""
    inside = [i for i, (start, _) in enumerate(places) if start >= 0]
    if not inside or places[inside[0]][0] > span[0] or places[inside[-1]][1] < span[1]:
        return none, none
    # The first token that ends behind the span's begin, the last that begins before its end.
    start = bisect_right([places[i][1] for i in inside], span[0])
    end = bisect_left([places[i][0] for i in inside], span[1]) - 1
    return (inside[start], inside[end]) if start <= end else (none, none)


def answer_fault(context: Any, answers: Any) -> tuple[str, str]:
    """Returns the rule that a row's answers break and what was found, both empty where all is well."""
    given = answers if isinstance(answers, Mapping) else {}
    texts, starts = given.get("text"), given.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return "be {text: [...], answer_start: [...]}, both of one length", repr(answers)
    if not texts:
        return "hold at least one text", repr(answers)
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip() or not isinstance(start, int):
            return "be non-empty strings at whole numbers", f"{text!r} at {start!r}"
        if not isinstance(context, str):
            break
        if not 0 <= start <= len(context) - len(text):
            return "lie inside the context", f"{text!r} at {start} of {len(context)} characters"
        if context[start : start + len(text)] != text:
            return (
                "stand where they begin",
                f"{text!r} at {start}, where the context has {context[start:][: len(text)]!r}",
            )
    return "", ""
