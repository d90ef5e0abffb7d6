"""A stream as a text-to-text stream: the model writes the label's name, the entities, the answer.

What an objective's rows are as texts is its own to say (`Objective.written`); classification is done here, in columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.arrow import arrow_batches
from cl_mlm.data.split_owners import Part, parts_of, with_splits
from cl_mlm.data.tasks import identity, tasks_of
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import Column, Stage, Stream
from cl_mlm.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

TEXTS = ("text", "text_pair")
BETWEEN = "\n"  # the texts of a pair
PLAIN = "classification"


def as_text(stream: Stream) -> Stream:
    """Returns the stream with `source` and `target` for its columns.

    Of classification `source` is the text, and below it that of the pair, and `target` the label; the labels of all
    stages are the allowed answers, as they are of relations. Stages have no labels any more, so that every column is
    scored from the start and a stage's new labels are new texts only. Where the stream has several objectives a prefix
    names each, for one source may be asked several things. Other columns stay; the rows are copied in memory.

    Raises:
        ConfigError: rows that are not to be written out, or that are to be predicted among their own stage's labels.
        DataError: columns that are missing or hold no strings, or rows that their objective refuses.
    """
    tasks = {identity(stream.stages[task.stages[0]]): task for task in tasks_of(stream)}
    parts = parts_of(stream)
    others = sorted(
        {part.owner.objective for part in parts}
        - {task.objective.name for task in tasks.values() if task.key == PLAIN or task.objective.can_be_written}
    )
    if others:
        raise ConfigError(f"stream.as_text: must be false for objective {', '.join(others)}, got true")
    if stream.masks:
        raise ConfigError(
            "stream.as_text: must be false where stream.scenario is task_incremental: text that is written is not "
            "confined to a stage's labels; got true"
        )
    problems: list[str] = []
    splits = [_splits(part, tasks, problems) for part in parts]
    if problems:
        raise DataError(problems)
    options = {same: _options(task, len(tasks)) for same, task in tasks.items()}

    def asking(made: Any, before: Stage | Column) -> Any:
        return replace(made, options=options[identity(before)])

    written = with_splits(stream, splits, labels=(), task="text_to_text", objective="text_to_text", options={})
    num_answers = sum(len(each.get("answers", ())) for each in options.values())
    return replace(
        written,
        stages=tuple(map(asking, written.stages, stream.stages)),
        given_columns=tuple(map(asking, written.given_columns, stream.given_columns)),
        probes=tuple(map(asking, written.probes, stream.probes)),
        scenario="domain_incremental",
        notes=(*stream.notes, f"as text: {num_answers} labels are answers to be written"),
    )


def _options(task: Task, num_tasks: int) -> dict[str, Any]:
    """Returns the options of a task's rows as texts: its answers where these are labels, and what names it."""
    answers = {"answers": list(task.labels.names)} if "label" in task.objective.columns else {}
    return {**answers, **({"prefix": f"{task.key}: "} if num_tasks > 1 else {})}


def _splits(part: Part, tasks: Mapping[tuple[str, str], Task], problems: list[str]) -> dict[str, Dataset]:
    task = tasks[identity(part.owner)]
    return {
        name: _rows(rows, f"{part.where} {name}", problems)
        if part.owner.objective == PLAIN
        else _written(rows, task, f"{part.where} {name}", problems)
        for name, rows in part.splits.items()
    }


def _written(rows: Dataset, task: Task, where: str, problems: list[str]) -> Dataset:
    """Returns the rows with the texts that their objective gives for new columns, in place of its own."""
    import pyarrow as pa
    from datasets import Dataset

    tables = []
    for table in arrow_batches(rows):
        values = table.to_pydict()
        faults = task.objective.validate(values, where)
        if faults:
            problems += faults
            return rows
        texts = task.objective.written(values)
        gone = {*task.objective.columns, "source", "target"} & {*table.column_names}
        kept = table.drop_columns(sorted(gone))
        for name, own in zip(("source", "target"), texts, strict=True):
            kept = kept.append_column(name, pa.array(own, pa.large_string()))
        tables.append(kept)
    return Dataset(pa.concat_tables(tables).replace_schema_metadata(None)) if tables else rows


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
