"""The command line: `cl-mlm run | resume | rerun | prompt | compare | check | list | sync | ui`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from cl_mlm.errors import ClMlmError
from cl_mlm.run_folder import RunFolder
from cl_mlm.tracking.journal import without_credentials

if TYPE_CHECKING:
    from cl_mlm.experiment.session import Result

INTERRUPTED = 130  # what a shell gives for Ctrl-C

app = typer.Typer(
    name="cl-mlm",
    help="Continual learning of language models: run task streams, measure what is forgotten, compare strategies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Argument(help="A YAML file.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key.path=value, such as seed=1 or strategies=[replay].", metavar="[KEY=VALUE]..."),
]
Arms = Annotated[
    list[str] | None,
    typer.Option("--arm", help="A variant that the file declares under `arms`; `all` runs each. May be repeated."),
]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="May be repeated: one run for each seed.")]
Limit = Annotated[int | None, typer.Option(min=1, help="A smoke run: so many rows a split, 2 steps a stage.")]
AllowInexact = Annotated[
    bool,
    typer.Option("--allow-inexact", help="Goes on under other versions or on another machine, too; flags the run."),
]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart/<run>.", metavar="RUN")]


@app.command()
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    arm: Arms = None,
    seed: Seeds = None,
    limit: Limit = None,
    again: Annotated[bool, typer.Option("--again", help="Makes a second run of a finished one.")] = False,
    allow_inexact: AllowInexact = False,
) -> None:
    """Runs an experiment; the same command again goes on where it stopped, or says that it is done."""
    from cl_mlm.config.arms import planned
    from cl_mlm.config.loading import load_config
    from cl_mlm.experiment.preparation import prepare
    from cl_mlm.experiment.session import run_prepared

    variants = planned(config, arm or [], seed or [])
    extra = list(overrides or []) + ([f"limit={limit}"] if limit is not None else [])
    # Every variant is read and prepared before the first one trains: a fault in the last must not show after hours.
    configs = [load_config(config, [*extra, *variant.overrides], variant.arm) for variant in variants]
    prepared = [prepare(resolved) for resolved in configs]
    folders = set()
    for number, one in enumerate(prepared, start=1):
        with _interruptible():
            result = run_prepared(one, again=again, allow_inexact=allow_inexact)
        if len(prepared) == 1:
            _show(result)
        else:
            _print_lines([f"[{number}/{len(prepared)}] {_in_a_line(result)}"])
        folders.add(result.folder.parent)
    if len(prepared) > 1:
        for folder in sorted(folders):
            compare(folder)


@app.command()
def resume(folder: RunArgument, allow_inexact: AllowInexact = False) -> None:
    """Goes on with an interrupted run from its last checkpoint."""
    from cl_mlm.experiment.resuming import resume_run

    with _interruptible():
        result = resume_run(folder, allow_inexact=allow_inexact)
    _show(result)


@app.command()
def rerun(folder: RunArgument) -> None:
    """Runs a finished run again from its resolved config and says whether the accuracy matrix is equal."""
    from cl_mlm.experiment.resuming import rerun_run

    with _interruptible():
        same, lines = rerun_run(folder)
    _print_lines(lines)
    if not same:
        raise typer.Exit(1)


@app.command()
def prompt(
    folder: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value of the `prompting` section, such as normalise=bytes.", metavar="[KEY=VALUE]..."),
    ] = None,
    stage: Annotated[
        str, typer.Option(help="`last`, `untrained` (before any training), or a stage's number from 0.")
    ] = "last",
    shots: Annotated[list[int] | None, typer.Option("--shots", min=0, help="Demonstrations. May be repeated.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file with a `prompting` section; default: the run's own.")
    ] = None,
) -> None:
    """Asks any kept stage of a finished run, or its untrained model, by prompts: zero-shot and few-shot."""
    from rich.console import Console

    from cl_mlm.experiment.prompt_run import prompt_run
    from cl_mlm.results.prompt_tables import later_table

    found = prompt_run(folder, *(overrides or []), stage=stage, shots=shots, config=config)
    Console().print(later_table(found.values))
    _print_lines([*(f"note: {line}" for line in found.values["notes"]), f"written: {found.path}"])


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(help="A folder of runs, such as runs/quickstart.", metavar="FOLDER")],
    output: Annotated[Path | None, typer.Option(help="Where tables and figures go; default: FOLDER.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Prints the tables as Markdown.")] = False,
) -> None:
    """Compares runs: one row for each strategy over seeds, and forgetting curves in one figure."""
    from rich.console import Console

    from cl_mlm.results.comparison import compare as compare_runs

    found = compare_runs(folder, output)
    console = Console()
    if markdown:
        console.print(found.markdown(), markup=False, highlight=False, soft_wrap=True)
        return
    for table in found.tables:
        console.print(table)
    _print_lines([*found.lines, *(f"written: {path}" for path in found.paths)])


@app.command()
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    arm: Arms = None,
    limit: Limit = None,
    measure: Annotated[
        int, typer.Option(min=0, metavar="N", help="Times N steps on the real model, and says what the run will take.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Prints the same as JSON; a list where arms are named.")
    ] = False,
) -> None:
    """Validates config and data and says what a run would do: rows, tokens, steps, memory, disk; trains nothing."""
    import json

    from cl_mlm.check.look import early_look
    from cl_mlm.cli.listing import describe
    from cl_mlm.config.arms import planned
    from cl_mlm.config.loading import load_config
    from cl_mlm.experiment.preparation import prepare

    extra = list(overrides or []) + ([f"limit={limit}"] if limit is not None else [])
    variants = planned(config, arm or [], [])
    prepared = (prepare(load_config(config, [*extra, *variant.overrides], variant.arm)) for variant in variants)
    if as_json:
        looks = [early_look(one, measure).to_dict() for one in prepared]
        _print_lines([json.dumps(looks if arm else looks[0], indent=1)])
        return
    for one in prepared:
        _print_lines(describe(one, measure))


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="strategies, streams, objectives, or configs.", metavar="WHAT")],
) -> None:
    """Lists what a config may name, with a line on each."""
    from cl_mlm.cli.listing import listing

    _print_lines(listing(what))


@app.command()
def sync(folder: RunArgument) -> None:
    """Sends what an unreachable tracking server has missed."""
    from cl_mlm.tracking.mlflow_delivery import Link
    from cl_mlm.tracking.mlflow_sender import sync as send

    number, link = send(folder), Link.load(folder)
    _print_lines([f"sent {number} journal lines" + (f" to {link.uri}" if link else "")])


@app.command()
def ui(
    uri: Annotated[
        str | None, typer.Option(help="Tracking store; default: MLFLOW_TRACKING_URI, else ./mlflow.db.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Opens the MLflow UI on the store that runs write to."""
    import subprocess

    from cl_mlm.tracking.mlflow_sender import tracking_uri, ui_command

    address = tracking_uri(uri)
    if address.startswith("http"):
        _print_lines([f"the tracking server itself shows its UI: {address}"])
        return
    raise typer.Exit(subprocess.run([*ui_command(address), "--port", str(port)], check=False).returncode)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; what a user can cause exits with 2 and no traceback, Ctrl-C with 130."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(arguments, standalone_mode=True)
    except ClMlmError as error:
        problems = getattr(error, "problems", [str(error)])
        head = "error" if len(problems) == 1 else f"{len(problems)} errors"
        text = "\n  ".join(["", *problems] if len(problems) > 1 else problems)
        # What a user set may hold a password, and standard error is often kept.
        print(f"{head}: {without_credentials(text)}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ends a command on Ctrl-C with a word on what is kept; typer alone would end it in silence."""
    try:
        yield
    except KeyboardInterrupt as error:
        print(
            "interrupted: what was measured is kept; the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from error


def _terminated(number: int, frame: FrameType | None) -> None:
    """Lets SIGTERM end a run as tidily as Ctrl-C does."""
    raise SystemExit(128 + number)


def _show(result: Result) -> None:
    """Prints the metrics of a run and where everything lies."""
    from rich.console import Console

    from cl_mlm.results.run_report import metrics_table, notes, prompting_table

    console = Console()
    if not result.is_new:
        console.print(
            f"already finished (--again runs it once more): {result.folder}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return
    table = metrics_table(result.summary)
    table.title = result.folder.name
    console.print(table)
    prompted = prompting_table(result.summary)
    if prompted is not None:
        console.print(prompted)
    cost = result.summary["cost"]
    spent = f"train {cost['train_seconds']:.1f} s, evaluation {cost['eval_seconds']:.1f} s"
    figures = RunFolder(result.folder).figures
    _print_lines(
        [
            *notes(result.summary),
            spent,
            f"run: {result.folder}",
            f"figures: {figures}",
            *(f"warning: {w}" for w in result.warnings),
        ]
    )


def _in_a_line(result: Result) -> str:
    """Returns the gist of one run among several; the comparison that follows has the rest."""
    from cl_mlm.results.run_report import hundredths

    metrics, cost, flags = (result.summary[key] for key in ("metrics", "cost", "flags"))
    state = f"{cost['train_seconds'] + cost['eval_seconds']:.0f} s" if result.is_new else "already finished"
    shown = (
        f"average accuracy {hundredths(metrics['average_accuracy'])} %, forgetting {hundredths(metrics['forgetting'])}"
    )
    told = "".join(
        f"\n  {kind}: {line}" for kind, lines in (("flag", flags), ("warning", result.warnings)) for line in lines
    )
    return f"{result.folder}: {shown}, {state}{told}"


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(line)
