"""Rows as people hand them over (texts, dicts, lists, pandas frames, data sets) as columns of plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.data.file_format import Reading
from cl_mlm.data.files import read_file
from cl_mlm.errors import DataError, nearest

if TYPE_CHECKING:
    from pathlib import Path

ROW_FORMS = "a list of strings or of dicts, a pandas frame, a datasets.Dataset, or a dict of columns"


def new_rows(given: Any, inputs: Sequence[str], optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Returns the columns of rows that have no answer yet; further columns are left out.

    A string stands for a row with one input; a row of words may be a list, or a string that white space cuts. A pair of
    texts may be a pair.

    Args:
        given: the rows, in one of `ROW_FORMS`; a string or a dict of strings alone is one row.
        inputs: columns that every row must have.
        optional: columns that all rows may have.

    Raises:
        DataError: it is none of these forms, or a row lacks a column.
    """
    is_one_row = isinstance(given, Mapping) and all(isinstance(value, str) for value in given.values())
    if isinstance(given, str) or is_one_row:
        given = [given]
    table = columns_of(given)
    if table is None:
        if isinstance(given, bytes) or not isinstance(given, Iterable):
            raise DataError(f"rows: must be {ROW_FORMS}, got {type(given).__name__}")
        table = _of_list(list(given), inputs, optional)
    known = [name for name in (*inputs, *optional) if name in table]
    problems = [
        f"rows: need the column {name!r}, have {', '.join(map(repr, table)) or 'none'}{nearest(name, table)}"
        for name in inputs
        if name not in table
    ]
    if "text_pair" in table and "text_pair" not in (*inputs, *optional):
        problems.append("rows: must be single texts, on which the run was trained; got pairs (column 'text_pair')")
    sizes = {name: len(table[name]) for name in known}
    if len(set(sizes.values())) > 1:
        problems.append(f"rows: columns must be of equal length, got {sizes}")
    if problems:
        raise DataError(problems)
    return {name: [_plain(value) for value in table[name]] for name in known}


def new_rows_of_file(
    path: Path, inputs: Sequence[str], optional: Sequence[str] = (), reading: Reading | None = None
) -> dict[str, list[Any]]:
    """Returns the columns of the rows of a file that have no answer yet.

    Args:
        path: a .txt file (every line that is not blank is a row), or one that `read_file` reads.
        inputs: columns that every row must have.
        optional: columns that all rows may have.
        reading: as the run's own files are read; a file may also be UTF-8, and have our names of columns.

    Raises:
        DataError: the faults of the file.
    """
    reading = Reading() if reading is None else reading
    renamed = {ours: theirs for ours, theirs in reading.columns.items() if ours in (*inputs, *optional)}
    own = replace(reading, columns=renamed, missing="error")
    ways = [own, replace(own, columns={}), replace(own, encoding=None), replace(own, columns={}, encoding=None)]
    first_error: DataError | None = None
    for way in ways:
        try:
            if path.suffix == ".txt" and path.is_file():
                lines = path.read_bytes().decode(way.encoding or "utf-8-sig").splitlines()
                return new_rows([line for line in lines if line.strip()], inputs, optional)
            return new_rows(read_file(path, way, inputs)[0], inputs, optional)
        except UnicodeDecodeError as error:
            first_error = first_error or DataError(f"{path}: must be UTF-8, got {error.object[error.start]:#04x}")
        except DataError as error:
            first_error = first_error or error
    assert first_error is not None
    raise first_error


def columns_of(given: Any) -> dict[str, list[Any]] | None:
    """Returns the columns of a pandas frame or series, a `datasets.Dataset`, or a dict of columns; None: none of these.

    Raises:
        DataError: a dict of something else.
    """
    if hasattr(given, "column_names") and hasattr(given, "with_format"):
        plain = given.with_format(None)
        if not isinstance(plain.column_names, list):
            raise DataError(f"rows: must be the rows of one split, got the splits {', '.join(plain.column_names)}")
        return {name: plain[name][:] for name in plain.column_names}
    if isinstance(given, Mapping):
        odd = [name for name, values in given.items() if isinstance(values, str) or not isinstance(values, Iterable)]
        if odd:
            raise DataError(f"rows: a dict must hold a list for each column, got {given[odd[0]]!r} for {odd[0]!r}")
        return {str(name): list(values) for name, values in given.items()}
    if type(given).__module__.partition(".")[0] == "pandas" and hasattr(given, "columns"):
        return {str(name): given[name].tolist() for name in given.columns}
    return None


def _of_list(rows: list[Any], inputs: Sequence[str], optional: Sequence[str]) -> dict[str, list[Any]]:
    """Returns the columns of rows given one by one."""
    pair = "text_pair" in (*inputs, *optional)
    found, problems = [], []
    for i, row in enumerate(rows):
        if isinstance(row, Mapping):
            found.append({str(name): value for name, value in row.items()})
        elif list(inputs) == ["tokens"] and isinstance(row, str | list | tuple):
            found.append({"tokens": row.split() if isinstance(row, str) else list(row)})
        elif pair and isinstance(row, tuple | list) and len(row) == 2:
            found.append(dict(zip(("text", "text_pair"), row, strict=True)))
        elif len(inputs) == 1 and not isinstance(row, list | tuple):
            found.append({inputs[0]: row})
        else:
            form = "a pair of texts, or a dict of them" if pair else f"a dict with {', '.join(inputs)}"
            problems.append(f"rows: must each be {form}, got {_short(row)} as row {i}")
    names = list(dict.fromkeys(name for row in found for name in row))
    wanted = [name for name in names if name in (*inputs, *optional)]
    for name in dict.fromkeys([*inputs, *wanted]):
        lacking = [i for i, row in enumerate(found) if name not in row]
        if lacking and not problems:
            hint = nearest(name, found[lacking[0]])
            problems.append(
                f"rows: need {name!r} each, got {_short(found[lacking[0]])} as row {lacking[0]}{hint} "
                f"({len(lacking)} such rows)"
            )
    if problems:
        more = [f"rows: {len(problems) - 3} more such rows"] if len(problems) > 3 else []
        raise DataError([*problems[:3], *more])
    return {name: [row.get(name) for row in found] for name in names or inputs}


def _plain(value: Any) -> Any:
    """Returns arrays and tuples as lists; frames hold lists as arrays."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
