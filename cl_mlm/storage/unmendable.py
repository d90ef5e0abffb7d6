"""What a run that goes on would leave damaged in its folder: kept stages of old, and folders in place of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.storage.checkpoint import in_order, last_good, misnamed
from cl_mlm.storage.inventory import WRITTEN
from cl_mlm.storage.state_files import damage

if TYPE_CHECKING:
    from cl_mlm.run_folder import RunFolder

FILES = (*WRITTEN, "files.json", "mlflow.json", ".lock")
AWAY = "move or delete it, and the same command goes on"
FOLDERS = ("predictions", "figures", "stages", "steps")


def misplaced(folder: RunFolder) -> list[str]:
    """Returns the folders that stand where a run writes a file, and the files where it writes a folder, in words."""
    root = folder.path
    folders = sorted(path for pattern in FILES for path in root.glob(pattern) if path.is_dir())
    inner = [path for checkpoints in (folder.stages, folder.steps) for path in sorted(checkpoints.glob("[0-9]*"))]
    files = [path for path in (*(root / name for name in FOLDERS), *inner) if path.is_file()]
    return [
        *(f"{path}: must be a file, got a folder; {AWAY}" for path in folders),
        *(f"{path}: must be a folder, got a file; {AWAY}" for path in files),
    ]


def lost_stages(folder: RunFolder) -> list[str]:
    """Returns which kept stages are damaged and would not be written again, in words.

    A run goes on from its newest whole stage, so only those before it count.
    """
    newest, _ = last_good(folder.stages)
    if newest is None:  # the run begins anew, and writes all of them
        return []
    stages = in_order(path for path in folder.stages.glob("[0-9]*") if path.is_dir())
    return [fault for stage in stages[: stages.index(newest)] if (fault := damage(stage) or misnamed(stage))]
