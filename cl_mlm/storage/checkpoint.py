"""Checkpoints: at the end of a stage, and at a step within one."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from cl_mlm.disk import writing
from cl_mlm.errors import RunFolderError
from cl_mlm.run_folder import MODEL, MODELS, SCORED, stage_name, step_name
from cl_mlm.storage.state_files import MANIFEST, damage, read_state, state_bytes, write_folder_whole, write_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cl_mlm.models.backbone import PlainBackbone

    pass


def write_stage(
    folder: Path,
    stage_index: int,
    model: PlainBackbone,
    states: Mapping[str, Any],
    record: Mapping[str, Any],
    others: Mapping[str, PlainBackbone] | None = None,
    as_scored: AbstractContextManager[None] | None = None,
) -> Path:
    """Writes `folder/<stage>/`: `model/`, `strategies.safetensors`, `strategies.json`, `record.json`, `manifest.json`.

    `others` are the models of other tasks, by key, and go to `models/<key>/`. Within `as_scored` the models are what
    was scored, which is written to `scored/`; None: they are that anyway. The folder appears whole or not at all.
    Returns it.
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
        (temporary / "record.json").write_text(json.dumps(record, indent=1))

    def needs() -> float:
        weights = sum(each.num_bytes for each in [model, *(others or {}).values()])
        return state_bytes(states) + weights * (1 if as_scored is None else 2)

    return write_folder_whole(folder / stage_name(stage_index), fill, needs)


def write_step(folder: Path, stage_index: int, step: int, state: Mapping[str, Any]) -> Path:
    """Writes `folder/<stage>-<step>/` from within a stage, removes all but it and the one before; returns it."""
    final = write_folder_whole(
        folder / step_name(stage_index, step),
        lambda path: write_state(path, "state", state),
        lambda: state_bytes(state),
    )
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
    return read_state(folder, "strategies"), json.loads((folder / "record.json").read_text())


def in_order(checkpoints: Iterable[Path]) -> list[Path]:
    """Returns checkpoints by age, the oldest first: by the numbers in their names."""
    return sorted(checkpoints, key=lambda path: [int(part) for part in path.name.split("-") if part.isdigit()])


def last_good(folder: Path, pattern: str = "[0-9]*") -> tuple[Path | None, list[str]]:
    """Returns the newest undamaged checkpoint below `folder` (or None), and what was found damaged."""
    faults: list[str] = []
    for candidate in reversed(in_order(p for p in folder.glob(pattern) if p.is_dir())):
        if not (candidate / MANIFEST).is_file():
            continue
        fault = damage(candidate)
        if fault is None:
            return candidate, faults
        faults.append(fault)
    return None, faults
