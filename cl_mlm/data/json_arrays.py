"""Reads the objects of a JSON array one by one, in memory that does not grow with the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 1 << 18  # characters
NEAR_END = 16  # an escape or a literal that a block cuts is at most so long
BLANKS = " \t\n\r"


class ArrayFault(Exception):  # noqa: N818 - told as a fault of a line, never shown
    """Where an array is not valid JSON, after which nothing can be read."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def array_items(file: TextIO) -> Iterator[tuple[int, Any, str]]:
    """Yields line, value and source of every item of an array.

    In memory are one block and one item.

    Args:
        file: open for reading, with line ends translated to LF; the array is all that it holds.

    Raises:
        ArrayFault: the text is no array in JSON.
    """
    text = _Text(file)
    text.skip("[")
    if text.peek() == "]":
        text.skip("]")
    else:
        while True:
            text.peek()
            yield text.value()
            if text.peek() == "]":
                text.skip("]")
                break
            text.skip(",")
    if text.peek():
        raise ArrayFault(text.line, "text after the end of the array")


class _Text:
    """The part of a file that is in memory, and how far it is read."""

    def __init__(self, file: TextIO) -> None:
        self.line = 1
        self._file, self._decoder = file, json.JSONDecoder()
        self._text, self._place = "", 0

    def peek(self) -> str:
        """Returns the next character that is not blank; empty at the end."""
        while True:
            start = self._place
            while start < len(self._text) and self._text[start] in BLANKS:
                start += 1
            self._go_to(start)
            if start < len(self._text):
                return self._text[start]
            if not self._read(BLOCK):
                return ""

    def skip(self, character: str) -> None:
        """Reads one character over.

        Raises:
            ArrayFault: another one is next.
        """
        found = self.peek()
        if found != character:
            raise ArrayFault(self.line, f"expecting {character!r}, got {found!r}" if found else "the array has no end")
        self._go_to(self._place + 1)

    def value(self) -> tuple[int, Any, str]:
        """Returns line, value and source of the next value, which begins here.

        Raises:
            ArrayFault: there is no valid one.
        """
        size = BLOCK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
                # A number that ends with the block may go on.
                if end < len(self._text) or not self._read(size):
                    break
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(self._text) - NEAR_END or error.msg.startswith("Unterminated")
                if not is_cut or not self._read(size):
                    line = self.line + self._text.count("\n", self._place, error.pos)
                    raise ArrayFault(line, error.msg) from error
            except (ValueError, RecursionError) as error:
                raise ArrayFault(self.line, str(error)) from error
            size *= 2
        line, source = self.line, self._text[self._place : end]
        self._go_to(end)
        return line, value, source

    def _go_to(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _read(self, size: int) -> bool:
        """Reads `size` characters on, drops those that are done with, and says whether there was one."""
        more = self._file.read(size)
        self._text, self._place = self._text[self._place :] + more, 0
        return bool(more)
