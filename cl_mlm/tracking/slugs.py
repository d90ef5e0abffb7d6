"""Turns names of stages and experiments into names that metric keys, paths and every tracking store accept."""

import re
import unicodedata
from collections.abc import Sequence


def slug(name: str) -> str:
    """Returns `name` as 1-100 characters of `[a-z0-9_.-]`, accents removed; the first is neither dot nor dash."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    cleaned = re.sub(r"[^a-z0-9_.-]+", "-", plain).strip("-").lstrip("-.")
    return cleaned[:100] or "stage"


def slugs(names: Sequence[str]) -> list[str]:
    """Returns one slug for each name, all different: equal ones get a number, `-2`, `-3` and so on."""
    unique: list[str] = []
    for name in names:
        plain, number = slug(name), 2
        candidate = plain
        while candidate in unique:
            candidate, number = f"{plain}-{number}", number + 1
        unique.append(candidate)
    return unique
