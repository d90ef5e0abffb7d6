"""Aligns cells into a table of lines that fits a terminal: nothing is cut off, however narrow it is."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = "  "


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a table in lines: the first column flush left, the others flush right, two spaces between them."""
    widths = _widths([header, *rows])
    return [
        GAP.join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in (header, *rows)
    ]


def fitted(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[list[str]]:
    """Returns `aligned` tables that are at most `width` columns wide and together hold every cell.

    Each begins with the first column, whose long names are folded at half of the width, and takes as many of the other
    columns as fit. One column alone may be wider.

    Args:
        header: a cell for each column.
        rows: of cells.
        width: None: there is no limit, and so one table.
    """
    if width is None or _total([header, *rows]) <= width:
        return [aligned(header, rows)]
    lines = [line for row in (header, *rows) for line in _folded(row, width // 2)]
    blocks: list[list[int]] = [[0]]
    for k in range(1, len(header)):
        if len(blocks[-1]) > 1 and _total([[line[j] for j in (*blocks[-1], k)] for line in lines]) > width:
            blocks.append([0])
        blocks[-1].append(k)
    tables = [[[line[j] for j in block] for line in lines] for block in blocks]
    return [[line.rstrip() for line in aligned(table[0], table[1:])] for table in tables]


def _folded(row: Sequence[str], width: int) -> list[list[str]]:
    """Returns a row as one line of cells, or as several where its first cell is wider than `width`."""
    indent = " " * (len(row[0]) - len(row[0].lstrip()))
    parts = textwrap.wrap(row[0].strip(), width, initial_indent=indent, subsequent_indent=f"{indent}  ") or [row[0]]
    blank = [""] * (len(row) - 1)
    return [[parts[0], *row[1:]], *([part, *blank] for part in parts[1:])]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _total(rows: Sequence[Sequence[str]]) -> int:
    widths = _widths(rows)
    return sum(widths) + len(GAP) * (len(widths) - 1)
