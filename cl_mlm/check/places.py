"""Tries the places that a run writes to, and holds the room in them against what the run takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cl_mlm.check.disk import most_bytes
from cl_mlm.disk import OUTPUT, free_bytes, shown, try_writing
from cl_mlm.errors import StorageError
from cl_mlm.experiment.kept_numbers import checkpoint_bytes
from cl_mlm.experiment.places import check_room, try_places
from cl_mlm.experiment.run_choice import choose_folder
from cl_mlm.run_folder import RunFolder
from cl_mlm.tracking.mlflow_sender import tracking_uri
from cl_mlm.tracking.mlflow_store import sqlite_path

if TYPE_CHECKING:
    from pathlib import Path

    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.models.size import ModelSize


def place_lines(prepared: Prepared, size: ModelSize | None) -> list[str]:
    """Returns what is to be said of the places that a run writes to; nothing of a run that is finished.

    Args:
        prepared: the run.
        size: of its model; None: not known.

    Raises:
        StorageError: output or cache cannot be written, or there is no room for one checkpoint.
    """
    choice = choose_folder(prepared)
    if choice.is_finished:
        return []
    try_places(choice.folder)
    lines = [] if size is None else _room_lines(prepared, size, choice.folder)
    return [*lines, *_store_lines(prepared.config.tracking.uri)]


def _room_lines(prepared: Prepared, size: ModelSize, folder: Path) -> list[str]:
    held = _bytes_below(folder)
    if not RunFolder(folder).stages.is_dir():  # else a checkpoint may be there already
        check_room(folder, checkpoint_bytes(prepared, size))
    free, most = free_bytes(folder), most_bytes(prepared, size) - held
    if free >= most:  # no line: it would not be the same twice
        return []
    return [f"disk: {shown(free)} free in {OUTPUT}, which may not do: the run writes up to {shown(most)} more"]


def _store_lines(uri: str | None) -> list[str]:
    """Returns why a store in a file cannot be written, if so; no run fails for that."""
    path = sqlite_path(tracking_uri(uri))
    if path is None:
        return []
    fault = f"tracking store: cannot write {str(path)!r}: this user may not write there"
    try:
        try_writing(path.parent, "tracking store")
        if not path.exists() or os.access(path, os.W_OK):
            return []
    except StorageError as error:
        fault = str(error).partition("; ")[0]
    return [f"{fault}; the run does without, and cl-mlm sync sends its journal later"]


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
