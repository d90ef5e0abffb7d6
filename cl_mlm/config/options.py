"""A setting as a field of a dataclass, with its default, its help text and its bounds."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, help: str, **bounds: float) -> Any:
    """Returns a field whose metadata hold the help text and the bounds; see `schema.py`."""
    return field(default=default, metadata={"help": help, **bounds})
