"""Reports one run from its `summary.json`: writes matrices and figures, and returns the tables that are printed.

Scores are 0-1 in files. Tables show scores in percent and differences of scores in points (hundredths).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cl_mlm.metrics import DEFINITIONS, FloatArray, as_matrix
from cl_mlm.results.prompt_tables import BEFORE, mean_scores
from cl_mlm.results.terminal_tables import tables_that_fit
from cl_mlm.whole_files import written_whole

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from cl_mlm.run_folder import RunFolder

UNDEFINED: Final = "–"
MATRIX: Final = "accuracy_matrix"  # a key of `reasons` in a summary where not every stage is measured
PROBE_PREFIX: Final = "probe "
PROBE: Final = "score after the last stage - before any training; no stage trains on it, and no average holds it"
DIFFERENCES: Final = frozenset({"backward_transfer", "forward_transfer", "forgetting"})


def write_run_report(folder: RunFolder, summary: Mapping[str, Any]) -> list[Path]:
    """Writes matrices (CSV, JSON) and figures (PNG) of one run into its folder and returns their paths."""
    from cl_mlm.results import figures

    stages, columns, home = stage_names(summary), list(summary["columns"]), summary["home"]
    accuracy, validation = as_matrix(summary["accuracy_matrix"]), as_matrix(summary["validation_matrix"])
    marked = [f"{name} (probe)" if is_probe(stage) else name for name, stage in zip(columns, home, strict=True)]
    curves = figures.forgetting_curves(accuracy, stages, marked, home)
    drawn_rows = np.arange(len(accuracy))
    # An online stream may have hundreds of stages and measure few: a heat map of grey rows would show nothing.
    if MATRIX in summary.get("reasons", {}):
        drawn_rows = np.flatnonzero(~np.isnan(accuracy).all(axis=1))
    heat_map = figures.accuracy_matrix(accuracy[drawn_rows], [stages[i] for i in drawn_rows], marked)
    prompted = summary.get("prompting") or {"shots": {}, "columns": []}
    prompting = [
        _write_matrix(
            folder.path / f"prompting_{shots}-shot.csv", as_matrix(scores), [BEFORE, *stages], prompted["columns"]
        )
        for shots, scores in prompted["shots"].items()
    ]
    readings = summary.get("readings") or {}
    if readings:
        values = np.array([*readings.values()], dtype=np.float64).T  # None becomes NaN
        prompting.append(_write_matrix(folder.path / "readings.csv", values, [BEFORE, *stages], [*readings]))
    return [
        *prompting,
        _write_matrix(folder.path / "accuracy_matrix.csv", accuracy, stages, columns),
        _write_matrix(folder.path / "validation_matrix.csv", validation, stages, columns),
        _write_json(folder.path / "matrices.json", summary, stages),
        figures.save(curves, folder.figures / "forgetting_curves.png"),
        figures.save(heat_map, folder.figures / "accuracy_matrix.png"),
    ]


def metrics_table(summary: Mapping[str, Any]) -> Table:
    """Returns the table of every metric: its value in percent or points, and its definition. `notes` go below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table("metric", "value", "definition")
    table.columns[1].justify = "right"
    table.columns[1].no_wrap = True
    for name, value in summary["metrics"].items():
        unit = "" if is_undefined(value) else f" {unit_of(name)}"
        table.add_row(Text(name.replace("_", " ")), hundredths(value) + unit, Text(DEFINITIONS.get(name, "")))
    for name, value in probe_changes(summary).items():
        unit = "" if is_undefined(value) else " points"
        table.add_row(Text(name), hundredths(value) + unit, Text(PROBE))
    return table


def probe_changes(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns the change of every probe's score by `probe <name>`, in -1 to 1; None: not known."""
    return {f"{PROBE_PREFIX}{name}": values["change"] for name, values in (summary.get("probes") or {}).items()}


def is_probe(home: int | None) -> bool:
    """Returns whether a column with this home is a probe: no stage trains on it."""
    return home is None or home < 0


def prompting_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Returns the tables of mean scores of prompts, before training and after each stage; empty without prompts."""
    section = summary.get("prompting")
    if not section:
        return []
    means = mean_scores(section)
    title = f"prompts ({section['stream']['name']} {section['split']}, mean of {len(section['columns'])} columns, %)"
    moments = zip([BEFORE, *stage_names(summary)], *means.values(), strict=True)
    rows = [[moment, *map(hundredths, scores)] for moment, *scores in moments]
    return tables_that_fit(title, ["after", *(f"{shots}-shot" for shots in means)], rows)


def reading_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Returns the tables of readings, as they were taken, before training and after each stage; empty without any."""
    readings = summary.get("readings") or {}
    if not readings:
        return []
    shown = [[UNDEFINED if is_undefined(value) else f"{value:.4f}" for value in of] for of in readings.values()]
    rows = [[*row] for row in zip([BEFORE, *stage_names(summary)], *shown, strict=True)]
    return tables_that_fit("readings (scores in 0-1, divergences in nats)", ["after", *readings], rows)


def notes(summary: Mapping[str, Any]) -> list[str]:
    """Returns what must be read with the numbers, in lines: undefined metrics, probes, flags, notes on the data."""
    stream, probes = summary.get("stream", {}), summary.get("probes") or {}
    lines = [f"{name.replace('_', ' ')} {UNDEFINED}: {reason}" for name, reason in summary.get("reasons", {}).items()]
    for name, scores in probes.items():
        before, after = _percent(scores["before"]), _percent(scores["after"])
        lines.append(f"{PROBE_PREFIX}{name}: {before} before any training, {after} after the last stage")
    lines += [f"flag: {flag}" for flag in summary.get("flags") or ()]
    lines += [f"reused: stage {stage['stage']} was trained by {stage['run']}" for stage in summary.get("reused") or ()]
    baseline = [
        f"{column} {_percent(score)}"
        for column, score in zip(summary.get("columns", ()), summary.get("baseline") or (), strict=False)
        if not is_undefined(score) and column not in probes
    ]
    if baseline:
        lines.append(f"before any training: {', '.join(baseline)}")
    if stream.get("overlap"):
        lines.append(f"overlap: {_counts_in_words(stream['overlap'])}")
    return lines + [f"data: {note}" for note in stream.get("notes") or ()]


def stage_names(summary: Mapping[str, Any]) -> list[str]:
    """Returns the names of the run's stages, in order."""
    return [str(name) for name in summary["stream"]["stages"]]


def unit_of(metric: str) -> str:
    """Returns the unit of a metric in tables: `%` for scores, `points` for differences of scores."""
    return "points" if metric in DIFFERENCES or metric.startswith(PROBE_PREFIX) else "%"


def hundredths(value: float | None, digits: int = 1) -> str:
    """Returns 100 times a score of 0-1 as text; `–` if it is undefined."""
    if value is None or math.isnan(value):
        return UNDEFINED
    # Adding 0.0 turns a rounded -0.0 into 0.0, which would otherwise be shown with a sign.
    return f"{round(100 * value, digits) + 0.0:.{digits}f}"


def _percent(value: float | None) -> str:
    return UNDEFINED if is_undefined(value) else f"{hundredths(value)} %"


def is_undefined(value: float | None) -> bool:
    """Returns whether a metric has no value: None in files, NaN in memory."""
    return value is None or math.isnan(value)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Writes a table, NaN as an empty cell, and returns its path; creates the folder."""
    # A name that is no text in UTF-8 shall not cost a report.
    with (
        written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows)
    return path


def _write_matrix(path: Path, matrix: FloatArray, stages: Sequence[str], columns: Sequence[str]) -> Path:
    """Writes a matrix with the names of its rows and columns; it may have fewer rows than there are stages."""
    rows = ([stage, *scores] for stage, scores in zip(stages, matrix.tolist(), strict=False))
    return write_csv(path, ["stage", *columns], rows)


def _write_json(path: Path, summary: Mapping[str, Any], stages: Sequence[str]) -> Path:
    """Writes both matrices and the baseline with the names of rows and columns; a missing score is null."""
    matrices = {key: summary[key] for key in ("columns", "home", "accuracy_matrix", "validation_matrix", "baseline")}
    text = json.dumps({"stages": stages, **matrices}, indent=1, allow_nan=False, ensure_ascii=False)
    with written_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return path


def _counts_in_words(counts: object) -> str:
    return ", ".join(f"{key} {value}" for key, value in counts.items()) if isinstance(counts, Mapping) else str(counts)
