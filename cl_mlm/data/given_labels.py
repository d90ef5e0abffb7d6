"""Labels of rows that are made in Python: whole numbers and class numbers become strings, as in files."""

from __future__ import annotations

import math
import uuid
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from datasets import Dataset


def with_text_labels(splits: Mapping[str, Dataset], where: str) -> dict[str, Dataset]:
    """Returns the splits with labels as strings; a split whose labels are strings stays the same object.

    Args:
        splits: data sets by the name of the split; those without the column `label` stay as they are.
        where: begins every message.

    Raises:
        DataError: a label is no string and no whole number, or a row has none.
    """
    problems: list[str] = []
    found: dict[str, Dataset] = {}
    for split, rows in splits.items():
        try:
            found[split] = _with_text_labels(rows, f"{where} {split}")
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return found


def _with_text_labels(rows: Dataset, where: str) -> Dataset:
    import pyarrow as pa
    from datasets import ClassLabel, DatasetInfo, Value
    from datasets import Dataset as Table
    from datasets.table import InMemoryTable

    if "label" not in rows.column_names:
        return rows
    table: pa.Table = rows.data.table
    place = table.column_names.index("label")
    column, feature = table.column(place), rows.features["label"]
    if pa.types.is_floating(column.type) or pa.types.is_boolean(column.type) or pa.types.is_null(column.type):
        raise DataError(_faults(rows["label"][:], where))
    if not pa.types.is_integer(column.type):
        return rows
    texts = _names(column, feature.names) if isinstance(feature, ClassLabel) else column.cast(pa.string())
    features = rows.features.copy()
    features["label"] = Value("string")
    renamed = table.set_column(place, pa.field("label", pa.string()), texts).replace_schema_metadata(None)
    # Given a fingerprint, `datasets` does not hash the whole table to find one.
    return Table(
        InMemoryTable(renamed),
        info=DatasetInfo(features=features),
        indices_table=rows._indices,
        fingerprint=uuid.uuid4().hex,
    )


def _names(codes: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    """Returns the names of class numbers; -1 is how `datasets` writes an unknown label."""
    import pyarrow as pa

    texts = [None if code is None or code < 0 else names[code] for code in codes.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _faults(labels: Sequence[Any], where: str) -> list[str]:
    """Returns the faults of labels that are numbers with a fraction, truth values, or missing."""
    gaps = [i for i, label in enumerate(labels) if is_missing(label)]
    problems = [no_value(where, "label", gaps)] if gaps else []
    first = next((i for i, label in enumerate(labels) if not is_missing(label)), None)
    if first is not None:
        problems.append(
            f"{where}: column 'label' must hold strings or whole numbers, got {type(labels[first]).__name__} "
            f"{labels[first]!r} in row {first}; write labels as strings or as whole numbers"
        )
    return problems


def no_value(where: str, column: str, rows: Sequence[int]) -> str:
    """Returns the fault of rows that have no value in a column."""
    have = "row has" if len(rows) == 1 else "rows have"
    return f"{where}: {len(rows)} {have} no {column}, first row {rows[0]}; fill it in, or leave such rows out"


def is_missing(value: object) -> bool:
    """Says whether a value is None, or not a number or NA, which is how pandas writes a gap."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))
