"""The commands that work on finished runs: `compare` and `prompt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cl_mlm.cli.arguments import RunArgument
from cl_mlm.cli.printing import print_lines

if TYPE_CHECKING:
    from cl_mlm.results.comparison import Comparison


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
    from cl_mlm.results.prompt_tables import later_tables

    prompted = prompt_run(folder, *(overrides or []), stage=stage, shots=shots, config=config)
    console = Console()
    for table in later_tables(prompted.values):
        console.print(table)
    print_lines([*(f"note: {line}" for line in prompted.values["notes"]), f"written: {prompted.path}"])


def compare(
    folder: Annotated[Path, typer.Argument(help="A folder of runs, such as runs/quickstart.", metavar="FOLDER")],
    output: Annotated[Path | None, typer.Option(help="Where tables and figures go; default: FOLDER.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Prints the tables as Markdown.")] = False,
) -> None:
    """Compares runs: one row for each strategy over seeds, and forgetting curves in one figure."""
    from cl_mlm.results.comparison import compare as compare_runs

    comparison = compare_runs(folder, output)
    if markdown:
        print(comparison.markdown())
    else:
        print_comparison(comparison)


def print_comparison(comparison: Comparison) -> None:
    """Prints the tables of several runs, what must be read with them, and which files were written."""
    from rich.console import Console

    console = Console()
    for table in comparison.tables:
        console.print(table)
    print_lines([*comparison.lines, *(f"written: {path}" for path in comparison.paths)])
