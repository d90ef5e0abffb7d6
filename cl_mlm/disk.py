"""The disk: a write that fails is told in one line, whatever library wrote; tries whether a folder can be written.

A fault of the disk reaches Python as an OSError with a number, as an OSError without one (NumPy), or as an error of a
library's own with the system's words in it (safetensors, SQLite).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cl_mlm.errors import ClMlmError, StorageError, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OUTPUT: Final = "output"
CACHE: Final = "cache (CL_MLM_CACHE)"
HUB_CACHE: Final = "Hugging Face cache (HF_HOME)"
TRIED_BYTES: Final = 4096  # a block: an empty file may still fit where nothing can be written into it
FEW_FILES: Final = 8

LACKS_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
GONE: Final = (errno.ENOENT, errno.ESTALE, errno.ENOTCONN)
NO_FOLDER: Final = (errno.ENOTDIR, errno.EEXIST)
# Reading a file may fail with these as well; the others are faults of writing alone.
AMBIGUOUS: Final = (errno.EACCES, errno.EPERM, errno.EIO, *NO_FOLDER, *GONE)
REASONS: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EFBIG: "the file grows larger than the file system or `ulimit -f` allows",
    errno.EIO: "the device reports an input/output error",
    **dict.fromkeys(NO_FOLDER, "{blocking} is {kind}"),
    **dict.fromkeys(GONE, "the folder is gone"),
}
REMEDIES: Final = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or have the quota raised",
    errno.EFBIG: "raise the limit",
    errno.EIO: "have the device looked at",
    **dict.fromkeys(GONE, "put it back, or what was in it is made again"),
}
MAKE_WRITABLE: Final = "make the folder writable"
# What libraries write into errors that have no number.
WORDS: Final = (
    (re.compile(r"No space left on device|database or disk is full|\d+ requested and \d+ written"), errno.ENOSPC),
    (re.compile(r"Disk quota exceeded"), errno.EDQUOT),
    (re.compile(r"Read-only file system|readonly database"), errno.EROFS),
    (re.compile(r"disk I/O error"), errno.EIO),
)
# OSError: NumPy's; Exception: that of tokenizers, of which the number in its words is believed alone.
WORDY: Final = ("OSError", "SafetensorError", "OperationalError", "Exception")
SYSTEM_NUMBER: Final = re.compile(r"\(os error (\d+)\)")


def shown(size: float) -> str:
    """Returns bytes in the unit that suits them, such as `91 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.1f} {unit}" if unit == "GB" and size < 99.95 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def existing_folder(path: Path) -> Path:
    """Returns the nearest of `path` and the folders above it that is there."""
    return next((p for p in [path, *path.absolute().parents] if os.path.lexists(p)), Path("/"))


def free_bytes(folder: Path) -> int:
    """Returns how many bytes this user may add where `folder` is or will be made; a quota may allow fewer."""
    return shutil.disk_usage(existing_folder(folder)).free


@contextmanager
def writing(path: Path, place: str = OUTPUT, needs: Callable[[], float] | None = None) -> Iterator[None]:
    """Tells every fault of the disk within the block as a StorageError; other errors pass.

    Args:
        path: what is written, for an error that names no file: a write into an open file names none.
        place: what the user calls the folder in which it lies.
        needs: returns how many bytes are written; asked only where there is no room. None: not known.

    Raises:
        StorageError: it could not be written.
    """
    try:
        yield
    except Exception as error:
        fault = None if isinstance(error, ClMlmError) else _fault(error)
        if fault is None:
            raise
        number, named = fault
        if named is None or _are_related(Path(named), path):
            raise _storage_error(number, path, place, needs) from error
        if number in AMBIGUOUS:  # a file that is read within the block
            raise
        raise _storage_error(number, Path(named), "") from error


@contextmanager
def disk_faults_told() -> Iterator[None]:
    """Tells what a disk has refused within the block in one line, where the place that wrote does not (`writing`).

    Raises:
        StorageError: the disk took no more.
    """
    try:
        yield
    except Exception as error:
        fault = None if isinstance(error, ClMlmError) else storage_error(error)
        if fault is None:
            raise
        raise fault from error


def storage_error(error: BaseException, output: Path | None = None) -> StorageError | None:
    """Returns what an error of a library, or of Python, says of a disk that takes no more; None: it says no such thing.

    Faults that reading a file may have as well, such as a missing permission, are left to who reads it.

    Args:
        error: whatever was raised.
        output: the folder that is named where the error names no file; None: none is.
    """
    fault = _fault(error)
    if fault is None or fault[0] in AMBIGUOUS:
        return None
    number, named = fault
    if named is None and output is not None:
        return _storage_error(number, output, OUTPUT)
    return _storage_error(number, None if named is None else Path(named), "")


def try_writing(folder: Path, place: str) -> None:
    """Writes a small file where `folder` is or will be made, and removes it.

    Raises:
        StorageError: it cannot be written, and why.
    """
    try:
        _write_and_remove(existing_folder(folder))
    except OSError as error:
        if error.errno not in REASONS:
            raise
        raise _storage_error(error.errno, folder, place) from error


def _write_and_remove(existing: Path) -> None:
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(existing))
    descriptor, name = tempfile.mkstemp(prefix=".cl_mlm-", dir=existing)
    Path(name).unlink()  # at once: a killed process leaves nothing behind, and it can be written all the same
    try:
        if os.write(descriptor, bytes(TRIED_BYTES)) < TRIED_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fault(error: BaseException) -> tuple[int, str | None] | None:
    """Returns the number of a fault of the disk on the chain of causes, and the file that it names, if any."""
    seen: set[int] = set()
    is_cause = True
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        number = _number(cause)
        if number is not None and (is_cause or number not in AMBIGUOUS):
            named = getattr(cause, "filename", None)
            quoted = re.search(r"'([^']*/[^']*)'", text_of(cause))  # Arrow names the file in its words alone
            return number, os.fsdecode(named) if isinstance(named, str | bytes) else quoted and quoted[1]
        if cause.__cause__ is None and cause.__context__ is not None:
            is_cause = False  # what was handled when the error arose need not be why
        cause = cause.__cause__ or cause.__context__
    return None


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in REASONS else None
    kind, text = type(error).__name__, text_of(error)
    system = SYSTEM_NUMBER.search(text) if kind in WORDY else None
    if system is not None and int(system[1]) in REASONS:
        return int(system[1])
    if kind == "Exception" or kind not in WORDY:
        return None
    return next((number for words, number in WORDS if words.search(text)), None)


def _are_related(named: Path, path: Path) -> bool:
    """Says whether a file that an error names lies beside or below `path`, or is a folder above it."""
    named, path = (each.resolve() for each in (named, path))
    return named.is_relative_to(path.parent) or path.is_relative_to(named)


def _storage_error(
    number: int, path: Path | None, place: str, needs: Callable[[], float] | None = None
) -> StorageError:
    """Returns the one line: place, folder, what happened, what is to be done."""
    where, reason = "cannot write", REASONS[number]
    if path is not None:
        existing = existing_folder(path)
        where = f"cannot write {str(path)!r}"
        is_link = existing.is_symlink() and not existing.exists()
        kind = "a link to a folder that is not there" if is_link else "a file, not a folder"
        reason = reason.format(blocking=existing, kind=kind) + (_room(existing, needs) if number in LACKS_ROOM else "")
    remedy = REMEDIES.get(number, MAKE_WRITABLE)
    head = f"{place}: " if place else ""
    return StorageError(
        f"{head}{where}: {reason}; {remedy}, and the same command goes on", lacks_room=number in LACKS_ROOM
    )


def _room(folder: Path, needs: Callable[[], float] | None) -> str:
    """Returns what is free and needed, in brackets; empty if it cannot be known."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return ""
    if found.f_files and found.f_favail < FEW_FILES:
        return f" (it takes {found.f_favail} more files: no inodes are left)"
    needed = "" if needs is None else f", it takes over {shown(needs())}"
    return f" ({shown(found.f_bavail * found.f_frsize)} free{needed})"
