"""Writes predictions (one Parquet row for each evaluated row) and the per-label report computed from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cl_mlm.data.tasks import tasks_of
from cl_mlm.errors import RunFolderError
from cl_mlm.results.run_report import write_csv
from cl_mlm.stream import Stream, unpack_row_ids
from cl_mlm.whole_files import extent_of, written_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cl_mlm.run_folder import RunFolder
    from cl_mlm.training.evaluation import Evaluated
    from cl_mlm.training.run import Run


def write_predictions(folder: RunFolder, run: Run, evaluated: Evaluated, name: str) -> dict[str, Any]:
    """Writes `predictions/<name>.parquet` of a run folder: a line for every row that was evaluated.

    Returns the table's length and digest.
    """
    columns, _ = unpack_row_ids(evaluated.ids)
    names = pa.array([column.name for column in run.stream.columns])
    table = pa.table(
        {
            "column": pa.DictionaryArray.from_arrays(pa.array(columns), names),
            "id": evaluated.ids,
            "prediction": _answers(evaluated.predictions, len(run.tasks)),
            "reference": _answers(evaluated.references, len(run.tasks)),
            "probability": evaluated.probability,
            "reference_probability": evaluated.reference_probability,
            **({} if evaluated.free is None else {"free": _answers(evaluated.free, len(run.tasks))}),
        }
    )
    path = folder.predictions(name)
    # A path that is no text is none for pyarrow.
    with written_whole(path) as temporary, temporary.open("wb") as file:
        pq.write_table(table, file)
    return extent_of(path)


def write_per_class(folder: RunFolder, stream: Stream) -> list[Path]:
    """Writes precision, recall and F1 of every label under the final model, from its kept predictions.

    Returns the file, or nothing where there is none: no predictions, or objectives without labels.

    Raises:
        RunFolderError: the predictions cannot be read.
    """
    path = folder.predictions(str(len(stream) - 1))
    if not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            table = pq.read_table(file, columns=["column", "prediction", "reference"])
    except (pa.ArrowInvalid, OSError) as error:
        raise RunFolderError(f"{path}: cannot be read, so there is no per_class.csv: {error}") from error
    tasks, rows = tasks_of(stream), []
    for task in tasks:
        predictions: list[Any] = []
        references: list[Any] = []
        for j, column in enumerate(stream.columns):
            if column.home is None or tasks.of_column(j) is not task:
                continue
            own = table.filter(pc.field("column") == column.name)
            predictions += task.objective.within(_read(own["prediction"], len(tasks)), column.labels)
            references += task.objective.within(_read(own["reference"], len(tasks)), column.labels)
        found = task.objective.per_label(predictions, references, task.labels.names)
        rows += [{"task": task.key, **row} if len(tasks) > 1 else row for row in found]
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [write_csv(folder.per_class, names, [[row.get(name) for name in names] for row in rows])]


def _answers(values: Sequence[Any], num_tasks: int) -> Any:
    """Returns a column of predictions or references; texts that repeat themselves are written once.

    Answers of several tasks have no type in common, such as texts and lists of tags: they are written as JSON.
    """
    if num_tasks > 1:
        values = [json.dumps(value, ensure_ascii=False) for value in values]
    column = pa.array(values)
    return column.dictionary_encode() if pa.types.is_string(column.type) else column


def _read(column: Any, num_tasks: int) -> list[Any]:
    """Returns what `_answers` wrote."""
    values: list[Any] = column.to_pylist()
    return [json.loads(value) for value in values] if num_tasks > 1 else values
