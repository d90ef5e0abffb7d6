"""Spans of a context in characters and in tokens: finds the tokens of an answer, and the likeliest span.

Axes: I inputs, T tokens. A place is the first character of the context and the one behind the last.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

OUTSIDE = -1  # the place of tokens that are not of the context


def best_spans(log_p: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the likeliest span of at most `longest` tokens: its log-probability, first and last token, (I,) each.

    Args:
        log_p: log-probability of starting and of ending at every token, (I, T, 2).
        longest: tokens of a span at most.
    """
    from torch.nn.functional import pad

    longest = min(longest, log_p.shape[1])
    ends = pad(log_p[..., 1], (0, longest - 1), value=float("-inf")).unfold(1, longest, 1)  # (I, T, longest)
    best = (log_p[..., 0, None] + ends).flatten(1).max(-1)  # (I, T * longest)
    start = best.indices // longest
    # Where no span is possible, start and end mean nothing, but must lie inside.
    return best.values, start, (start + best.indices % longest).clamp_max(log_p.shape[1] - 1)


def first_answer(context: str, answers: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the place of the first answer in the context, without the white space around it."""
    text, start = answers["text"][0], answers["answer_start"][0]
    return start + len(text) - len(text.lstrip()), start + len(text.rstrip())


def context_places(offsets: Sequence[tuple[int, int]], sequences: Sequence[int | None]) -> list[tuple[int, int]]:
    """Returns the place of every token in the context, OUTSIDE for special tokens and those of the question."""
    return [
        place if sequence == 1 and place[1] > place[0] else (OUTSIDE, OUTSIDE)
        for place, sequence in zip(offsets, sequences, strict=True)
    ]


def token_span(places: Sequence[tuple[int, int]], span: tuple[int, int], none: int) -> tuple[int, int]:
    """Returns the first and the last token of a span.

    Args:
        places: of every token of a window, from `context_places`.
        span: place of the span in the context.
        none: token that stands for both where the window does not hold the whole span.
    """
    inside = [i for i, (start, _) in enumerate(places) if start >= 0]
    if not inside or places[inside[0]][0] > span[0] or places[inside[-1]][1] < span[1]:
        return none, none
    # The first token that ends behind the span's start, the last token that starts before its end.
    start = bisect_right([places[i][1] for i in inside], span[0])
    end = bisect_left([places[i][0] for i in inside], span[1]) - 1
    return (inside[start], inside[end]) if start <= end else (none, none)


def nearest_spans(places: Sequence[tuple[int, int]], span: tuple[int, int], longest: int) -> list[tuple[int, int]]:
    """Returns the places of the spans of at most `longest` tokens that come nearest to a span of characters.

    They begin with the first token that touches the span or with the first that lies within it, and end likewise. Where
    those are too many tokens, they end earlier.

    Args:
        places: of every token of a window, from `context_places`.
        span: place of the span in the context.
        longest: tokens of a span at most.
    """
    touching = [i for i, place in enumerate(places) if touches(place, span)]
    within = [i for i in touching if places[i][0] >= span[0] and places[i][1] <= span[1]]
    sides = [tokens for tokens in (touching, within) if tokens]
    spans = {(first[0], min(last[-1], first[0] + longest - 1)) for first in sides for last in sides}
    return [(places[start][0], places[end][1]) for start, end in sorted(spans) if start <= end]


def touches(place: tuple[int, int], span: tuple[int, int]) -> bool:
    """Says whether a token of the context holds a character of a span."""
    return place[0] != OUTSIDE and place[0] < span[1] and place[1] > span[0]


def answer_fault(context: Any, answers: Any) -> tuple[str, str]:
    """Returns the rule that a row's answers break and what was found instead; both are empty where all is well."""
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
            break  # a fault of the context, which is told as such
        if not 0 <= start <= len(context) - len(text):
            return "lie inside the context", f"{text!r} at {start} of {len(context)} characters"
        if context[start : start + len(text)] != text:
            there = context[start:][: len(text)]
            return "stand where they begin", f"{text!r} at {start}, where the context has {there!r}"
    return "", ""
