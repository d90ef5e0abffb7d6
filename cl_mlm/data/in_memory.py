"""Rows and streams that are made in Python: taken in the usual forms, and told in words where they are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Number
from typing import TYPE_CHECKING, Any, get_args

from cl_mlm.data.given_labels import is_missing, no_value
from cl_mlm.data.row_forms import columns_of
from cl_mlm.errors import ConfigError, DataError, nearest
from cl_mlm.stream import SCENARIOS, SPLITS, Restaged, Stage, Stream

if TYPE_CHECKING:
    from datasets import Dataset

FORMS = "a datasets.Dataset, a list of dicts, a dict of columns, or a pandas frame"
MUST_HAVE = ("text", "text_pair", "label")  # columns without gaps


def check_arguments(
    name: Any,
    scenario: Any,
    notes: Any,
    *,
    numbers: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
    groups: Any = None,
    order: Any = None,
) -> None:
    """Refuses arguments of a function that makes a stream which are of other types than it says.

    Args:
        name: of the stream.
        scenario: of the stream.
        notes: of the stream.
        numbers: by name: whole numbers, or None.
        flags: by name: truth values, or None.
        groups: lists of labels, or None.
        order: a list of names, or None.

    Raises:
        ConfigError: every such argument.
    """
    problems = []
    if not isinstance(name, str) or not name.strip():
        problems.append(f"name: must be a string that is not empty, got {_short(name)}")
    if scenario not in SCENARIOS:
        hint = nearest(str(scenario), SCENARIOS)
        problems.append(f"stream.scenario: must be one of {', '.join(SCENARIOS)}, got {_short(scenario)}{hint}")
    if not _is_list_of(notes, str):
        problems.append(f"notes: must be a list of strings, got {_short(notes)}")
    for key, value in (numbers or {}).items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
            problems.append(f"stream.{key}: must be a whole number or None, got {_short(value)}")
    for key, value in (flags or {}).items():
        if value is not None and not isinstance(value, bool):
            problems.append(f"stream.{key}: must be True or False, got {_short(value)}")
    if groups is not None and not (
        _is_list_of(groups, list | tuple) and all(_is_list_of(g, str | int) for g in groups)
    ):
        problems.append(f"stream.groups: must be a list of lists of labels, got {_short(groups)}")
    if order is not None and not _is_list_of(order, str):
        problems.append(f"stream.order: must be a list of strings, got {_short(order)}")
    if problems:
        raise ConfigError(problems)


def _is_list_of(value: Any, kind: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_list and all(isinstance(item, kind) for item in value)


def given_splits(splits: Any, where: str, columns: Sequence[str] = ()) -> dict[str, Dataset]:
    """Returns train, validation and test as data sets; those that are data sets stay the same objects.

    Args:
        splits: the three splits by their names, each in one of `FORMS`.
        where: begins every message.
        columns: that each split must have.

    Raises:
        DataError: every split that is missing, in no such form, or lacks a column.
    """
    if not isinstance(splits, Mapping):
        raise DataError(f"{where}: must be given {{'train': ..., 'validation': ..., 'test': ...}}, got {_kind(splits)}")
    problems = [
        f"{where}: needs the split {split!r}, got {', '.join(map(repr, splits)) or 'none'}"
        f"{nearest(split, map(str, splits))}"
        + ("; cl_mlm.data.carve_validation takes one out of train" if split == "validation" else "")
        for split in SPLITS
        if split not in splits
    ]
    found: dict[str, Dataset] = {}
    for split in SPLITS:
        if split not in splits:
            continue
        try:
            found[split] = as_dataset(splits[split], f"{where} {split}")
        except DataError as error:
            problems += error.problems
            continue
        has = found[split].column_names
        problems += [
            f"{where} {split}: needs the column {column!r}, has {', '.join(map(repr, has)) or 'none'}"
            f"{nearest(column, has)}"
            for column in columns
            if column not in has
        ]
    if problems:
        raise DataError(problems)
    return found


def as_dataset(rows: Any, where: str) -> Dataset:
    """Returns rows in one of `FORMS` as a data set; a data set stays the same object.

    Raises:
        DataError: they are in no such form, a column holds values of several types, or a text is missing; begins with
            `where`.
    """
    from datasets import Dataset

    if isinstance(rows, Dataset):
        return rows
    try:
        columns = columns_of(rows)
    except DataError as error:
        raise DataError([f"{where}: {line.removeprefix('rows: ')}" for line in error.problems]) from error
    is_iterable = isinstance(rows, Iterable) and not isinstance(rows, str | bytes | Mapping)
    if columns is None and is_iterable and not hasattr(rows, "column_names"):
        table: list[Any] = list(rows)
        odd = [i for i, row in enumerate(table) if not isinstance(row, Mapping)]
        if odd:
            raise DataError(f"{where}: a row must be a dict, got {_short(table[odd[0]])} as row {odd[0]}")
        names = list(dict.fromkeys(str(name) for row in table for name in row))
        columns = {name: [row.get(name) for row in table] for name in names}
    if columns is None:
        raise DataError(f"{where}: must be {FORMS}, got {_kind(rows)}")
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"{where}: columns must be of equal length, got {sizes}")
    columns = _without_nan(columns, where)
    try:
        return Dataset.from_dict(columns)
    except (TypeError, ValueError, OverflowError) as error:  # pyarrow's are ValueErrors and TypeErrors
        message = _mixed(columns) or str(error).splitlines()[0]
        raise DataError(f"{where}: the values of a column must be of one type: {message}") from error


def _without_nan(columns: dict[str, list[Any]], where: str) -> dict[str, list[Any]]:
    """Returns the columns with None where pandas has written a gap beside values that are no numbers.

    Raises:
        DataError: the gap is in a text or label.
    """
    problems, mended = [], dict(columns)
    for name, values in columns.items():
        are_numbers = all(issubclass(kind, Number | type(None)) for kind in {*map(type, values)})
        gaps = [] if are_numbers else [i for i, v in enumerate(values) if v is not None and is_missing(v)]
        if gaps:
            mended[name] = [None if is_missing(value) else value for value in values]
            problems += [no_value(where, name, gaps)] if name in MUST_HAVE else []
    if problems:
        raise DataError(problems)
    return mended


def _mixed(columns: Mapping[str, Sequence[Any]]) -> str:
    """Returns the first two values of a column that are of several types; empty: there is no such column."""
    for name, values in columns.items():
        known = [(i, value) for i, value in enumerate(values) if value is not None]
        odd = [(i, value) for i, value in known if type(value) is not type(known[0][1])]
        if odd and {*map(type, values)} - {type(None)} != {int, float}:
            told = [f"{type(value).__name__} {_short(value)} in row {i}" for i, value in (known[0], odd[0])]
            return f"column {name!r} has {told[0]} and {told[1]}"
    return ""


def check_form(stream: Stream) -> None:
    """Refuses a stream object whose fields are of other types than it says.

    Raises:
        DataError: every such field.
    """
    stages = stream.stages
    if not isinstance(stages, tuple | list) or not all(isinstance(stage, Stage) for stage in stages):
        raise DataError(f"stream {stream.name!r}: stages must be a tuple of cl_mlm.Stage, got {_short(stages)}")
    scenarios = (*SCENARIOS, *get_args(Restaged))
    problems = []
    if stream.scenario not in scenarios:
        hint = nearest(str(stream.scenario), scenarios)
        problems.append(
            f"stream {stream.name!r}: scenario must be one of {', '.join(scenarios)}, got {stream.scenario!r}{hint}"
        )
    owners: list[Any] = [*stages, *stream.given_columns, *stream.probes]
    for owner in owners:
        where = f"{type(owner).__name__.lower()} {owner.name!r}"
        if not isinstance(owner.name, str) or not owner.name:
            problems.append(f"{where}: name must be a string that is not empty, got {_kind(owner.name)}")
        labels = owner.labels
        if not isinstance(labels, tuple | list) or not all(isinstance(label, str) for label in labels):
            problems.append(f"{where}: labels must be a tuple of strings, got {_short(labels)}")
        for split in SPLITS if isinstance(owner, Stage) else SPLITS[1:]:
            rows = getattr(owner, split)
            if not _is_dataset(rows):
                problems.append(
                    f"{where} {split}: must be a datasets.Dataset, got {_kind(rows)}; datasets.Dataset.from_list and "
                    "from_pandas make one"
                )
    if problems:
        raise DataError(problems)


def _is_dataset(rows: Any) -> bool:
    from datasets import Dataset

    return isinstance(rows, Dataset)


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
