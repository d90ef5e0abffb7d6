"""Finds finished runs below a folder and reads their `summary.json` into `RunSummary`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cl_mlm.errors import RunFolderError
from cl_mlm.metrics import FloatArray, as_matrix
from cl_mlm.results.prompt_tables import mean_scores
from cl_mlm.results.run_report import probe_changes
from cl_mlm.results.summary_file import read_summary_file
from cl_mlm.run_folder import RunFolder
from cl_mlm.tracking.shell import shell_line
from cl_mlm.whole_files import fault_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

MAX_DEPTH: Final = 3
NUMBERED: Final = re.compile(r"(.+-[0-9a-f]{8})-(\d+)")  # one more run of a config; see `storage.run_lookup`


@dataclass(frozen=True, eq=False)
class RunSummary:
    """One finished run.

    Attributes:
        folder: of the run.
        label: the name of its arm; without one its strategies, in order.
        seed: of the run.
        settings: the resolved config without seed, output and tracking; equal in runs that differ only by seed.
        stream: its name.
        fingerprint: of the stream's rows.
        columns: their names.
        home: the stage after which each column counts as learned; -1: a probe.
        matrix: accuracy matrix, (stages, columns) in 0-1.
        metrics: values by name, in 0-1; the changes of probes come last. NaN: undefined.
        reasons: why a metric is undefined, by its name.
        cost: values by name; the name holds the unit. NaN: not measured.
        prompting: mean scores of prompts over columns by number of demonstrations, (1 + stages,) each, before training
            first. None: not measured.
        sources: digests of the code that made the run, by the name of its part; empty: not recorded.
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
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def limit(self) -> int | None:
        """Rows a split of a smoke run; None: a full run."""
        limit = self.settings.get("limit")
        return None if limit is None else int(limit)


def load_runs(folder: Path) -> list[RunSummary]:
    """Returns the finished runs (`summary.json`) at most `MAX_DEPTH` folders below `folder`, in order of their paths.

    Raises:
        RunFolderError: the folder is missing, or summaries cannot be read; all faults at once.
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
    """Returns the run folders below `folder` that have a config and no summary yet."""
    return [path for path in _run_folders(folder) if not RunFolder(path).summary.is_file()]


def newest_runs(runs: Iterable[RunSummary]) -> tuple[list[RunSummary], list[RunSummary]]:
    """Returns the newest run of each config (of `x`, `x-2`, `x-3` the last), and those before it.

    A run is made once more where data or code have changed, or it was asked for: the one before is out of date, or no
    new evidence for a mean.
    """
    newest: dict[Path, tuple[int, RunSummary]] = {}
    for run in runs:
        found = NUMBERED.fullmatch(run.folder.name)
        first = run.folder.with_name(found[1]) if found else run.folder
        number = int(found[2]) if found else 1
        newest[first] = max(newest.get(first, (0, run)), (number, run), key=lambda one: one[0])
    kept = [run for _, run in newest.values()]
    return kept, [run for run in runs if run not in kept]


def differing_sources(runs: Iterable[RunSummary]) -> list[str]:
    """Returns the parts of the code of which the runs have different versions."""
    seen: dict[str, set[str]] = {}
    for run in runs:
        for name, digest in run.sources.items():
            seen.setdefault(name, set()).add(digest)
    return sorted(name for name, digests in seen.items() if len(digests) > 1)


def load_run(folder: Path) -> RunSummary:
    """Returns the finished run in `folder`.

    Raises:
        RunFolderError: its summary is missing, or damaged; the message names the file.
    """
    path = RunFolder(folder).summary
    summary = read_summary_file(path)
    fault = _edit_of(path)
    if fault:
        mends = f"`{shell_line('cl-mlm', 'resume', folder)}` makes it again"
        raise RunFolderError(f"{path}: {fault}: it is not what the run wrote; {mends}")
    try:
        return _parse(folder, summary)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path}: is damaged: {type(error).__name__}: {error}") from error


def _edit_of(path: Path) -> str | None:
    """Returns in what a summary is not what the run's inventory says of it; None where it is, or there is none."""
    try:
        entry = json.loads(RunFolder(path.parent).inventory.read_text(encoding="utf-8"))[path.name]
        return fault_of(path, {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # without a whole inventory the summary counts; `cl-mlm verify` names what is damaged


def _run_folders(folder: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    """Yields the run folders in and below `folder`, in order of their paths; it does not search inside a run."""
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such folder")
    if RunFolder(folder).summary.is_file() or RunFolder(folder).config.is_file():
        yield folder
    elif depth > 0:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from _run_folders(path, depth - 1)


def _parse(folder: Path, summary: Mapping[str, Any]) -> RunSummary:
    """Returns the run of a summary.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a value is missing, of another type, or of another shape.
    """
    columns, matrix = tuple(map(str, summary["columns"])), as_matrix(summary["accuracy_matrix"])
    home = tuple(-1 if stage is None else int(stage) for stage in summary["home"])
    if matrix.shape[1] != len(columns) or len(home) != len(columns):
        raise ValueError(f"{len(columns)} columns, home {list(home)}, accuracy_matrix {matrix.shape}")
    return RunSummary(
        folder=folder,
        label=str(summary.get("arm") or summary["label"]),
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
        sources=_sources(summary.get("provenance") or {}),
    )


def _sources(provenance: Mapping[str, Any]) -> dict[str, str]:
    project = {"cl_mlm": str(provenance["version/source"])} if "version/source" in provenance else {}
    return {**project, **{str(name): str(digest) for name, digest in (provenance.get("own_source") or {}).items()}}


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """Returns `values` as floats; None becomes NaN."""
    return {name: np.nan if value is None else float(value) for name, value in values.items()}
