"""The commands that train: `run`, `resume` and `rerun`.

How a run goes on is told on standard error, what it has found on standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cl_mlm.cli.arguments import AllowInexact, Arms, ConfigFile, Limit, Overrides, RunArgument, with_limit
from cl_mlm.cli.endings import ENDED_BY, end_of
from cl_mlm.cli.faults import UnexpectedError
from cl_mlm.cli.printing import TO_COPY, print_lines, print_result, result_line
from cl_mlm.cli.result_commands import print_comparison
from cl_mlm.cli.run_lines import closing_lines, compare_command, next_command, opening_lines
from cl_mlm.disk import disk_faults_told
from cl_mlm.errors import ClMlmError
from cl_mlm.run_folder import RunFolder
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from cl_mlm.experiment.progress import Command
    from cl_mlm.experiment.result import Result


def run(
    config: ConfigFile,
    overrides: Overrides = None,
    arms: Arms = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="May be repeated: one run for each seed.")] = None,
    limit: Limit = None,
    again: Annotated[bool, typer.Option("--again", help="Makes a second run of a finished one.")] = False,
    allow_inexact: AllowInexact = False,
) -> None:
    """Runs an experiment; the same command again goes on where it stopped, or says that it is done."""
    from cl_mlm.experiment.progress import Command

    command = Command()
    with _interruptible(lambda: command.folder):
        _run(config, with_limit(overrides, limit), arms or [], seeds or [], again, allow_inexact, command)


def _run(
    config: Path,
    given: list[str],
    arms: list[str],
    seeds: list[int],
    again: bool,
    allow_inexact: bool,
    command: Command,
) -> None:
    """Runs every arm with every seed; tells `command` where it is."""
    from cl_mlm.config.arms import load_variants, planned

    variants = planned(config, arms, seeds)
    print_lines(opening_lines(config, given, variants), sys.stderr)
    # Only now, for they import torch, which takes seconds.
    from cl_mlm.experiment.preparation import prepare
    from cl_mlm.experiment.session import run_prepared
    from cl_mlm.results.comparison import compare

    # All variants are read and prepared before the first one trains: a fault in the last must not show after hours.
    runs = [prepare(resolved) for resolved in load_variants(config, given, variants)]
    results: list[Result] = []
    told: set[str] = set()
    command.num_runs = len(runs)
    for number, prepared in enumerate(runs, start=1):
        command.number, command.folder = number, None
        result = run_prepared(prepared, again=again, allow_inexact=allow_inexact, progress=command)
        if len(runs) == 1:
            print_result(result)
        else:
            print_lines([f"[{number}/{len(runs)}] {result_line(result, told)}"])
        results.append(result)
    if len(runs) > 1 or "all" in arms:
        for folder in sorted({result.folder.parent for result in results}):
            members = [result.folder for result in results if result.folder.parent == folder]
            print_comparison(compare(folder, runs_of=members))
    _print_closing(results, next_command(config, given, arms, results))


def resume(folder: RunArgument, allow_inexact: AllowInexact = False) -> None:
    """Goes on with an interrupted run from its last checkpoint."""
    from cl_mlm.experiment.resuming import resume_run

    with _interruptible(lambda: folder):
        result = resume_run(folder, allow_inexact=allow_inexact)
    print_result(result)
    _print_closing([result], compare_command(result))


def rerun(folder: RunArgument) -> None:
    """Runs a finished run again from its resolved config and says whether the accuracy matrix is equal."""
    from cl_mlm.experiment.resuming import rerun_run

    with _interruptible(lambda: None, shell_line("cl-mlm", "rerun", folder)):
        is_equal, lines = rerun_run(folder)
    print_lines(lines)
    if not is_equal:
        raise typer.Exit(1)


def _print_closing(results: Sequence[Result], following: str) -> None:
    print_lines(closing_lines(results, following), whole=TO_COPY)


@contextmanager
def _interruptible(folder: Callable[[], Path | None], same: str = "the same command") -> Iterator[None]:
    """Says after Ctrl-C, another signal, or an error that nobody foresaw, what is kept and which command goes on.

    Args:
        folder: returns that of the run in training; None: none is known.
        same: what goes on where no folder is known.

    Raises:
        UnexpectedError: from the error that nobody foresaw.
    """
    try:
        with disk_faults_told():
            yield
    except (KeyboardInterrupt, SystemExit) as error:
        code = end_of(error)
        if code not in ENDED_BY:
            raise
        place = _run_of(folder)
        lines = [f"{ENDED_BY[code]}: what was measured is kept; {same} goes on from there"]
        if place is not None:
            lines = [f"{lines[0]}, or for this run alone:", f"next: {shell_line('cl-mlm', 'resume', place)}"]
        print_lines(lines, sys.stderr, TO_COPY)
        raise typer.Exit(code) from error
    except (ClMlmError, typer.Exit, typer.Abort):
        raise
    except Exception as error:
        place = _run_of(folder)
        kept = f"{same} goes on from the last checkpoint" if place is not None else f"{same} begins again"
        raise UnexpectedError(place, kept) from error


def _run_of(folder: Callable[[], Path | None]) -> Path | None:
    """Returns the folder of the run in training; None: there is none yet."""
    place = folder()
    return place if place is not None and RunFolder(place).config.is_file() else None
