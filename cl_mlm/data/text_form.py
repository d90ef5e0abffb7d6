"""Turns a stream into a text-to-text stream: the model writes the label's name, the entities, the answer.

Each objective gives its rows as texts (`Objective.written`); classification is done here, column by column in Arrow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.arrow import arrow_batches
from cl_mlm.data.split_owners import SplitOwner, split_owners, with_splits
from cl_mlm.data.tasks import identity, tasks_of
from cl_mlm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset

    from cl_mlm.stream import Column, Stage, Stream
    from cl_mlm.task import Task

TEXTS = ("text", "text_pair")
BETWEEN = "\n"  # the texts of a pair
PLAIN = "classification"


def as_text(stream: Stream, text_options: Mapping[str, Any] | None = None) -> Stream:
    """Returns the stream with the columns `source` and `target` in place of those of its objectives.

    For classification `source` is the text, with the second text of a pair on a line below, and `target` the label.
    The labels of all stages are the allowed answers, for relations, too. Stages have no labels any more: every column
    is scored from the start, and a stage's new labels are just new texts. Where the stream has several tasks, a prefix
    names the task of a row, as one source may be asked several things. Other columns stay; rows are copied in memory.

    Args:
        stream: of any objective that has a form as texts.
        text_options: options of `text_to_text`; those given here replace the ones of above.

    Raises:
        ConfigError: an objective whose rows have no form as texts, or a stream whose stage is known at prediction.
        DataError: columns that are missing or hold no strings, or rows that their objective refuses.
    """
    tasks = {identity(stream.stages[task.stages[0]]): task for task in tasks_of(stream)}
    owners = split_owners(stream)
    can_be_written = {task.objective.name for task in tasks.values() if _can_be_written(task)}
    refused = sorted({owner.item.objective for owner in owners} - can_be_written)
    if refused:
        raise ConfigError(f"stream.as_text: must be false for objective {', '.join(refused)}, got true")
    if stream.masks:
        raise ConfigError(
            "stream.as_text: must be false where stream.scenario is task_incremental: text that is written is not "
            "confined to a stage's labels; got true"
        )
    problems: list[str] = []
    splits = [_written_splits(owner, tasks[identity(owner.item)], problems) for owner in owners]
    if problems:
        raise DataError(problems)
    options = {asked: _options(task, len(tasks)) | dict(text_options or {}) for asked, task in tasks.items()}

    def with_options(written: Any, original: Stage | Column) -> Any:
        return replace(written, options=options[identity(original)])

    written = with_splits(stream, splits, labels=(), task="text_to_text", objective="text_to_text", options={})
    num_answers = sum(len(each.get("answers") or ()) for each in options.values())
    return replace(
        written,
        stages=tuple(map(with_options, written.stages, stream.stages)),
        given_columns=tuple(map(with_options, written.given_columns, stream.given_columns)),
        probes=tuple(map(with_options, written.probes, stream.probes)),
        scenario="domain_incremental",
        notes=(*stream.notes, f"as text: {num_answers} labels are answers to be written"),
    )


def _can_be_written(task: Task) -> bool:
    return task.key == PLAIN or task.objective.can_be_written


def _options(task: Task, num_tasks: int) -> dict[str, Any]:
    """Returns the text-to-text options of a task: its labels as answers, and its prefix where there are several."""
    options: dict[str, Any] = {}
    if "label" in task.objective.columns:
        options["answers"] = list(task.labels.names)
    if num_tasks > 1:
        options["prefix"] = f"{task.key}: "
    return options


def _written_splits(owner: SplitOwner, task: Task, problems: list[str]) -> dict[str, Dataset]:
    """Returns every split of an owner as texts; adds the faults of rows to `problems`."""
    written = {}
    for name, rows in owner.splits.items():
        where = f"{owner.where} {name}"
        if owner.item.objective == PLAIN:
            written[name] = _labels_as_text(rows, where, problems)
        else:
            written[name] = _rows_as_text(rows, task, where, problems)
    return written


def _rows_as_text(rows: Dataset, task: Task, where: str, problems: list[str]) -> Dataset:
    """Returns the rows with `source` and `target`, as their objective writes them, in place of its own columns."""
    import pyarrow as pa
    from datasets import Dataset

    tables = []
    for table in arrow_batches(rows):
        values = table.to_pydict()
        faults = task.objective.validate(values, where)
        if faults:
            problems += faults
            return rows
        sources, targets = task.objective.written(values)
        replaced = {*task.objective.columns, "source", "target"} & {*table.column_names}
        other_columns = table.drop_columns(sorted(replaced))
        tables.append(
            other_columns.append_column("source", pa.array(sources, pa.large_string())).append_column(
                "target", pa.array(targets, pa.large_string())
            )
        )
    return Dataset(pa.concat_tables(tables).replace_schema_metadata(None)) if tables else rows


def _labels_as_text(rows: Dataset, where: str, problems: list[str]) -> Dataset:
    """Returns classification rows with `source` and `target`; empty values are left to text-to-text to refuse."""
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
        source = texts[0]
        if len(texts) > 1:
            source = pc.call_function("binary_join_element_wise", [*texts, pa.scalar(BETWEEN, pa.large_string())])
        other_columns = table.drop_columns([name for name in (*TEXTS, "source", "target") if name in columns])
        tables.append(other_columns.append_column("source", source).append_column("target", table["label"]))
    # `datasets` keeps its description of the old columns in the metadata.
    return Dataset(pa.concat_tables(tables).replace_schema_metadata(None))
