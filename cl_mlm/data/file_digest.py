"""Hashes files once: a file that is as it was when it was hashed is not read again.

What a file was is noted in the cache by its absolute path: size, times of its last change, inode, and the hash.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

from cl_mlm.data.cache import cache_folder, remove_unheld, temporary_name

if TYPE_CHECKING:
    from pathlib import Path

# A file may change again within one tick of its clock (2 s on FAT) and keep size and times: what was hashed so soon
# after a change is not noted, as git does with its index.
TICK_NS = 2 * 10**9


def file_digest(path: Path) -> str:
    """Returns a BLAKE2b hash (32 hexadecimal digits) of a file's content; its path and times are no part of it.

    The file is read only where it may have changed since it was last hashed.
    """
    absolute = path.absolute()
    note = cache_folder("digests") / hashlib.sha256(os.fsencode(absolute)).hexdigest()[:32]
    before = _state(absolute)
    known = _read(note)
    if known is not None and known["state"] == before:
        return str(known["digest"])
    digest = _hash(absolute)
    if _state(absolute) == before and time.time_ns() - max(before["mtime_ns"], before["ctime_ns"]) > TICK_NS:
        _write(note, {"path": str(absolute), "state": before, "digest": digest})
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _state(path: Path) -> dict[str, int]:
    """Returns what tells of a change; `ctime_ns` also of one whose author has set the file's time back."""
    found = path.stat()
    return {
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }


def _read(note: Path) -> dict[str, Any] | None:
    """Returns what is noted of a file; None where nothing is, or what cannot be read: the file is then hashed."""
    try:
        known = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) and {"state", "digest"} <= known.keys() else None


def _write(note: Path, known: dict[str, Any]) -> None:
    """Writes a note whole, so that another process reads the old one or the new one."""
    # A full disk costs the next run a second reading, and nothing else; so does a file that is removed before its lock.
    with contextlib.suppress(OSError):
        remove_unheld(note.parent)
        temporary = temporary_name(note)
        try:
            with temporary.open("x", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(json.dumps(known))
                file.flush()
                temporary.replace(note)
        except OSError:  # a full disk must not stay full of what cannot be used
            temporary.unlink(missing_ok=True)
            raise
