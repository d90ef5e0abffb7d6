"""Makes rows with our columns of the rows of a file: renamed, without gaps, and with words where it has spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_mlm.data.char_spans import SpanFault, relation_row, tagging_row
from cl_mlm.data.column_names import MOST_SHOWN, OF_TEXT, remedy
from cl_mlm.data.conversation_form import conversation_row
from cl_mlm.data.file_faults import Tally
from cl_mlm.data.file_format import SEPARATORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cl_mlm.data.column_types import Block
    from cl_mlm.data.file_faults import FileFaults
    from cl_mlm.data.file_format import Reading

# Columns that may stand in a file in place of others, and what makes the others of them; those with spans first.
SPAN_FORMS: tuple[tuple[set[str], set[str], Callable[[dict[str, Any]], dict[str, Any]]], ...] = (
    ({"tokens", "head", "tail"}, {"text", "head", "tail"}, relation_row),
    ({"tokens", "tags"}, {"text", "entities"}, tagging_row),
    ({"messages"}, {"prompt", "completion"}, conversation_row),
)
DROP = "missing: drop leaves such rows out"


def accepted_columns(required: Sequence[str], columns: Mapping[str, str]) -> list[set[str]]:
    """Returns the sets of columns, by the file's names, one of which a file should have: those that rows need first."""
    sets = [{*required}]
    sets += [({*required} - ours) | theirs for ours, theirs, _ in SPAN_FORMS if ours <= {*required}]
    return [{columns.get(name, name) for name in names} for names in sets]


@dataclass(frozen=True)
class RowPlan:
    """What is done to every row of a file.

    Attributes:
        columns: our names to the file's.
        filled: our names of the columns that a row must fill, before `make`.
        make: makes words and word spans of a text with character spans; None: rows are as they should be.
        drops: whether rows that lack a value are left out, rather than faults.
    """

    columns: Mapping[str, str]
    filled: tuple[str, ...]
    make: Callable[[dict[str, Any]], dict[str, Any]] | None
    drops: bool

    def prepared(self, block: Block, faults: FileFaults, dropped: dict[str, Tally]) -> Block:
        """Returns the rows that are used, with our columns.

        Args:
            block: rows as the file has them.
            faults: gets the rows that lack a value, unless they are dropped, and wrong spans.
            dropped: mutated: by the columns that they lack, the rows that are dropped.
        """
        kept: Block = []
        for line, raw in block:
            row = _renamed(raw, self.columns)
            lacking = [name for name in self.filled if lacks_value(name, row.get(name))]
            if lacking and self.drops:
                dropped.setdefault(" and ".join(lacking), Tally()).add(line)
            elif lacking:
                for name in lacking:
                    got = f", got {row[name]!r}"[:300] if name in row else ""
                    faults.add(line, f"no {name}", got, remedy=DROP, together=True)
            elif self.make is None:
                kept.append((line, row))
            else:
                try:
                    kept.append((line, self.make(row)))
                except SpanFault as error:
                    faults.add(line, "spans do not fit", f": {error}")
        return kept


def plan_rows(
    first: Block,
    reading: Reading,
    required: Sequence[str],
    header: str,
    faults: FileFaults,
    optional: Sequence[str] = (),
) -> RowPlan:
    """Returns what is done to the rows of a file; a column that no row has is one fault, with the remedy.

    Args:
        first: the first rows of the file.
        reading: how the file is read.
        required: our names of the columns that rows need.
        header: the first line of a table, which a fault shows; empty: this is none.
        faults: of the file.
        optional: our names of columns that rows need where the file has them.
    """
    names = list(dict.fromkeys(name for _, row in first for name in row))
    columns = {ours: _name_in(names, theirs) for ours, theirs in reading.columns.items()}
    wanted, make = list(required), None
    for ours, theirs, maker in SPAN_FORMS:
        has_all = {columns.get(name, name) for name in theirs} <= {*names}
        if ours <= {*required} and has_all and not {columns.get(name, name) for name in ours - theirs} <= {*names}:
            wanted, make = [*sorted(theirs), *(name for name in required if name not in ours)], maker
    example = {name: value for _, row in reversed(first) for name, value in row.items() if value is not None}
    missing = [ours for ours in wanted if columns.get(ours, ours) not in names]
    has_words = any(isinstance(value, list) and all(isinstance(x, str) for x in value) for value in example.values())
    for ours, theirs, _ in SPAN_FORMS[:2] if "tokens" in missing and not has_words and not header else ():
        if ours <= {*required} and any(isinstance(value, str) for value in example.values()):
            wanted = [
                *sorted(theirs, key=["text", "head", "tail", "entities"].index),
                *(name for name in required if name not in ours),
            ]
            missing = [name for name in wanted if columns.get(name, name) not in names]
    if form := _odd_form(first, wanted, columns, missing, faults):
        faults.add(None, form)
        faults.raise_any()
    if missing:
        used = {columns.get(ours, ours) for ours in wanted if ours not in missing}
        if header and len(names) == 1 < len(wanted):
            faults.add(first[0][0], _one_column(names[0], reading, header))
        else:
            faults.add(first[0][0], _missing_text(missing, columns, names, example, used, header))
    present = [ours for ours in optional if columns.get(ours, ours) in names]
    filled = tuple(name for name in dict.fromkeys((*wanted, *present)) if name not in missing)
    return RowPlan(columns, filled, None if missing else make, reading.missing == "drop")


def _odd_form(
    first: Block, wanted: Sequence[str], columns: Mapping[str, str], missing: Sequence[str], faults: FileFaults
) -> str:
    """Returns that a JSON file is one object around its rows, or one of columns; empty: it is not."""
    if len(first) > 1 or faults.path.suffix.lower() not in (".json", ".jsonl"):
        return ""
    rule = "must hold one JSON object a line, or an array of objects; got one object"
    row = first[0][1]
    inside = [name for name, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(missing) == len(wanted) and len(inside) == 1:
        return f"{rule} with the rows under {inside[0]!r}: write that list alone"
    texts = [row.get(columns.get(name, name)) for name in wanted if name in OF_TEXT]
    if texts and all(isinstance(value, list) for value in texts):
        return f"{rule} of columns ({', '.join(map(repr, row))}): write one object a row"
    return ""


def _one_column(name: str, reading: Reading, header: str) -> str:
    """Returns that the columns of a table are not told apart."""
    likely = next((character for character in SEPARATORS if character in name), None)
    if reading.delimiter is not None:
        use = f"; the file seems to use {likely!r}" if likely else ""
        return f"stream.delimiter {reading.delimiter!r} splits nothing: one column only, {name!r}{use}"
    hint = "the separator is none of , ; tab |: set delimiter"
    return f"one column only: {name!r}; {hint}; the first line is {header!r}"


def _missing_text(
    missing: Sequence[str],
    columns: Mapping[str, str],
    names: Sequence[str],
    example: Mapping[str, Any],
    used: set[str],
    header: str,
) -> str:
    wanted = " and no ".join(repr(columns.get(ours, ours)) for ours in missing)
    listed = ", ".join(names[:MOST_SHOWN]) + (f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else "")
    given = {ours: theirs for ours, theirs in columns.items() if theirs in names or ours in missing}
    advice = remedy(missing, given, names, example, used)
    has_guess = bool(used) or ("set columns" in advice and advice.count("<one of") < len(missing))
    headless = "" if has_guess else "a table needs a header, and "
    line = f"; {headless}the first line is {header!r}" if header else ""
    return f"no column {wanted}; columns: {listed}; {advice}{line}"


def _name_in(names: Sequence[str], theirs: str) -> str:
    """Returns a column's name as the header gives it, whose names are read without the blanks around them."""
    return theirs if theirs in names else theirs.strip()


def _renamed(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Returns a row with our names of columns; a renamed column replaces one that has its new name in the file."""
    if not columns:
        return row
    renamed = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
    rest = {name: value for name, value in row.items() if name not in columns.values() and name not in columns}
    return renamed | rest


def lacks_value(name: str, value: Any) -> bool:
    """Says whether a row has nothing in a column: words and answers must be at least one, labels may be none."""
    if name == "answers" and isinstance(value, dict):
        value = value.get("text", value)
    return _is_gap(value) or (name in ("tokens", "answers") and isinstance(value, list) and not value)


def _is_gap(value: object) -> bool:
    """Says whether a value is null, a blank text or not a number."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value  # noqa: PLR0124
