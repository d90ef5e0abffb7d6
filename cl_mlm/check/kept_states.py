"""Says whether the checkpoints of a run are whole: their files, models and records."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from cl_mlm.run_folder import MODEL, MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cl_mlm.check.findings import Findings
    from cl_mlm.check.kept_journal import KeptJournal
    from cl_mlm.run_folder import RunFolder

RECORD = "record.json"


def check_checkpoints(
    found: Findings, folder: RunFolder, journal: KeptJournal, summary: Mapping[str, Any] | None
) -> None:
    """Adds whether every kept checkpoint is whole, and says what journal and summary say.

    Args:
        found: mutated.
        folder: of the run.
        journal: of the run.
        summary: of the run; None: it has none.
    """
    kept = sorted(path for root in (folder.stages, folder.steps) for path in root.glob("[0-9]*") if path.is_dir())
    if not kept:
        found.lines.append("checkpoints: none kept")
        return
    faults: list[str] = []
    for checkpoint in kept:
        fault = _damage(checkpoint)
        problems = [fault] if fault else []
        if not problems and checkpoint.parent == folder.stages:
            problems = [*_wrong_model(checkpoint), *_wrong_record(checkpoint, journal, summary)]
        faults += [problem.replace(f"{folder.path}/", "") for problem in problems]
    way_out = found.again() if summary is not None else "the checkpoint before it is used when the run is resumed"
    beginning = [fault.replace(f"{folder.path}/", "") for fault in _journal_faults(folder)]
    if beginning and not journal.faults:
        found.add("journal's beginning", "", beginning, found.again())
    found.add("checkpoints", ", ".join(f"{path.parent.name}/{path.name}" for path in kept), faults, way_out)


def last_record(folder: RunFolder) -> dict[str, Any]:
    """Returns what the newest stage's checkpoint has as measured; empty: there is none that can be read."""
    for path in sorted(folder.stages.glob("[0-9]*/record.json"), reverse=True):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and isinstance(record.get("matrix"), list):
            return record
    return {}


def _journal_faults(folder: RunFolder) -> list[str]:
    from cl_mlm.storage.checkpoint import journal_faults  # noqa: PLC0415  imports torch

    return journal_faults(folder)


def _damage(checkpoint: Path) -> str | None:
    from cl_mlm.storage.state_files import damage  # noqa: PLC0415  imports torch

    return damage(checkpoint)


def _wrong_model(checkpoint: Path) -> Iterator[str]:
    """Yields models whose config or weights cannot be read; of weights the head of the file, which lists them."""
    models = [checkpoint / MODEL, *sorted((checkpoint / MODELS).glob("*"))]
    for model in models:
        try:
            if not isinstance(json.loads((model / "config.json").read_text(encoding="utf-8")), dict):
                raise ValueError("must be an object")
        except (OSError, ValueError) as error:
            yield f"{model}/config.json: cannot be read: {error}"
        weights = sorted(model.rglob("*.safetensors"))  # an adapter lies in a folder within
        if not weights:
            yield f"{model}: has no weights"
        for path in weights:
            try:
                with safe_open(path, framework="numpy") as file:
                    if not list(file.keys()):
                        yield f"{path}: holds no weights"
            except (SafetensorError, OSError, ValueError) as error:
                yield f"{path}: cannot be read: {error}"


def _wrong_record(checkpoint: Path, journal: KeptJournal, summary: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields in what the record of a stage's checkpoint is none, or another than the journal's."""
    path = checkpoint / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        matrix, next_stage = [list(row) for row in record["matrix"]], int(record["next_stage"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{path}: is damaged: {type(error).__name__}: {error}"
        return
    if next_stage != int(checkpoint.name) + 1:
        yield f"{path}: next_stage must be {int(checkpoint.name) + 1}, got {next_stage}"
    if summary is not None and matrix[:next_stage] != [list(row) for row in summary["accuracy_matrix"][:next_stage]]:
        yield f"{path}: its scores are not those of summary.json"
    if not journal.faults and next_stage - 1 not in journal.stages:
        yield f"{path}: is of stage {next_stage - 1}, of which the journal knows nothing"
