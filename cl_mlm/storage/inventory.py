"""The inventory of a finished run, `files.json`: what the run has written, each file with its length and digest.

It is written after the journal's last line, so it also says that the run is finished. Checkpoints are not in it: each
has a manifest of its own. Nor is what others write into the folder later: `mlflow.json`, prompts, models that were
saved by hand.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cl_mlm.run_folder import RunFolder
from cl_mlm.whole_files import extent_of, fault_of, write_text_whole

if TYPE_CHECKING:
    from pathlib import Path

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
    "figures/*.png",
)


def write_inventory(folder: Path) -> None:
    """Writes `files.json` of a run folder, whole or not at all: all that the run wrote, as it is now.

    An entry is `bytes`, `sha256` and `mtime_ns`, by the file's path relative to the folder.
    """
    paths = sorted({path for pattern in WRITTEN for path in folder.glob(pattern) if path.is_file()})
    entries = {path.relative_to(folder).as_posix(): _entry(path) for path in paths}
    write_text_whole(RunFolder(folder).inventory, json.dumps(entries, indent=1) + "\n")


def faults(folder: Path, *, thorough: bool) -> list[str]:
    """Returns what is missing from a finished run, or other than the run wrote it; each file in words.

    Args:
        folder: of the run.
        thorough: reads every file, and every kept checkpoint. Else a file is read only where the time of its last
            change is not the one noted: so every edit is found, at the cost of a look at each file, and a disk's own
            errors are not.
    """
    path = RunFolder(folder).inventory
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [f"{path.name}: is missing"]
    except (OSError, ValueError) as error:
        return [f"{path.name}: cannot be read: {error}"]
    if not _is_inventory(entries):
        return [f"{path.name}: is damaged (it does not map files to their lengths and digests)"]
    found = []
    for name, entry in entries.items():
        if not thorough and _is_untouched(folder / name, entry):
            continue
        if fault := fault_of(folder / name, entry):
            found.append(f"{name}: {fault}")
    return found + (_damaged_checkpoints(folder) if thorough else [])


def _entry(path: Path) -> dict[str, Any]:
    # The time first: a change after it is then seen.
    changed = path.stat().st_mtime_ns
    return {**extent_of(path), "mtime_ns": changed}


def _is_inventory(entries: Any) -> bool:
    """Returns whether a value is what `write_inventory` wrote, and names files of the folder only."""
    if not isinstance(entries, dict) or not {"config.yaml", "journal.jsonl", "summary.json"} <= entries.keys():
        return False
    return all(
        isinstance(entry, dict) and {"bytes", "sha256", "mtime_ns"} <= entry.keys() and _is_inside(name)
        for name, entry in entries.items()
    )


def _is_inside(name: str) -> bool:
    # A folder may come from somebody else; its inventory must not have any file of this machine opened.
    return not name.startswith("/") and ".." not in name.split("/")


def _is_untouched(path: Path, entry: dict[str, Any]) -> bool:
    try:
        now = path.stat()
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (entry["bytes"], entry["mtime_ns"])


def _damaged_checkpoints(folder: Path) -> list[str]:
    """Returns what is damaged in the checkpoints that are kept."""
    from cl_mlm.storage.checkpoint import in_order  # imports torch
    from cl_mlm.storage.state_files import damage

    kept = in_order(path for path in RunFolder(folder).stages.glob("[0-9]*") if path.is_dir())
    return [fault.removeprefix(f"{folder}/") for fault in map(damage, kept) if fault]
