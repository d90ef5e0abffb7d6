"""Tries, before a run trains, whether it can write where it will write, and whether a checkpoint fits there."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cl_mlm.data.cache import cache_root
from cl_mlm.disk import CACHE, OUTPUT, existing_folder, free_bytes, shown, try_writing
from cl_mlm.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from cl_mlm.run_folder import RunFolder


def try_places(folder: Path) -> None:
    """Writes and removes a small file in each place that a run cannot do without: its folder, and the cache.

    Args:
        folder: of the run; it may not be there yet.

    Raises:
        StorageError: a line for each place that cannot be written; one where both lie on one disk.
    """
    faults = []
    for place, name in ((folder, OUTPUT), (cache_root(), CACHE)):
        try:
            try_writing(place, name)
        except StorageError as error:
            faults.append(error)
    if len({existing_folder(place).lstat().st_dev for place in (folder, cache_root())}) == 1:
        faults = faults[:1]  # one disk, one fault
    if faults:
        raise StorageError(
            [line for fault in faults for line in fault.problems], lacks_room=all(fault.lacks_room for fault in faults)
        )


def check_room(folder: Path, needed_bytes: float) -> None:
    """Refuses a run of which not even one checkpoint fits on the disk.

    Args:
        folder: of the run; it may not be there yet.
        needed_bytes: the size of one checkpoint.

    Raises:
        StorageError: with what is free and what is needed.
    """
    free = free_bytes(folder)
    if free < needed_bytes:
        raise StorageError(
            f"{OUTPUT}: no room for a checkpoint in {str(folder)!r}: it takes {shown(needed_bytes)}, "
            f"{shown(free)} are free; make room there, and the same command goes on"
        )


def remove_half_written(folder: RunFolder) -> None:
    """Removes the checkpoints that a killed process was writing: they take room and are never read."""
    for parent in (folder.stages, folder.steps):
        for half in parent.glob(".*.tmp"):
            shutil.rmtree(half, ignore_errors=True)
