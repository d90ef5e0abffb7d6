"""Prints the results of runs to the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cl_mlm.experiment.result import Result


def print_lines(lines: Iterable[str]) -> None:
    """Prints every line; none is wrapped or read as markup."""
    for line in lines:
        print(line)


def print_result(result: Result) -> None:
    """Prints the metrics of a run, what must be read with them, and where everything lies."""
    from rich.console import Console

    from cl_mlm.results.run_report import metrics_table, notes, prompting_tables

    if not result.is_new:
        print_lines([f"already finished (--again runs it once more): {result.folder}"])
        return
    console = Console()
    table = metrics_table(result.summary)
    table.title = result.folder.name
    console.print(table)
    for prompted in prompting_tables(result.summary):
        console.print(prompted)
    cost = result.summary["cost"]
    print_lines(
        [
            *notes(result.summary),
            f"train {cost['train_seconds']:.1f} s, evaluation {cost['eval_seconds']:.1f} s",
            f"run: {result.folder}",
            f"figures: {RunFolder(result.folder).figures}",
            *(f"warning: {warning}" for warning in result.warnings),
        ]
    )


def result_line(result: Result) -> str:
    """Returns the main figures of one run among several; the comparison of all runs follows."""
    from cl_mlm.results.run_report import hundredths

    metrics, cost = result.summary["metrics"], result.summary["cost"]
    accuracy, forgetting = hundredths(metrics["average_accuracy"]), hundredths(metrics["forgetting"])
    state = f"{cost['train_seconds'] + cost['eval_seconds']:.0f} s" if result.is_new else "already finished"
    lines = [
        f"{result.folder}: average accuracy {accuracy} %, forgetting {forgetting}, {state}",
        *(f"flag: {flag}" for flag in result.summary["flags"]),
        *(f"warning: {warning}" for warning in result.warnings),
    ]
    return "\n  ".join(lines)
