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
    unique: dict[str, None] = {}
    next_number: dict[str, int] = {}
    for name in names:
        candidate = plain = slug(name)
        while candidate in unique:
            number = next_number.get(plain, 2)
            candidate, next_number[plain] = f"{plain}-{number}", number + 1
        unique[candidate] = None
    return list(unique)
