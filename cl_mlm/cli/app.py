"""The entry point of `cl-mlm`: registers every command and turns what a user can cause into a message and an exit code.

The commands are plain functions, one module a group. Each imports what it needs when it is called, so that
`cl-mlm --help` loads neither torch nor transformers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cl_mlm.cli.config_commands import check, init, list_
from cl_mlm.cli.early import hand_over
from cl_mlm.cli.endings import telling_its_end
from cl_mlm.cli.faults import UnexpectedError, debug_is_set, fault_lines, trace_of
from cl_mlm.cli.predict_command import predict
from cl_mlm.cli.result_commands import compare, prompt
from cl_mlm.cli.run_commands import rerun, resume, run
from cl_mlm.cli.standard_streams import final_code, forgiving_streams
from cl_mlm.cli.tracking_commands import sync, ui
from cl_mlm.cli.verify_command import verify
from cl_mlm.disk import disk_faults_told
from cl_mlm.errors import ClMlmError
from cl_mlm.experiment.interruption import Interruption
from cl_mlm.tracking.credentials import without_credentials

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="cl-mlm",
    help="Continual learning of language models: run task streams, measure what is forgotten, compare strategies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich takes a third of the time that the help takes
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"cl-mlm {version('cl-mlm')}")
        raise typer.Exit


@dataclass
class Shown:
    """What a command shows beside its results.

    Attributes:
        trace: of an error, on standard error.
    """

    trace: bool


@app.callback()
def _cl_mlm(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Prints the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Shows the trace of an error, as CL_MLM_DEBUG=1 does.")
    ] = False,
) -> None:
    """Takes the options that stand before a command."""
    if debug:
        context.obj.trace = True


# The help lists the commands in this order; the short helps fit a terminal of 60 columns.
app.command(short_help="Trains and measures, or resumes.")(run)
app.command(short_help="Goes on with an interrupted run.")(resume)
app.command(short_help="Repeats a finished run: is it equal?")(rerun)
app.command(short_help="Is all that a run left whole?")(telling_its_end(verify))
app.command(short_help="Predicts new texts with a finished run.")(telling_its_end(predict))
app.command(short_help="Asks a kept stage by prompts.")(telling_its_end(prompt))
app.command(short_help="Compares the runs of a folder.")(telling_its_end(compare))
app.command(short_help="Validates config and data; trains nothing.")(telling_its_end(check))
app.command(name="list", short_help="Lists strategies, streams, keys, configs ...")(telling_its_end(list_))
app.command(short_help="Copies a shipped config.")(telling_its_end(init))
app.command(short_help="Sends what MLflow has missed.")(telling_its_end(sync))
app.command(short_help="Serves the MLflow UI.")(ui)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; the process ends with its exit code.

    An error that a user can cause is printed without a traceback and ends with its `exit_code`. One that nobody foresaw
    is told in two lines, its trace goes into a file, and the code is 1. Ctrl-C ends with 130, SIGTERM with 143, SIGHUP
    with 129.

    Args:
        arguments: of the command line; None: those of the process.
    """
    with forgiving_streams() as out:
        sys.exit(final_code(_exit_code(arguments), out))


def _exit_code(arguments: Sequence[str] | None) -> int:
    shown = Shown(trace=debug_is_set())
    try:
        hand_over()
        with Interruption().listening(), disk_faults_told():
            app(arguments, standalone_mode=True, obj=shown)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:  # outside of a command, whose own typer turns into the same code
        return 130
    except ClMlmError as error:
        if shown.trace:
            print(trace_of(error), file=sys.stderr)
        # What a user set may hold a password, and standard error is often kept in files.
        print(without_credentials(_error_text(error)), file=sys.stderr)
        return error.exit_code
    except Exception as error:
        return _unexpected(error, shown)
    return 0


def _unexpected(error: Exception, shown: Shown) -> int:
    """Tells an error that nobody foresaw; returns the exit code."""
    folder, goes_on, cause = None, "the same command may be given again", error.__cause__
    if isinstance(error, UnexpectedError) and cause is not None:
        folder, goes_on = error.folder, error.goes_on
    else:
        cause = error
    if shown.trace:
        print(trace_of(cause), file=sys.stderr)
    print("\n".join(fault_lines(cause, folder, goes_on)), file=sys.stderr)
    return 1


def _error_text(error: ClMlmError) -> str:
    """Returns one fault in a line, several faults as an indented list below their number."""
    problems = getattr(error, "problems", [str(error)])
    if len(problems) == 1:
        return f"error: {problems[0]}"
    return "\n  ".join([f"{len(problems)} errors: ", *problems])
