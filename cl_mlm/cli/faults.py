"""Errors that nobody foresaw: what is told in two lines, and where the full trace lies."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from cl_mlm.errors import text_of
from cl_mlm.run_folder import RunFolder
from cl_mlm.tracking.credentials import without_credentials
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Iterator

DEBUG = "CL_MLM_DEBUG"
MESSAGE_LENGTH = 300


class UnexpectedError(Exception):
    """An error that nobody foresaw, its `__cause__`, raised on the way out of a command that trains.

    Attributes:
        folder: of the run that it ended; None: none was begun.
        goes_on: whether the same command goes on.
    """

    def __init__(self, folder: Path | None, goes_on: str) -> None:
        self.folder, self.goes_on = folder, goes_on
        super().__init__(goes_on)


def debug_is_set() -> bool:
    """Returns whether the environment asks for traces on standard error."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def trace_of(error: BaseException) -> str:
    """Returns the whole trace of an error as Python prints it, without credentials."""
    return without_credentials("".join(traceback.format_exception(error)))


def fault_lines(error: BaseException, folder: Path | None, goes_on: str) -> list[str]:
    """Returns what is told of an unexpected error; writes its trace into a file.

    Args:
        error: what was raised.
        folder: of the run that it ended, which gets the file; None: the folder of temporary files does.
        goes_on: whether the same command goes on.
    """
    message = without_credentials(text_of(error)).strip().partition("\n")[0][:MESSAGE_LENGTH]
    told = f"error: {type(error).__name__}{': ' if message else ''}{message} ({_place(error)})"
    trace = trace_of(error)
    file = _write(trace, folder)
    where = f"trace above (no file could be written); {goes_on}" if file is None else f"full trace: {shell_line(file)}"
    return [trace.rstrip(), told, f"  {where}"] if file is None else [told, f"  {where}; {goes_on}"]


def _write(trace: str, folder: Path | None) -> Path | None:
    """Returns the file with a trace; None: the disk takes none."""
    command = without_credentials(shell_line("cl-mlm", *sys.argv[1:]))
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {command}\n\n{trace}"
    data = text.encode("utf-8", "backslashreplace")
    if folder is not None:
        try:
            RunFolder(folder).trace.write_bytes(data)
        except OSError:
            pass
        else:
            return RunFolder(folder).trace
    try:
        number, name = tempfile.mkstemp("-traceback.txt", "cl-mlm-")
        with os.fdopen(number, "wb") as file:
            file.write(data)
    except OSError:
        return None
    return Path(name)


def _place(error: BaseException) -> str:
    """Returns file, line and function of the last frame that is no library's; of the last one where all are."""
    frames = list(_frames(error))
    if not frames:
        return "no place is known"
    libraries = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    own = [frame for frame in frames if not frame[0].startswith((*libraries, "<")) or _is_ours(frame[0])]
    file, line, function = (own or frames)[-1]
    return f"{'/'.join(Path(file).parts[-2:])}:{line}, in {function}"


def _is_ours(file: str) -> bool:
    """Returns whether a file belongs to this package, which may be installed among the libraries."""
    root = Path(__file__).parents[2]
    return any(Path(file).is_relative_to(root / package) for package in ("cl_mlm", "streams", "strategies"))


def _frames(error: BaseException) -> Iterator[tuple[str, int, str]]:
    at = error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        yield code.co_filename, at.tb_lineno, code.co_name
        at = at.tb_next
