"""How a command says that a signal has ended it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar

import typer

from cl_mlm.cli.printing import print_lines
from cl_mlm.errors import SignalExit

INTERRUPTED: Final = 128 + signal.SIGINT  # as shells count
ENDED_BY: Final = {
    INTERRUPTED: "interrupted",
    128 + signal.SIGTERM: "ended by SIGTERM",
    128 + signal.SIGHUP: "ended by SIGHUP",
}
Command = TypeVar("Command", bound=Callable[..., None])


def end_of(error: BaseException) -> int | None:
    """Returns the exit code of a command that a signal ends; None: `error` is no such end."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return error.code if isinstance(error, SignalExit) and isinstance(error.code, int) else None


def telling_its_end(command: Command) -> Command:
    """Returns a command that trains nothing, which says in a line that a signal has ended it."""

    @wraps(command)
    def call(*arguments: Any, **named: Any) -> None:
        try:
            command(*arguments, **named)
        except (KeyboardInterrupt, SignalExit) as error:
            code = end_of(error)
            print_lines([f"{ENDED_BY.get(code or 0, 'ended')}: the same command may be given again"], sys.stderr)
            raise typer.Exit(code or 1) from error

    return call  # type: ignore[return-value]
