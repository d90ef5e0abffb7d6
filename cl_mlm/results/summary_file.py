"""Reads `summary.json`: the one place that says whether a file is the summary of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from cl_mlm.errors import RunFolderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REQUIRED: Final = ("label", "seed", "settings", "stream", "columns", "home", "accuracy_matrix", "metrics", "cost")
# Keys whose values are sections; older versions lack some of them.
SECTIONS: Final = (
    "settings",
    "stream",
    "metrics",
    "cost",
    "validation_metrics",
    "reasons",
    "tasks",
    "probes",
    "versions",
    "provenance",
)
LISTS: Final = ("flags", "reused", "strategies")
MATRICES: Final = ("accuracy_matrix", "validation_matrix")
NUMBERS: Final = ("metrics", "cost", "validation_metrics")
# What every version has written, and readers count on.
ENTRIES: Final = {"metrics": ("average_accuracy", "forgetting"), "cost": ("train_seconds", "eval_seconds")}
LARGEST: Final = 1e300  # beyond it an integer is no float
MOST_NAMED: Final = 3


def read_summary_file(path: Path) -> dict[str, Any]:
    """Returns the contents of a `summary.json`.

    Raises:
        RunFolderError: it is missing, is no JSON, or is no summary of a run; the message names the file.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: cannot be read as a summary: {error}") from error
    faults = summary_faults(summary)
    if faults:
        more = f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
        raise RunFolderError(f"{path}: is damaged: {'; '.join(faults[:MOST_NAMED])}{more}")
    return dict(summary)


def summary_faults(summary: Any) -> list[str]:
    """Returns what keeps a value from being the summary of a run; empty: nothing."""
    if not isinstance(summary, Mapping):
        return [f"must be an object, got {_shown(summary)}"]
    missing = [key for key in REQUIRED if key not in summary]
    if missing:
        return [f"must have the keys {missing}"]
    # Shapes are asked of what has the right types only.
    return [*_wrong_types(summary)] or [*_wrong_shapes(summary), *_wrong_numbers(summary)]


def _wrong_types(summary: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(summary["seed"], int) or isinstance(summary["seed"], bool):
        yield f"seed: must be an integer, got {_shown(summary['seed'])}"
    if not isinstance(summary["label"], str):
        yield f"label: must be a text, got {_shown(summary['label'])}"
    for key in (*SECTIONS, *LISTS):
        kind, words = (list, "a list") if key in LISTS else (Mapping, "an object")
        if key in summary and not isinstance(summary[key], kind) and (summary[key] is not None or key in REQUIRED):
            yield f"{key}: must be {words}, got {_shown(summary[key])}"
    stream = summary["stream"]
    if not isinstance(stream, Mapping):
        return
    for key in ("name", "fingerprint"):
        if not isinstance(stream.get(key), str):
            yield f"stream.{key}: must be a text, got {_shown(stream.get(key))}"
    lists_of_texts = {"columns": summary["columns"], "stream.stages": stream.get("stages", [])}
    for key, names in lists_of_texts.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            yield f"{key}: must be a list of texts, got {_shown(names)}"
    yield from _wrong_entries(summary)
    home = summary["home"]
    if not isinstance(home, list) or not all(stage is None or type(stage) is int for stage in home):
        yield f"home: must be a list of stages, got {_shown(home)}"


def _wrong_entries(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yields faults of what stands within the sections."""
    sections = {key: summary.get(key) or {} for key in ("settings", "stream", "tasks")}
    settings, stream, tasks = (value if isinstance(value, Mapping) else {} for value in sections.values())
    limit = settings.get("limit")
    if limit is not None and type(limit) is not int:
        yield f"settings.limit: must be an integer or null, got {_shown(limit)}"
    objects = {"stream.labels": stream.get("labels", {}), **{f"tasks.{key}": task for key, task in tasks.items()}}
    yield from (
        f"{key}: must be an object, got {_shown(value)}"
        for key, value in objects.items()
        if not isinstance(value, Mapping)
    )


def _wrong_shapes(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yields faults of matrices and lists that have an entry for each column."""
    num_columns, num_stages = len(summary["columns"]), len(summary["stream"].get("stages", []))
    for key in ("home", "baseline"):
        values = summary.get(key)
        if key in summary and (not isinstance(values, list) or len(values) != num_columns):
            yield f"{key}: must have an entry for each of {num_columns} columns, got {_shown(values)}"
    for key in MATRICES:
        if key not in summary:
            continue
        rows = summary[key]
        if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
            yield f"{key}: must be a list of rows, got {_shown(rows)}"
        elif num_stages and len(rows) != num_stages:
            yield f"{key}: must have a row for each of {num_stages} stages, got {len(rows)}"
        elif any(len(row) != num_columns for row in rows):
            yield f"{key}: must have an entry for each of {num_columns} columns in every row"


def _wrong_numbers(summary: Mapping[str, Any]) -> Iterator[str]:
    for key in MATRICES:
        rows = summary.get(key)
        for i, row in enumerate(rows if isinstance(rows, list) else []):
            for j, score in enumerate(row if isinstance(row, list) else []):
                if not _is_number(score) or (score is not None and not 0 <= score <= 1):
                    yield f"{key}: row {i}, column {j} must be a score of 0-1 or null, got {_shown(score)}"
    for key in NUMBERS:
        values = summary.get(key) or {}
        yield from (f"{key}: must have {name}" for name in ENTRIES.get(key, ()) if name not in values)
        for name, value in values.items():
            if not _is_number(value):
                yield f"{key}.{name}: must be a number or null, got {_shown(value)}"


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value is None
    return -LARGEST < value < LARGEST


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse(token: str) -> None:
    raise ValueError(f"must hold no {token}: an undefined number is null")
