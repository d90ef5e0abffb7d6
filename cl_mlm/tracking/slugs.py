"""Names that every store accepts: stage names as parts of metric keys and paths."""

import re
import unicodedata
from collections.abc import Sequence


def slug(name: str) -> str:
    """Returns `name` in the characters `[a-z0-9_.-]`, without accents; 1-100 of them, first no dot and no dash."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    cleaned = re.sub(r"[^a-z0-9_.-]+", "-", plain).strip("-").lstrip("-.")
    return cleaned[:100] or "stage"


def slugs(names: Sequence[str]) -> list[str]:
    """Returns one slug for each name, a number behind those that would be equal."""
    found: list[str] = []
    for name in names:
        plain, number = slug(name), 2
        candidate = plain
        while candidate in found:
            candidate, number = f"{plain}-{number}", number + 1
        found.append(candidate)
    return found
