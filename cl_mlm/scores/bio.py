"""Tags of words in the BIO scheme: `O` outside, `B-x` where an entity of type x begins, `I-x` inside it.

Ramshaw and Marcus (1995), Text Chunking using Transformation-Based Learning, arXiv:cmp-lg/9505040, in the form (IOB2)
where every entity begins with `B-`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

OUTSIDE = "O"


def is_tag(value: object) -> bool:
    """Says whether a value is `O`, `B-x` or `I-x` with a type x that is not blank."""
    return value == OUTSIDE or (isinstance(value, str) and value[:2] in ("B-", "I-") and bool(value[2:].strip()))


def type_of(tag: str) -> str:
    """Returns the entity type of a tag; of `O` an empty string."""
    return tag[2:]


def types_of(tags: Sequence[str]) -> list[str]:
    """Returns the entity types of a row, each once, in the order of their first words."""
    return list(dict.fromkeys(type_of(tag) for tag in tags if tag != OUTSIDE))


def stray(tags: Sequence[str]) -> list[int]:
    """Returns the positions of every `I-x` that follows neither `B-x` nor `I-x`."""
    before = [OUTSIDE, *tags[:-1]]
    return [i for i, tag in enumerate(tags) if tag[0] == "I" and type_of(tag) != type_of(before[i])]


def repaired(tags: Sequence[str]) -> list[str]:
    """Returns the tags with every stray `I-x` read as `B-x`, as conlleval reads it."""
    found = list(tags)
    for i in stray(tags):
        found[i] = f"B-{type_of(tags[i])}"
    return found


def only(tags: Sequence[str], types: Container[str]) -> list[str]:
    """Returns the tags with those of other types read as `O`."""
    return [tag if type_of(tag) in types else OUTSIDE for tag in tags]


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Returns type, first word and end of every entity of sound tags, in their order."""
    begins = [i for i, tag in enumerate(tags) if tag[0] == "B"]
    found = []
    for start in begins:
        inside = (i for i in range(start + 1, len(tags) + 1) if i == len(tags) or tags[i][0] != "I")
        found.append((type_of(tags[start]), start, next(inside)))
    return found
