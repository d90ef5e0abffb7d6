"""The cache folder: converted files and encoded rows, each entry named by a hash of the inputs it is computed from.

An entry is built in a hidden folder beside its place, which its builder locks: a hidden folder that is not locked
belongs to nobody any more, as a lock ends with its process, and the next builder removes it.
"""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cl_mlm.disk import CACHE, writing


def cache_root() -> Path:
    """Returns `$CL_MLM_CACHE`, by default `~/.cache/cl_mlm`."""
    return Path(os.environ.get("CL_MLM_CACHE") or Path.home() / ".cache" / "cl_mlm")


def cache_folder(kind: str) -> Path:
    """Returns (and makes) the folder `kind` of the cache.

    Raises:
        StorageError: it cannot be made.
    """
    folder = cache_root() / kind
    with writing(folder, CACHE):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def building(final: Path) -> Iterator[Path]:
    """Yields an empty folder that is renamed to `final` when the block ends without error, and else removed.

    Two processes may build the same entry: the first to finish wins, the other's work is dropped.

    Raises:
        StorageError: the cache takes no more.
    """
    with writing(final, CACHE):
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_unheld(final.parent)
        temporary, held = _held_folder(final)
        try:
            yield temporary
            try:
                temporary.rename(final)
            except OSError:
                if not final.is_dir():  # else another process was first
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(held)


def temporary_name(final: Path) -> Path:
    """Returns a path beside `final` for what is written before it is renamed; `remove_unheld` knows it by its form."""
    return final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")


def remove_unheld(folder: Path) -> None:
    """Removes what killed processes have left half-written in a folder of the cache."""
    for entry in os.scandir(folder):
        if not re.fullmatch(r"\..+\.[0-9a-f]{8}", entry.name):
            continue
        with suppress(OSError):  # it is gone, or is not ours, or its file system knows no locks
            descriptor = os.open(entry.path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)  # noqa: PTH108 - a scan gives texts
            finally:
                os.close(descriptor)


def _held_folder(final: Path) -> tuple[Path, int]:
    """Makes a folder and locks it; returns it with the descriptor that holds the lock."""
    while True:
        temporary = temporary_name(final)
        temporary.mkdir()
        try:
            held = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process has removed it before it was locked
        with suppress(OSError):  # a file system without locks: nobody can tell then that a folder is not used
            fcntl.flock(held, fcntl.LOCK_EX)
        if temporary.is_dir():
            return temporary, held
        os.close(held)
