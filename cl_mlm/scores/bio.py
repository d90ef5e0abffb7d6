"""Tags of words in the BIO scheme: `O` outside, `B-x` where an entity of type x begins, `I-x` inside it.

Ramshaw and Marcus (1995), Text Chunking using Transformation-Based Learning, arXiv:cmp-lg/9505040, in the form (IOB2)
where every entity begins with `B-`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

OUTSIDE = "O"


def is_tag(value: object) -> bool:
    """Says whether a value is `O`, `B-x` or `I-x` with a type x that is not blank."""
    return value == OUTSIDE or (isinstance(value, str) and value[:2] in ("B-", "I-") and bool(value[2:].strip()))


def type_of(tag: str) -> str:
    """Returns the entity type of a tag; for `O` an empty string."""
    return tag[2:]


def types_of(tags: Sequence[str]) -> list[str]:
    """Returns the entity types of a row, each once, in the order of their first words."""
    return list(dict.fromkeys(type_of(tag) for tag in tags if tag != OUTSIDE))


def stray(tags: Sequence[str]) -> list[int]:
    """Returns the positions of every `I-x` that follows neither `B-x` nor `I-x`."""
    previous = [OUTSIDE, *tags[:-1]]
    return [i for i, tag in enumerate(tags) if tag[0] == "I" and type_of(tag) != type_of(previous[i])]


def repaired(tags: Sequence[str]) -> list[str]:
    """Returns the tags with every stray `I-x` read as `B-x`, as conlleval reads it."""
    sound = list(tags)
    for i in stray(tags):
        sound[i] = f"B-{type_of(tags[i])}"
    return sound


def only(tags: Sequence[str], types: Container[str]) -> list[str]:
    """Returns the tags, with `O` in place of tags of other types."""
    return [tag if type_of(tag) in types else OUTSIDE for tag in tags]


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Returns every entity of sound tags as (type, first word, word after the last), in their order."""
    spans = []
    for start, tag in enumerate(tags):
        if tag[0] == "B":
            end = start + 1
            while end < len(tags) and tags[end][0] == "I":
                end += 1
            spans.append((type_of(tag), start, end))
    return spans
