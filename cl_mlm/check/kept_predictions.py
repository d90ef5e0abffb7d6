"""Says whether the tables of predictions of a run can be read, hold all test rows, and give the run's scores."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from cl_mlm.check.kept_scores import test_rows
from cl_mlm.config.components import make_objective
from cl_mlm.errors import ClMlmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cl_mlm.check.findings import Findings
    from cl_mlm.check.kept_journal import KeptJournal
    from cl_mlm.run_folder import RunFolder

BEFORE = "before"
COLUMNS = ("column", "id", "prediction", "reference", "probability", "reference_probability")
CLOSE = 1e-9


def check_predictions(
    found: Findings, folder: RunFolder, summary: Mapping[str, Any], journal: KeptJournal, way_out: str
) -> None:
    """Adds whether the tables hold what was scored.

    Args:
        found: mutated.
        folder: of the run.
        summary: of the run; of one that is not finished, `columns`, `accuracy_matrix` and `baseline` as far as it is.
        journal: of the run: it says whether the untrained model was scored.
        way_out: what makes a table again.
    """
    expected: dict[str, Sequence[float | None]] = {
        str(i): row for i, row in enumerate(summary["accuracy_matrix"]) if any(score is not None for score in row)
    }
    if journal.run_points("baseline/"):
        expected = {BEFORE: summary.get("baseline") or [], **expected}
    faults: list[str] = []
    sizes, num_rows = test_rows(summary), 0
    recomputed = 0
    seen_rows: dict[str, int] = {}
    for name, scores in expected.items():
        where = f"predictions/{name}.parquet"
        try:
            tables = _by_column(folder, name)
        except FileNotFoundError:
            faults.append(f"{where}: is missing")
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            text = str(error).replace(f"{folder.path}/", "").strip("'\"") or repr(error)
            faults.append(f"{where}: cannot be read: {text.splitlines()[0]}")
            continue
        num_rows += sum(len(rows["id"]) for rows in tables.values())
        problems = [*_wrong_rows(tables, summary["columns"], scores, sizes, name)]
        for column, rows in tables.items():
            digest = hash((tuple(rows["id"]), repr(rows["reference"])))
            if seen_rows.setdefault(column, digest) != digest:
                problems.append(f"has other rows of {column} than the tables before")
        if not problems:
            number, problems = _other_scores(tables, summary, scores)
            recomputed += number
        faults += [f"{where}: {problem}" for problem in problems]
        for column, rows in tables.items():
            sizes.setdefault(column, len(rows["id"]))
    seen = f"{len(expected)} tables, {num_rows:,} rows"
    found.add("predictions", seen + (f", {recomputed} scores computed again" if recomputed else ""), faults, way_out)


def _by_column(folder: RunFolder, name: str) -> dict[str, dict[str, list[Any]]]:
    """Returns the rows of a table by the column that they belong to.

    Raises:
        OSError, ValueError, KeyError: it is missing, or no such table; pyarrow's own errors are ValueErrors.
    """
    with folder.predictions(name).open("rb") as file:
        table = pq.read_table(file)
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise ValueError(f"must have the columns {', '.join(COLUMNS)}, lacks {', '.join(missing)}")
    owners = table["column"].to_pylist()
    values = {key: table[key].to_pylist() for key in ("id", "prediction", "reference")}
    found: dict[str, dict[str, list[Any]]] = {}
    for i, owner in enumerate(owners):
        rows = found.setdefault(str(owner), {key: [] for key in values})
        for key, column in values.items():
            rows[key].append(column[i])
    return found


def _wrong_rows(
    tables: Mapping[str, Mapping[str, list[Any]]],
    columns: Sequence[str],
    scores: Sequence[float | None],
    sizes: Mapping[str, int],
    name: str,
) -> Iterator[str]:
    """Yields the columns whose rows are not the test rows."""
    scored = {column for column, score in zip(columns, scores, strict=False) if score is not None}
    if name == BEFORE:
        scored &= tables.keys()  # prompts give a score before training without predictions
    if columns and tables.keys() != scored:
        yield f"must have rows of {', '.join(sorted(scored))}, got {', '.join(sorted(tables)) or 'none'}"
    for column, rows in tables.items():
        if len(rows["id"]) != sizes.get(column, len(rows["id"])):
            yield f"must have {sizes[column]:,} rows of {column}, got {len(rows['id']):,}"
        elif len(set(rows["id"])) != len(rows["id"]):
            yield f"has rows of {column} twice"


def _other_scores(
    tables: Mapping[str, Mapping[str, list[Any]]], summary: Mapping[str, Any], scores: Sequence[float | None]
) -> tuple[int, list[str]]:
    """Returns how many scores were computed again, and those that are others than the run's."""
    faults, number = [], 0
    for column, score in zip(summary["columns"], scores, strict=False):
        task = _task_of(column, summary)
        if score is None or task is None or column not in tables:
            continue
        again = _score(task, tables[column], list(summary["stream"]["labels"][column]), len(summary["tasks"]) > 1)
        if again is None:
            continue
        number += 1
        if abs(again - score) > CLOSE:
            faults.append(f"gives a score of {again:.6g} on {column}, the accuracy matrix has {score:.6g}")
    return number, faults


def _task_of(column: str, summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the task of a column that is called as a stage; None: not known."""
    stages = summary.get("stream", {}).get("stages", [])
    if column not in stages or column not in summary["stream"].get("labels", {}):
        return None
    index = stages.index(column)
    tasks = summary.get("tasks") or {}
    return next((task for task in tasks.values() if index in task.get("stages", ())), None)


def _score(task: Mapping[str, Any], rows: Mapping[str, list[Any]], labels: list[str], is_json: bool) -> float | None:
    """Returns the score of predictions by their objective; None: it is not known here."""
    if "." in str(task.get("objective")):
        return None  # a folder may come from somebody else: no code that it names is run
    try:
        objective = make_objective(task["objective"], task["options"])
    except (ClMlmError, KeyError, TypeError):
        return None
    predictions, references = rows["prediction"], rows["reference"]
    if is_json:
        predictions, references = ([json.loads(value) for value in values] for values in (predictions, references))
    return float(objective.score(predictions, references, labels)["score"])
