"""What a run needs to go on: from the end of a stage, and from a step within one.

Written beside, flushed to disk, renamed; checksummed; never pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import RunFolderError

if TYPE_CHECKING:
    import torch

    from cl_mlm.models.backbone import Backbone

MANIFEST = "manifest.json"
MODELS = "models"  # of the tasks that are not the present stage's


def write_stage(
    folder: Path,
    stage_index: int,
    backbone: Backbone,
    states: Mapping[str, Any],
    record: Mapping[str, Any],
    others: Mapping[str, Backbone] | None = None,
) -> Path:
    """Writes `folder/<stage>/`: `model/`, `strategies.safetensors`, `strategies.json`, `record.json`, `manifest.json`.

    `others` are the models of other tasks, by key, and go to `models/<key>/`. The folder appears whole or not at all.
    Returns it.
    """

    def fill(temporary: Path) -> None:
        backbone.save(temporary / "model")
        for key, other in (others or {}).items():
            other.save(temporary / MODELS / key)
        _write_state(temporary, "strategies", states)
        (temporary / "record.json").write_text(json.dumps(record, indent=1))

    return _write_whole(folder / f"{stage_index:03d}", fill)


def write_step(folder: Path, stage_index: int, step: int, state: Mapping[str, Any]) -> Path:
    """Writes `folder/<stage>-<step>/` from within a stage, removes all but it and the one before; returns it."""
    final = _write_whole(folder / f"{stage_index:03d}-{step:09d}", lambda path: _write_state(path, "state", state))
    own = sorted(folder.glob(f"{stage_index:03d}-*"))
    # Another stage's are left over from before a damaged checkpoint sent the run back.
    for stale in {*folder.glob("[0-9]*")} - {*own[-2:]}:
        shutil.rmtree(stale)
    return final


def read_step(folder: Path, stage_index: int) -> tuple[dict[str, Any] | None, list[str]]:
    """Returns the newest undamaged state from within `stage_index` (or None), and what was found damaged."""
    found, faults = last_good(folder, f"{stage_index:03d}-*")
    return (None if found is None else _read_state(found, "state")), faults


def write_text_whole(path: Path, text: str) -> None:
    """Writes a file, UTF-8, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_entry(final: Path, state: Mapping[str, Any]) -> None:
    """Writes a state into a folder of its own, which appears whole or not at all."""
    _write_whole(final, lambda path: _write_state(path, "state", state))


def read_entry(folder: Path) -> dict[str, Any]:
    """Returns the state that `write_entry` wrote; arrays come back as tensors."""
    return _read_state(folder, "state")


def _write_state(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    plain = split_state(dict(state), "", tensors)
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(plain))


def _read_state(folder: Path, name: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    plain = json.loads((folder / f"{name}.json").read_text())
    return dict(join_state(plain, load_file(folder / f"{name}.safetensors")))


def _write_whole(final: Path, fill: Callable[[Path], None]) -> Path:
    """Fills a folder beside `final`, adds checksums, flushes it to disk and renames it into place."""
    folder, temporary = final.parent, final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        fill(temporary)
    except BaseException:  # a full disk must not stay full of what cannot be used
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    files = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
    manifest = {str(path.relative_to(temporary)): _digest(path) for path in files}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*files, temporary / MANIFEST]:
        _flush(path)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _flush(folder)
    return final


def read_stage(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns `(strategy states, record)` of a checkpoint whose every file has its checksum.

    Raises:
        RunFolderError: a file is missing or damaged.
    """
    fault = damage(folder)
    if fault:
        raise RunFolderError(fault)
    return _read_state(folder, "strategies"), json.loads((folder / "record.json").read_text())


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


def damage(folder: Path) -> str | None:
    """Returns what is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return f"{folder / MANIFEST}: cannot be read: {error}"
    if not isinstance(manifest, dict):
        return f"{folder / MANIFEST}: must map names to checksums, got {type(manifest).__name__}"
    # What is opened is found here, not taken from the manifest, which could name any file; a checkpoint has no links.
    own = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}
    for name, digest in manifest.items():
        if name not in own:
            return f"{folder / name}: is missing"
        if _digest(own[name]) != digest:
            return f"{own[name]}: is damaged (its checksum differs)"
    return None


def split_state(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Returns `value` with every tensor and array moved to `tensors` under its path and replaced by a reference.

    Raises:
        TypeError: a value is neither tensor, array, number, text, None, list nor dict.
    """
    import numpy as np
    import torch

    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value.copy())  # torch takes no read-only arrays and no negative strides
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().clone().contiguous()
        return {"$tensor": path}
    if isinstance(value, Mapping):
        return {str(key): split_state(item, f"{path}/{_escaped(key)}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [split_state(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"state{path}: must be tensors and plain values only, got {type(value).__name__}")


def _escaped(key: object) -> str:
    """Returns a key as one part of a path, so that `a/b` does not meet `b` below `a`; RFC 6901."""
    return str(key).replace("~", "~0").replace("/", "~1")


def join_state(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Returns what `split_state` took apart; arrays come back as tensors."""
    if isinstance(value, dict):
        if set(value) == {"$tensor"}:
            return tensors[value["$tensor"]]
        return {key: join_state(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [join_state(item, tensors) for item in value]
    return value


def state_bytes(value: Any) -> int:
    """Returns the bytes of all tensors in a state."""
    tensors: dict[str, torch.Tensor] = {}
    split_state(value, "", tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
