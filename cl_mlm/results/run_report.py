"""The report of one run: tables and figures made from its `summary.json`.

Scores stay in 0-1 in files; a person is shown percent, and points (hundredths) for differences of scores.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cl_mlm.metrics import DEFINITIONS, FloatArray, as_matrix
from cl_mlm.results.prompt_tables import BEFORE, mean_scores
from cl_mlm.run_folder import RunFolder

if TYPE_CHECKING:
    from rich.table import Table

UNDEFINED: Final = "–"
MATRIX: Final = "accuracy_matrix"  # under `reasons`: rows are left out
PROBE_PREFIX: Final = "probe "
PROBE: Final = "score after the last stage - before any training; no stage trains on it, and no average holds it"
DIFFERENCES: Final = frozenset({"backward_transfer", "forward_transfer", "forgetting"})


def write_run_report(folder: RunFolder, summary: Mapping[str, Any]) -> list[Path]:
    """Writes matrices (CSV, JSON) and figures (PNG) of one run into its folder and returns their paths."""
    from cl_mlm.results import figures

    stages, columns, home = stage_names(summary), list(summary["columns"]), summary["home"]
    accuracy, validation = as_matrix(summary["accuracy_matrix"]), as_matrix(summary["validation_matrix"])
    shown = [f"{name} (probe)" if is_probe(place) else name for name, place in zip(columns, home, strict=True)]
    curves = figures.forgetting_curves(accuracy, stages, shown, home)
    # Of a stream that is not measured after every stage only the measured ones are shown, whatever their number.
    rows = (
        np.flatnonzero(~np.isnan(accuracy).all(axis=1))
        if MATRIX in summary.get("reasons", {})
        else np.arange(len(accuracy))
    )
    heat_map = figures.accuracy_matrix(accuracy[rows], [stages[i] for i in rows], shown)
    prompted = summary.get("prompting") or {"shots": {}, "columns": []}
    return [
        *(
            _write_matrix(
                folder.path / f"prompting_{shots}-shot.csv", as_matrix(rows), [BEFORE, *stages], prompted["columns"]
            )
            for shots, rows in prompted["shots"].items()
        ),
        _write_matrix(folder.path / "accuracy_matrix.csv", accuracy, stages, columns),
        _write_matrix(folder.path / "validation_matrix.csv", validation, stages, columns),
        _write_json(folder.path / "matrices.json", summary, stages),
        figures.save(curves, folder.figures / "forgetting_curves.png"),
        figures.save(heat_map, folder.figures / "accuracy_matrix.png"),
    ]


def metrics_table(summary: Mapping[str, Any]) -> Table:
    """Returns every metric with its value in percent or points and its definition; `notes` belongs below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table("metric", "value", "definition")
    table.columns[1].justify = "right"
    table.columns[1].no_wrap = True
    for name, value in summary["metrics"].items():
        unit = "" if is_undefined(value) else f" {unit_of(name)}"
        table.add_row(Text(name.replace("_", " ")), hundredths(value) + unit, Text(DEFINITIONS.get(name, "")))
    for name, value in probe_changes(summary).items():
        table.add_row(Text(name), hundredths(value) + ("" if is_undefined(value) else " points"), Text(PROBE))
    return table


def probe_changes(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns by `probe <name>` how much the score of every probe changed, 0-1; None where that is not known."""
    return {f"{PROBE_PREFIX}{name}": values["change"] for name, values in (summary.get("probes") or {}).items()}


def is_probe(home: int | None) -> bool:
    """Says whether a column with this home is a probe."""
    return home is None or home < 0


def prompting_table(summary: Mapping[str, Any]) -> Table | None:
    """Returns the mean score of prompts over columns, a row for each moment; None where nothing was prompted."""
    from rich.table import Table
    from rich.text import Text

    section = summary.get("prompting")
    if not section:
        return None
    means = mean_scores(section)
    title = f"prompts ({section['stream']['name']} {section['split']}, mean of {len(section['columns'])} columns, %)"
    table = Table("after", *(f"{shots}-shot" for shots in means), title=title)
    for moment, *scores in zip([BEFORE, *stage_names(summary)], *means.values(), strict=True):
        table.add_row(Text(str(moment)), *map(hundredths, scores))
    return table


def notes(summary: Mapping[str, Any]) -> list[str]:
    """Returns what must be read with the numbers, line by line: undefined metrics, flags, notes on the data."""
    stream = summary.get("stream", {})
    lines = [f"{name.replace('_', ' ')} {UNDEFINED}: {reason}" for name, reason in summary.get("reasons", {}).items()]
    for name, values in (summary.get("probes") or {}).items():
        first, last = (
            UNDEFINED if is_undefined(values[key]) else f"{hundredths(values[key])} %" for key in ("before", "after")
        )
        lines.append(f"{PROBE_PREFIX}{name}: {first} before any training, {last} after the last stage")
    lines += [f"flag: {flag}" for flag in summary.get("flags") or ()]
    lines += [f"reused: stage {one['stage']} was trained by {one['run']}" for one in summary.get("reused") or ()]
    before = [
        f"{column} {hundredths(score)} %"
        for column, score in zip(summary.get("columns", ()), summary.get("baseline") or (), strict=False)
        if not is_undefined(score) and column not in (summary.get("probes") or {})
    ]
    lines += [f"before any training: {', '.join(before)}"] * bool(before)
    if stream.get("overlap"):
        lines.append(f"overlap: {_in_words(stream['overlap'])}")
    return lines + [f"data: {note}" for note in stream.get("notes") or ()]


def stage_names(summary: Mapping[str, Any]) -> list[str]:
    """Returns the names of the run's stages, in order."""
    return [str(name) for name in summary["stream"]["stages"]]


def unit_of(metric: str) -> str:
    """Returns the unit in which a metric is shown: percent for scores, points for differences of scores."""
    return "points" if metric in DIFFERENCES or metric.startswith(PROBE_PREFIX) else "%"


def hundredths(value: float | None, digits: int = 1) -> str:
    """Returns a score of 0-1 times 100, `–` where it is undefined."""
    # Adding 0.0 turns a rounded -0.0 into 0.0, which would else be shown with a sign.
    return UNDEFINED if value is None or math.isnan(value) else f"{round(100 * value, digits) + 0.0:.{digits}f}"


def is_undefined(value: float | None) -> bool:
    """Says whether a metric has no value (None in files, NaN in memory)."""
    return value is None or math.isnan(value)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Writes a table, undefined numbers as empty cells, and returns its path; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows)
    return path


def _write_matrix(path: Path, matrix: FloatArray, stages: Sequence[str], columns: Sequence[str]) -> Path:
    rows = ([stage, *scores] for stage, scores in zip(stages, matrix.tolist(), strict=False))
    return write_csv(path, ["stage", *columns], rows)


def _write_json(path: Path, summary: Mapping[str, Any], stages: Sequence[str]) -> Path:
    """Writes matrices with the names of their rows and columns; NaN is null."""
    kept = {key: summary[key] for key in ("columns", "home", "accuracy_matrix", "validation_matrix", "baseline")}
    text = json.dumps({"stages": stages, **kept}, indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _in_words(counts: object) -> str:
    return ", ".join(f"{key} {value}" for key, value in counts.items()) if isinstance(counts, Mapping) else str(counts)
