"""Checkpoints: at the end of a stage, and at a step within one."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from cl_mlm.disk import writing
from cl_mlm.errors import RunFolderError
from cl_mlm.run_folder import MANIFEST, MODEL, MODELS, SCORED, RunFolder, stage_name, step_name
from cl_mlm.storage.state_files import damage, read_state, state_bytes, write_folder_whole, write_state
from cl_mlm.tracking.journal_prefix import prefix_faults
from cl_mlm.whole_files import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cl_mlm.models.backbone import PlainBackbone

RECORD = "record.json"
JOURNAL = "journal.json"  # how the journal began when the checkpoint was written


def write_stage(
    folder: Path,
    stage_index: int,
    model: PlainBackbone,
    states: Mapping[str, Any],
    record: Mapping[str, Any],
    others: Mapping[str, PlainBackbone] | None = None,
    as_scored: AbstractContextManager[None] | None = None,
    journal: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the checkpoint at the end of a stage, `folder/<stage>/`, whole or not at all; returns it.

    Args:
        folder: of all stages.
        stage_index: the stage.
        model: goes to `model/`.
        states: of the strategies; go to `strategies.safetensors` and `strategies.json`.
        record: what was measured; goes to `record.json`.
        others: the models of other tasks, by key; go to `models/<key>/`.
        as_scored: within it the models are what was scored, which goes to `scored/`; None: they are that anyway.
        journal: how long the journal on the disk is, and its digest (`Journal.extent`); goes to `journal.json`.
    """

    def save(place: Path) -> None:
        model.save(place / MODEL)
        for key, other in (others or {}).items():
            other.save(place / MODELS / key)

    def fill(temporary: Path) -> None:
        save(temporary)
        if as_scored is not None:
            with as_scored:
                save(temporary / SCORED)
        write_state(temporary, "strategies", states)
        (temporary / RECORD).write_text(json.dumps(record))
        _write_extent(temporary, journal)

    def needs() -> float:
        weights = sum(each.num_bytes for each in [model, *(others or {}).values()])
        return state_bytes(states) + weights * (1 if as_scored is None else 2)

    return write_folder_whole(folder / stage_name(stage_index), fill, needs)


def write_step(
    folder: Path, stage_index: int, step: int, state: Mapping[str, Any], journal: Mapping[str, Any] | None = None
) -> Path:
    """Writes `folder/<stage>-<step>/` from within a stage, removes all but it and the one before; returns it.

    `journal` as in `write_stage`.
    """

    def fill(temporary: Path) -> None:
        write_state(temporary, "state", state)
        _write_extent(temporary, journal)

    final = write_folder_whole(folder / step_name(stage_index, step), fill, lambda: state_bytes(state))
    own = sorted(folder.glob(f"{stage_name(stage_index)}-*"))
    # Another stage's are left over from before a damaged checkpoint sent the run back.
    for stale in {*folder.glob("[0-9]*")} - {*own[-2:]}:
        with writing(stale):
            shutil.rmtree(stale)
    return final


def read_step(folder: Path, stage_index: int) -> tuple[dict[str, Any] | None, list[str]]:
    """Returns the newest undamaged state from within `stage_index` (or None), and what was found damaged."""
    found, faults = last_good(folder, f"{stage_name(stage_index)}-*")
    return (None if found is None else read_state(found, "state")), faults


def read_stage(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns `(strategy states, record)` of a checkpoint whose every file has its checksum.

    Raises:
        RunFolderError: a file is missing or damaged.
    """
    fault = damage(folder)
    if fault:
        raise RunFolderError(fault)
    return read_state(folder, "strategies"), json.loads((folder / RECORD).read_text())


def journal_faults(folder: RunFolder) -> list[str]:
    """Returns in what journal and checkpoints of a run do not belong together; empty where nothing says so.

    Where a newest checkpoint does not fit, the journal is named; else each older one that does not, for it was written
    by another run.
    """
    known: list[tuple[Path, dict[str, Any], bool]] = []
    for checkpoints in (folder.stages, folder.steps):
        found = [(path, extent) for path in _with_manifest(checkpoints) if (extent := _sound(path, JOURNAL))]
        known += [(path, extent, i == len(found) - 1) for i, (path, extent) in enumerate(found)]
    faults, foreign = prefix_faults(folder.journal, [extent for _, extent, _ in known]), []
    for (checkpoint, extent, is_newest), fault in zip(known, faults, strict=True):
        shown = checkpoint.relative_to(folder.path)
        if fault and is_newest:
            known_bytes = f"the {extent['bytes']} bytes that were there when {shown} was written"
            return [f"{folder.journal}: {fault}; it must begin with {known_bytes}"]
        if fault:
            foreign.append(f"{checkpoint}: is of another run, whose journal began otherwise")
    return foreign


def knows_journal(folder: RunFolder) -> bool:
    """Returns whether the newest checkpoints say how the journal began; those of earlier versions do not."""
    return any(_newest(checkpoints, JOURNAL)[1] is not None for checkpoints in (folder.stages, folder.steps))


def last_record(folder: RunFolder) -> dict[str, Any]:
    """Returns what the newest stage's checkpoint has as measured, without reading its model; empty: there is none."""
    return _newest(folder.stages, RECORD)[1] or {}


def has_checkpoint(folder: RunFolder) -> bool:
    """Returns whether anything is kept from which a run can be resumed."""
    return any(_with_manifest(checkpoints) for checkpoints in (folder.stages, folder.steps))


def in_order(checkpoints: Iterable[Path]) -> list[Path]:
    """Returns checkpoints by age, the oldest first: by the numbers in their names."""
    return sorted(checkpoints, key=lambda path: [int(part) for part in path.name.split("-") if part.isdigit()])


def last_good(folder: Path, pattern: str = "[0-9]*") -> tuple[Path | None, list[str]]:
    """Returns the newest undamaged checkpoint below `folder` (or None), and what was found damaged."""
    faults: list[str] = []
    for candidate in reversed(_with_manifest(folder, pattern)):
        fault = damage(candidate) or misnamed(candidate)
        if fault is None:
            return candidate, faults
        faults.append(fault)
    return None, faults


def misnamed(checkpoint: Path) -> str | None:
    """Returns why an undamaged checkpoint is not that of the stage or step which its name tells, or None."""
    stage, _, step = checkpoint.name.partition("-")
    if step:
        found = json.loads((checkpoint / "state.json").read_text()).get("place", {}).get("step", int(step))
        return None if found == int(step) else f"{checkpoint}: is not what its name says, but of step {found}"
    found = json.loads((checkpoint / RECORD).read_text()).get("next_stage", int(stage) + 1) - 1
    return None if found == int(stage) else f"{checkpoint}: is not what its name says, but of stage {found}"


def _with_manifest(folder: Path, pattern: str = "[0-9]*") -> list[Path]:
    """Returns the checkpoints below `folder`, the oldest first."""
    return in_order(path for path in folder.glob(pattern) if (path / MANIFEST).is_file())


def _newest(folder: Path, name: str) -> tuple[Path, dict[str, Any] | None]:
    """Returns the newest checkpoint whose JSON file of this name is undamaged, and what is in the file.

    The newest may be damaged; then the one before it counts, as it does for the run. None: no checkpoint has the file.
    """
    for checkpoint in reversed(_with_manifest(folder)):
        found = _sound(checkpoint, name)
        if found is not None:
            return checkpoint, found
    return folder, None


def _sound(checkpoint: Path, name: str) -> dict[str, Any] | None:
    """Returns what is in a checkpoint's JSON file; None: it is missing or damaged."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        is_sound = digest_of(checkpoint / name) == manifest[name]
        return dict(json.loads((checkpoint / name).read_text())) if is_sound else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_extent(folder: Path, journal: Mapping[str, Any] | None) -> None:
    if journal is not None:
        (folder / JOURNAL).write_text(json.dumps(journal))
