"""Files that appear whole or not at all, and what tells later whether they are still the same.

A file is written beside its place, flushed to disk and renamed. A kill leaves the file as it was before, or the new
one; a power cut does so, too.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from cl_mlm.disk import writing
from cl_mlm.errors import RunFolderError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the block a path beside `path` to write to; renames it into place when the block ends well.

    Creates the folder. Where the block raises, nothing is left of what it wrote.

    Raises:
        RunFolderError: a folder stands in the file's place.
        StorageError: the disk does not take it.
    """
    refuse_folder(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            flush(temporary)
            temporary.replace(path)
        except BaseException:  # a full disk must not stay full of what cannot be used
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        flush(path.parent)


def refuse_folder(path: Path) -> None:
    """Raises `RunFolderError` where a folder stands in a file's place."""
    if path.is_dir():
        raise RunFolderError(f"{path}: must be a file, got a folder; move or delete it, and the same command goes on")


def write_text_whole(path: Path, text: str) -> None:
    """Writes a file, UTF-8, whole or not at all; bytes of a path that is no text become escapes."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extent_of(path: Path) -> dict[str, Any]:
    """Returns what a file must be later: `bytes`, its length, and `sha256`."""
    return {"bytes": path.stat().st_size, "sha256": digest_of(path)}


def fault_of(path: Path, extent: Mapping[str, Any]) -> str | None:
    """Returns in what a file differs from an earlier `extent_of` it, or None: `is missing`, `has 5 bytes instead of 9`.

    Its content is read only where its length is right.
    """
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != extent["bytes"]:
        return f"has {size} bytes instead of {extent['bytes']}"
    return None if digest_of(path) == extent["sha256"] else "is damaged (its checksum differs)"
