"""The inventory of a finished run, `files.json`: what the run has written, each file with its length and digest.

It is written after the journal's last line, so it also says that the run is finished. What others write into the folder
is not in it: `mlflow.json`, prompts.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from cl_mlm.run_folder import MANIFEST, RunFolder
from cl_mlm.whole_files import extent_of, fault_of, write_text_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BEFORE = "before"  # the table of predictions made before any training
# All that a run writes: at its start, after every measured stage, and at its end.
WRITTEN = (
    "config.yaml",
    "versions.json",
    "journal.jsonl",
    "predictions/*.parquet",
    "summary.json",
    "per_class.csv",
    "*_matrix.csv",
    "matrices.json",
    "prompting_*-shot.csv",
    "readings.csv",
    "figures/*.png",
)


def write_inventory(folder: Path, *, with_checkpoints: bool = True) -> None:
    """Writes `files.json` of a run folder, whole or not at all: all that the run wrote, as it is now.

    An entry is `bytes`, `sha256` and `mtime_ns`, by the file's path relative to the folder; that of `files.json`
    itself is the digest of all other entries.

    Args:
        folder: of the run.
        with_checkpoints: False: those that are there will be removed.
    """
    paths = sorted({path for pattern in WRITTEN for path in folder.glob(pattern) if path.is_file()})
    entries = {path.relative_to(folder).as_posix(): _entry(path) for path in paths}
    for checkpoint in _checkpoints(folder) if with_checkpoints else ():
        entries |= {
            f"{checkpoint.relative_to(folder).as_posix()}/{k}": v for k, v in _of_checkpoint(checkpoint).items()
        }
    own = RunFolder(folder).inventory
    write_text_whole(own, json.dumps({**entries, own.name: _own_entry(entries)}, indent=1) + "\n")


def faults(folder: Path, *, thorough: bool) -> list[str]:
    """Returns what is missing from a finished run, or other than the run wrote it; each file in words.

    Args:
        folder: of the run.
        thorough: reads every file. Else a file is read only where the time of its last change is not the one noted: so
            every edit is found at the cost of a look at each file, and a disk's own errors are not. A checkpoint that
            is gone as a whole is then no fault: models take room, and results are whole without them.
    """
    path = RunFolder(folder).inventory
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        entries, found = {}, [f"{path.name}: is missing"]
    except (OSError, ValueError, RecursionError) as error:
        entries, found = {}, [f"{path.name}: cannot be read: {error}"]
    else:
        own = entries.pop(path.name, None) if isinstance(entries, dict) else None
        found = [] if _is_inventory(entries) else [f"{path.name}: is damaged (it does not map files to their digests)"]
        found = found or ([] if own == _own_entry(entries) else [f"{path.name}: is damaged (its checksum differs)"])
    if not found:
        found = list(filter(None, (_fault(folder, name, entry, thorough) for name, entry in entries.items())))
    if thorough:
        unlisted = [path for path in _checkpoints(folder) if f"stages/{path.name}/{MANIFEST}" not in entries]
        found += [fault.removeprefix(f"{folder}/") for fault in _damaged(unlisted)]
    return found


def gone_checkpoints(folder: Path) -> list[str]:
    """Returns the checkpoints of a finished run, `stages/001`, that were removed as a whole since then."""
    path = RunFolder(folder).inventory
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    listed = [name.removesuffix(f"/{MANIFEST}") for name in entries if name.startswith("stages/")]
    return [name for name in listed if name.count("/") == 1 and not (folder / name).exists()]


def lost_tables(folder: RunFolder, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns of the tables of predictions that a run has written those that are not there as they were.

    Args:
        folder: of the run.
        tables: by name their length and digest, as the record of a checkpoint has them (`Record.tables`).

    Returns:
        By name, the fault in words, with the file's path.
    """
    found = {name: fault_of(folder.predictions(name), extent) for name, extent in tables.items()}
    return {name: f"{folder.predictions(name)}: {fault}" for name, fault in found.items() if fault}


def lost_for_good(folder: RunFolder, tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the faults of lost tables that cannot be made again, for the model of their stage is not kept."""
    lost = lost_tables(folder, tables).items()
    return [fault for name, fault in lost if name != BEFORE and not (folder.stage(int(name)) / MANIFEST).is_file()]


def _fault(folder: Path, name: str, entry: Mapping[str, Any], thorough: bool) -> str | None:
    if not thorough:
        try:
            now = (folder / name).stat()
            if (now.st_size, now.st_mtime_ns) == (entry["bytes"], entry["mtime_ns"]) and (folder / name).is_file():
                return None
        except OSError:
            if name.startswith("stages/") and not (folder / "stages" / name.split("/")[1]).exists():
                return None
    fault = fault_of(folder / name, entry)
    return f"{name}: {fault}" if fault else None


def _entry(path: Path, sha256: str | None = None) -> dict[str, Any]:
    # The time first: a change after it is then seen.
    changed = path.stat().st_mtime_ns
    extent = extent_of(path) if sha256 is None else {"bytes": path.stat().st_size, "sha256": sha256}
    return {**extent, "mtime_ns": changed}


def _own_entry(entries: Mapping[str, Any]) -> dict[str, str]:
    """Returns the inventory's entry for itself: a digest of all others."""
    return {"sha256": hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()}


def _of_checkpoint(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Returns an entry for each file of a checkpoint, with the digests of its manifest: models are not read again."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        entries = {name: _entry(checkpoint / name, digest) for name, digest in manifest.items()}
    except (OSError, ValueError, AttributeError):
        return {}  # it was damaged since it was written: a thorough look, which finds no entry, names it
    return {MANIFEST: _entry(checkpoint / MANIFEST), **entries}


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in RunFolder(folder).stages.glob("[0-9]*") if (path / MANIFEST).is_file())


def _is_inventory(entries: Any) -> bool:
    """Returns whether a value is what `write_inventory` wrote, and names files of the folder only."""
    if not isinstance(entries, dict) or not {"config.yaml", "journal.jsonl", "summary.json"} <= entries.keys():
        return False
    # A folder may come from somebody else; its inventory must not have any file of this machine opened.
    return all(
        isinstance(entry, dict)
        and {"bytes", "sha256", "mtime_ns"} <= entry.keys()
        and not (name.startswith("/") or ".." in name.split("/"))
        for name, entry in entries.items()
    )


def _damaged(checkpoints: list[Path]) -> list[str]:
    from cl_mlm.storage.state_files import damage  # imports torch

    return [fault for fault in map(damage, checkpoints) if fault]
