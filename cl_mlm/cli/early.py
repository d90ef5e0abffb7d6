"""Ctrl-C while a command still loads: a line and the exit code of every other Ctrl-C, where Python prints a trace.

The package imports this first. It acts in the process of a command alone, never where somebody imports `cl_mlm`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

CODE: Final = 128 + signal.SIGINT


def is_command(argv: Sequence[str], orig_argv: Sequence[str]) -> bool:
    """Says whether a process is that of `cl-mlm` or `python -m cl_mlm`, by `sys.argv` and `sys.orig_argv`."""
    # While the package of `-m` is imported, Python itself has "-m" in the place of the program.
    is_module = list(argv[:1]) == ["-m"] and "cl_mlm" in orig_argv[orig_argv.index("-m") + 1 :][:1]
    return is_module or os.path.basename(next(iter(argv), "")) == "cl-mlm"  # noqa: PTH119, pathlib is no light import


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted: nothing was begun\n")
    os._exit(CODE)  # nothing is open yet, and an import that is cut short may answer anything to an exception


def hand_over() -> None:
    """Gives Ctrl-C back to Python: from here on the command listens itself."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# What is ignored stays so, as in the background of a shell.
if is_command(sys.argv, sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
