"""A classification stream as a text-to-text stream: the model writes the label's name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cl_mlm.errors import ConfigError, DataError
from cl_mlm.fingerprint import arrow_batches
from cl_mlm.parts import parts_of, with_splits
from cl_mlm.stream import Stream

if TYPE_CHECKING:
    from datasets import Dataset

TEXTS = ("text", "text_pair")
BETWEEN = "\n"  # the texts of a pair


def as_text(stream: Stream) -> Stream:
    """Returns the stream with `source` (text, and below it that of the pair) and `target` (label) for its columns.

    The labels of all stages are the allowed answers. Stages have no labels any more, so that every column is scored
    from the start and a stage's new labels are new texts only. Other columns stay; the rows are copied in memory.

    Raises:
        ConfigError: rows that are no classification, or that are to be predicted among their own stage's labels.
        DataError: columns that are missing or hold no strings.
    """
    others = sorted({part.owner.objective for part in parts_of(stream)} - {"classification"})
    if others:
        raise ConfigError(f"stream.as_text: must be false for objective {', '.join(others)}, got true")
    if stream.masks:
        raise ConfigError(
            "stream.as_text: must be false where stream.scenario is task_incremental: text that is written is not "
            "confined to a stage's labels; got true"
        )
    problems: list[str] = []
    splits = [
        {name: _rows(rows, f"{part.where} {name}", problems) for name, rows in part.splits.items()}
        for part in parts_of(stream)
    ]
    if problems:
        raise DataError(problems)
    notes = (*stream.notes, f"as text: {len(stream.labels)} labels are answers to be written")
    options = {"answers": list(stream.labels)}
    written = with_splits(stream, splits, labels=(), task="text_to_text", objective="text_to_text", options=options)
    return replace(written, scenario="domain_incremental", notes=notes)


def _rows(rows: Dataset, where: str, problems: list[str]) -> Dataset:
    """Returns the rows with their new columns; what is wrong with a value is left to the objective to tell."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import Dataset

    columns = rows.column_names
    faults = [f"{where}: needs the column {name}" for name in ("text", "label") if name not in columns]
    faults += [
        f"{where}: column {name} must hold strings, got {rows.features[name].dtype}"
        for name in (*TEXTS, "label")
        if name in columns and len(rows) and rows.features[name].dtype not in ("string", "large_string")
    ]
    problems += faults
    if faults or not len(rows):
        return rows
    tables = []
    for table in arrow_batches(rows):
        texts = [table[name].cast(pa.large_string()) for name in TEXTS if name in columns]
        source = (
            texts[0]
            if len(texts) == 1
            else pc.call_function("binary_join_element_wise", [*texts, pa.scalar(BETWEEN, pa.large_string())])
        )
        kept = table.drop_columns([name for name in (*TEXTS, "source", "target") if name in columns])
        tables.append(kept.append_column("source", source).append_column("target", table["label"]))
    # Without what `datasets` noted of the old columns.
    return Dataset(pa.concat_tables(tables).replace_schema_metadata(None))
