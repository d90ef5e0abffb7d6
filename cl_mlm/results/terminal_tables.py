"""Tables for a terminal that are at most 60 characters wide, so that none loses a digit on a narrow one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

WIDTH: Final = 60
SPACE: Final = 2  # between two columns
NAME_WIDTH: Final = 24  # of the first column; longer names take several lines


def tables_that_fit(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Table]:
    """Returns `rows` as one table, or as several where they are wider than `WIDTH`; each repeats the first column."""
    tables: list[Table] = []
    for columns in _blocks([header, *rows]):
        picked = [[row[k] for k in columns] for row in (header, *rows)]
        tables.append(_table("" if tables else title, picked[0], picked[1:]))
    return tables


def _blocks(rows: Sequence[Sequence[str]]) -> list[list[int]]:
    """Returns the columns of each table: the first column, and as many of the others as fit beside it."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
    name = min(widths[0], NAME_WIDTH)
    blocks: list[list[int]] = [[0]]
    used = name
    for k, width in enumerate(widths[1:], start=1):
        if used + SPACE + width > WIDTH and len(blocks[-1]) > 1:
            blocks.append([0])
            used = name
        blocks[-1].append(k)
        used += SPACE + width
    return blocks


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Text(title) if title else None
    layout: dict[str, Any] = {"padding": (0, 1, 0, 0), "pad_edge": False, "show_edge": False}
    table = Table(title=shown, box=SIMPLE_HEAD, title_justify="left", **layout)
    for k, name in enumerate(header):
        # Folded, not cut: in a narrow terminal a number may take two lines, but never loses a digit.
        width = None if k else NAME_WIDTH
        table.add_column(Text(name), justify="right" if k else "left", overflow="fold", max_width=width)
    for row in rows:
        # Text, not str: a label such as `replay [x]` would else be read as markup.
        table.add_row(*map(Text, row))
    return table
