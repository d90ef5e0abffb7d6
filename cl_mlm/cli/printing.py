"""Prints lines and the results of runs to the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.results.terminal_text import terminal_width, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from cl_mlm.experiment.result import Result


TO_COPY = ("run: ", "report: ", "model: ", "UI: ", "next: ")  # paths and commands are there to be copied
CEILING = "a perfect model"  # in the notes on the data that say how much a model can reach


def print_lines(lines: Iterable[str], stream: TextIO | None = None, whole: tuple[str, ...] = ()) -> None:
    """Prints every line, wrapped between words where it is wider than the terminal; none is read as markup.

    Args:
        lines: what is printed; each may hold line breaks.
        stream: None: standard output.
        whole: lines that begin like one of these are not wrapped, such as `TO_COPY`.
    """
    width = terminal_width(stream)
    for text in lines:
        for line in text.split("\n"):
            print(line if line.startswith(whole) else wrapped(line, width), file=stream, flush=stream is not None)


def print_result(result: Result) -> None:
    """Prints the metrics of a run, what must be read with them, and where everything lies."""
    from rich.console import Console

    from cl_mlm.results.run_report import metrics_table, notes, prompting_tables, reading_tables

    if not result.is_new:
        warnings = [f"warning: {warning}" for warning in result.warnings]
        print_lines([f"already finished (--again runs it once more): {result.folder}", *warnings])
        return
    console = Console()
    table = metrics_table(result.summary)
    table.title = result.folder.name
    console.print(table)
    for further in (*prompting_tables(result.summary), *reading_tables(result.summary)):
        console.print(further)
    cost = result.summary["cost"]
    print_lines(
        [
            *notes(result.summary),
            f"train {cost['train_seconds']:.1f} s, evaluation {cost['eval_seconds']:.1f} s",
            *(f"warning: {warning}" for warning in result.warnings),
        ]
    )


def result_line(result: Result, told: set[str] | None = None) -> str:
    """Returns the main figures of one run among several; the comparison of all runs follows.

    Args:
        result: of the run.
        told: notes that runs before it had, too, and that are not told again; mutated: its own are added.
    """
    from cl_mlm.results.run_report import hundredths

    metrics, cost = result.summary["metrics"], result.summary["cost"]
    accuracy, forgetting = hundredths(metrics["average_accuracy"]), hundredths(metrics["forgetting"])
    state = f"{cost['train_seconds'] + cost['eval_seconds']:.0f} s" if result.is_new else "already finished"
    ceilings = [note for note in result.summary["stream"].get("notes") or () if CEILING in note]
    lines = [
        f"{result.folder}: average accuracy {accuracy} %, forgetting {forgetting}, {state}",
        *(f"flag: {flag}" for flag in result.summary["flags"]),
        *(f"data: {note}" for note in ceilings if told is None or note not in told),
        *(f"warning: {warning}" for warning in result.warnings),
    ]
    if told is not None:
        told.update(ceilings)
    return "\n  ".join(lines)
