"""Finished runs, read back from the `summary.json` in their folders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from cl_mlm.errors import RunFolderError
from cl_mlm.metrics import FloatArray, as_matrix
from cl_mlm.results.prompt_tables import mean_scores
from cl_mlm.results.run_report import probe_changes
from cl_mlm.run_folder import RunFolder

MAX_DEPTH: Final = 3
REQUIRED: Final = ("label", "seed", "settings", "stream", "columns", "home", "accuracy_matrix", "metrics", "cost")


@dataclass(frozen=True, eq=False)
class RunSummary:
    """One finished run.

    Attributes:
        settings: the resolved config without seed, output and tracking; equal in runs that differ only by seed.
        matrix: accuracy matrix, `(stages, columns)` in 0-1.
        metrics: by name, in 0-1, behind them the changes of probes; NaN where undefined, and then `reasons` says why.
        cost: by name, in the units of the names; NaN where not measured.
        prompting: mean scores of prompts over columns by number of demonstrations, before and after every stage; None
            where not measured.
    """

    folder: Path
    label: str
    seed: int
    settings: Mapping[str, Any]
    stream: str
    fingerprint: str
    columns: tuple[str, ...]
    home: tuple[int, ...]
    matrix: FloatArray
    metrics: Mapping[str, float]
    reasons: Mapping[str, str]
    cost: Mapping[str, float]
    prompting: Mapping[str, list[float | None]] = field(default_factory=dict)


def load_runs(folder: Path) -> list[RunSummary]:
    """Returns the finished runs (`summary.json`) at most three folders below, in order of their paths.

    Raises:
        RunFolderError: the folder is missing, or a summary cannot be read; every fault at once.
    """
    runs, problems = [], []
    for path in _run_folders(folder):
        if RunFolder(path).summary.is_file():
            try:
                runs.append(load_run(path))
            except RunFolderError as error:
                problems.append(str(error))
    if problems:
        raise RunFolderError("\n".join(problems))
    return runs


def unfinished_runs(folder: Path) -> list[Path]:
    """Returns run folders that have a config and no summary yet."""
    return [path for path in _run_folders(folder) if not RunFolder(path).summary.is_file()]


def load_run(folder: Path) -> RunSummary:
    """Returns the finished run in `folder`.

    Raises:
        RunFolderError: its summary is missing, is no JSON, or lacks something, naming the file.
    """
    path = RunFolder(folder).summary
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read: {error}") from error
    missing = [key for key in REQUIRED if key not in summary] if isinstance(summary, dict) else list(REQUIRED)
    if missing:
        raise RunFolderError(f"{path}: must have the keys {missing}")
    try:
        return _parse(folder, summary)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path}: is damaged: {type(error).__name__}: {error}") from error


def _run_folders(folder: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    """Yields folders that hold a run, outermost first; what lies inside a run is not searched."""
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such folder")
    if RunFolder(folder).summary.is_file() or RunFolder(folder).config.is_file():
        yield folder
    elif depth > 0:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from _run_folders(path, depth - 1)


def _parse(folder: Path, summary: Mapping[str, Any]) -> RunSummary:
    columns, matrix = tuple(map(str, summary["columns"])), as_matrix(summary["accuracy_matrix"])
    home = tuple(-1 if stage is None else int(stage) for stage in summary["home"])
    if matrix.shape[1] != len(columns) or len(home) != len(columns):
        raise ValueError(f"{len(columns)} columns, home {list(home)}, accuracy_matrix {matrix.shape}")
    return RunSummary(
        folder=folder,
        label=str(summary["label"]),
        seed=int(summary["seed"]),
        settings=dict(summary["settings"]),
        stream=str(summary["stream"]["name"]),
        fingerprint=str(summary["stream"]["fingerprint"]),
        columns=columns,
        home=home,
        matrix=matrix,
        metrics=_numbers({**summary["metrics"], **probe_changes(summary)}),
        reasons=dict(summary.get("reasons") or {}),
        cost=_numbers(summary["cost"]),
        prompting=mean_scores(summary["prompting"]) if summary.get("prompting") else {},
    )


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: np.nan if value is None else float(value) for name, value in values.items()}
