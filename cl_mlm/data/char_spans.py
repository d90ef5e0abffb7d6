"""Turns texts with character spans into words with word spans: relations, and entities as BIO tags.

Offsets count Unicode code points from 0, as Python does, and an end is the first place after the span. Blanks at the
edges of a span are left out of it. A span that begins or ends inside a character that is shown as one (a letter and its
combining accent, an emoji of several code points) is refused: such offsets are often those of another unit.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    Span = tuple[int, int]

JOINER = "\u200d"
# Scripts without spaces, of which every character is a word of its own, as in BERT's tokenizer: kana and ideographs.
ALONE = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
ASCII_WORDS = re.compile(r"\w+|[^\w\s]")


class SpanFault(ValueError):  # noqa: N818 - told as a fault of a line, never shown
    """Why a row's spans cannot be read."""


def relation_row(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row with `text` and the character spans `head` and `tail` as one with `tokens` and spans of words.

    Words are what stands between blanks, cut where a span begins or ends. The spans may overlap.

    Raises:
        SpanFault: a span that does not fit the text.
    """
    text = row["text"]
    spans = [_span(row[name], text, name) for name in ("head", "tail")]
    words = _cut([match.span() for match in re.finditer(r"\S+", text)], {place for span in spans for place in span})
    rest = {name: value for name, value in row.items() if name != "text"}
    head, tail = ([*_words_of(span, words)] for span in spans)
    return {**rest, "tokens": [text[start:end] for start, end in words], "head": head, "tail": tail}


def tagging_row(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row with `text` and `entities` ([start, end, type] each) as one with `tokens` and BIO `tags`.

    Words are runs of letters and digits, and every other sign by itself, so that their borders do not tell where
    entities are; an entity that begins or ends inside a word cuts it.

    Raises:
        SpanFault: an entity that does not fit the text, or two that overlap.
    """
    text, given = row["text"], _parsed(row["entities"])
    if not isinstance(given, list):
        raise SpanFault(f"entities must be a list of [start, end, type], got {given!r}")
    entities = sorted(_entity(item, text) for item in given)
    for (_, end, kind), (start, _, other) in pairwise(entities):
        if start < end:
            raise SpanFault(f"entities must not overlap, got {kind!r} up to {end} and {other!r} from {start}")
    words = _cut(_words(text), {place for start, end, _ in entities for place in (start, end)})
    tags = ["O"] * len(words)
    for start, end, kind in entities:
        first, last = _words_of((start, end), words)
        tags[first:last] = [f"B-{kind}", *[f"I-{kind}"] * (last - first - 1)]
    rest = {name: value for name, value in row.items() if name not in ("text", "entities")}
    return {**rest, "tokens": [text[start:end] for start, end in words], "tags": tags}


def _parsed(value: Any) -> Any:
    """Returns a list that a table holds as text, `"[0, 5]"`; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _entity(item: Any, text: str) -> tuple[int, int, str]:
    if isinstance(item, dict):
        item = [item.get("start"), item.get("end"), item.get("type", item.get("label"))]
    if not isinstance(item, list) or len(item) != 3 or not isinstance(item[2], str) or not item[2].strip():
        raise SpanFault(f"entities must be a list of [start, end, type], got {item!r}")
    return (*_span(item[:2], text, "an entity"), item[2])


def _span(value: Any, text: str, name: str) -> Span:
    """Returns a span without the blanks at its edges.

    Raises:
        SpanFault: it is none, lies outside of the text, is empty, or parts a character.
    """
    span = _parsed(value)
    if not isinstance(span, list) or len(span) != 2 or not all(type(place) is int for place in span):
        raise SpanFault(f"{name} must be [start, end) in characters, got {value!r}")
    start, end = span
    if not 0 <= start < end <= len(text):
        rule = "must have 0 <= start < end <= number of characters"
        raise SpanFault(f"{name} {rule}, got {span} for a text of {len(text)}")
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start == end:
        raise SpanFault(f"{name} must hold more than blanks, got {span}")
    for place in (start, end):
        if 0 < place < len(text) and (_goes_on(text[place]) or text[place - 1] == JOINER):
            near = text[max(0, place - 6) : place + 6]
            raise SpanFault(
                f"{name} must not part a character from what belongs to it, got {span}, which does at {place} in "
                f"{near!r}; offsets count Unicode code points"
            )
    return start, end


def _goes_on(character: str) -> bool:
    """Says whether a code point belongs to the one before it: an accent, a joiner, a colour of skin."""
    is_tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    return character == JOINER or is_tone or unicodedata.category(character).startswith("M")


def _words(text: str) -> list[Span]:
    """Returns the places of the words of a text: runs of letters, digits and what belongs to them; signs alone."""
    if text.isascii():
        return [match.span() for match in ASCII_WORDS.finditer(text)]
    words: list[Span] = []
    was_word = False  # whether the next letter goes on with the last word
    for place, character in enumerate(text):
        if character.isspace():
            was_word = False
            continue
        touches = bool(words) and words[-1][1] == place
        belongs = touches and (_goes_on(character) or text[place - 1] == JOINER)
        is_letter = (character.isalnum() or character == "_") and not ALONE.match(character)
        if belongs or (is_letter and was_word and touches):
            words[-1] = (words[-1][0], place + 1)
        else:
            words.append((place, place + 1))
            was_word = is_letter
    return words


def _cut(words: Sequence[Span], borders: Collection[int]) -> list[Span]:
    """Returns the words, cut at borders that lie inside of them."""
    pieces: list[Span] = []
    places = sorted(borders)
    for start, end in words:
        inside = places[bisect_left(places, start + 1) : bisect_left(places, end)]
        pieces += zip([start, *inside], [*inside, end], strict=True)
    return pieces


def _words_of(span: Span, words: Sequence[Span]) -> Span:
    """Returns the first word of a span and the one after its last; words are cut at its borders."""
    return bisect_left(words, (span[0], 0)), bisect_left(words, (span[1], 0))
