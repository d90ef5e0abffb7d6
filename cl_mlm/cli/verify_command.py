"""The command that looks at what runs have left: `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cl_mlm.cli.completion import complete_run
from cl_mlm.cli.printing import print_lines


def verify(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A run folder, or a folder of runs, such as runs/quickstart.",
            metavar="RUN",
            autocompletion=complete_run,
        ),
    ],
) -> None:
    """Checks everything that a run has left: digests, counts, agreement, MLflow; trains nothing, writes nothing."""
    from cl_mlm.check.verification import verify as verify_runs

    found = verify_runs(folder)
    for one in found:
        print_lines(one.told())
    num_whole = sum(one.is_whole for one in found)
    if len(found) > 1:
        print_lines([f"{len(found)} runs: {num_whole} without a fault, {len(found) - num_whole} with faults"])
    if num_whole < len(found):
        raise typer.Exit(1)
