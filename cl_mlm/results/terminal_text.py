"""Fits lines of text to the width of a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Returns the columns of the terminal; None where a stream goes elsewhere, such as to `grep` or a file.

    Args:
        stream: standard output or standard error; None: standard output.
    """
    if os.environ.get("COLUMNS", "").isdecimal() or (stream or sys.stdout).isatty():
        return max(20, shutil.get_terminal_size().columns)
    return None


def wrapped(line: str, width: int | None) -> str:
    """Returns a line broken between words, continued two columns further in; a path that is wider stays whole.

    Args:
        line: without line breaks.
        width: in columns; None: the line stays as it is.
    """
    if width is None or len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
