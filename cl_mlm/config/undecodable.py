r"""Paths that are no text, in YAML and for libraries. Python keeps their bytes as characters from U+DC80 to U+DCFF.

A config file holds such a byte as `"\uDCFF"`. YAML's parser in C refuses these characters and escapes, so they pass it
as private ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_BYTES: Final = range(0xDC80, 0xDD00)
_PRIVATE: Final = 0x10FE80  # the first of 128 characters that no alphabet has
_VEIL: Final = {byte: _PRIVATE + i for i, byte in enumerate(_BYTES)}
_UNVEIL: Final = {private: byte for byte, private in _VEIL.items()}
_ESCAPED: Final = re.compile(r"\\u[dD][cC]([89a-fA-F][0-9a-fA-F])")


def veiled(value: Any) -> Any:
    """Returns a text, or nested values, with private characters in the place of bytes."""
    return _translated(value, _VEIL)


def unveiled(value: Any) -> Any:
    """Returns what was given to `veiled`."""
    return _translated(value, _UNVEIL)


def veiled_yaml(text: str) -> str:
    """Returns YAML with escapes of private characters in the place of those of bytes."""
    return _ESCAPED.sub(r"\\U0010FE\1", text)


def to_yaml(values: Mapping[str, Any]) -> str:
    """Returns nested values as YAML that is text, which `cl_mlm.config.layers.read_layer` reads back."""
    from omegaconf import OmegaConf

    hidden = veiled(values)
    text = OmegaConf.to_yaml(OmegaConf.create(hidden))
    return text if hidden == values else re.sub(r"\\U0010FE([89A-F][0-9A-F])", r"\\uDC\1", text)


@contextmanager
def named_in_text(folder: Path) -> Iterator[Path]:
    """Gives the block a name of an existing folder that is text, for libraries that take no other."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield Path(f"/proc/self/fd/{number}")
        finally:
            os.close(number)
    else:
        yield folder


def _translated(value: Any, table: Mapping[int, int]) -> Any:
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, Mapping):
        return {_translated(key, table): _translated(entry, table) for key, entry in value.items()}
    return [_translated(entry, table) for entry in value] if isinstance(value, list | tuple) else value
