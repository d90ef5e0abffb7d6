"""Standard output and error of a command: what cannot be shown is degraded, and never ends the command."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

ERRORS = "backslashreplace"  # how a character is shown that the terminal does not know, or a byte that is no text


class _Forgiving(io.FileIO):
    """Drops what cannot be written: a training goes on though the reader of its lines is gone.

    Attributes:
        fault: why something was dropped first; None: nothing was.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self.fault: OSError | None = None

    @override
    def write(self, data: Buffer, /) -> int:
        view = memoryview(data)
        while self.fault is None:
            try:
                written = super().write(view)
            except OSError as error:
                self.fault = error
                break
            if written is not None:
                return written
            select.select([], [self], [])  # another process has made the terminal non-blocking
        return view.nbytes


@contextmanager
def forgiving_streams() -> Iterator[_Forgiving | None]:
    """Makes standard output and error forgiving within the block; yields the former, None where it is no file."""
    _open_closed()
    before = sys.stdout, sys.stderr
    sys.stdout, out = _forgiving(sys.stdout, sys.__stdout__, 1)
    sys.stderr, _ = _forgiving(sys.stderr, sys.__stderr__, 2)
    try:
        yield out
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError):  # a library has closed it
                stream.flush()
        sys.stdout, sys.stderr = before


def final_code(code: int, out: _Forgiving | None) -> int:
    """Returns the exit code of a command that would end with `code`; tells why its output is not whole."""
    with suppress(ValueError):
        sys.stdout.flush()
    fault = None if out is None else out.fault
    if fault is None or code != 0:
        return code
    if fault.errno == errno.EPIPE:  # `cl-mlm list keys | head`: as of a program that the signal ends
        return 128 + signal.SIGPIPE
    print(f"error: standard output: {fault.strerror}", file=sys.stderr)
    return 1


def _open_closed() -> None:
    """Opens standard streams that the caller has closed: else the next file of a run would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _forgiving(stream: TextIO | None, original: TextIO | None, number: int) -> tuple[TextIO, _Forgiving | None]:
    """Returns a stream that takes everything, and the file below it; None: the stream is somebody's own object."""
    if stream is not None and (stream is not original or not _is_file(stream, number)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)
        return stream, None
    file = _Forgiving(number)
    if stream is None:  # it was closed: nobody misses what is written there
        return io.TextIOWrapper(io.BufferedWriter(file), "utf-8", ERRORS), None
    stream.flush()
    buffer = io.BufferedWriter(file)
    text = io.TextIOWrapper(
        buffer, stream.encoding, ERRORS, line_buffering=bool(stream.line_buffering), write_through=_is_direct(stream)
    )
    return text, file


def _is_direct(stream: TextIO) -> bool:
    """Returns whether every write reaches the file at once, as PYTHONUNBUFFERED asks for."""
    return isinstance(stream, io.TextIOWrapper) and stream.write_through


def _is_file(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError):
        return False
