"""Prints lines and the results of runs to the terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cl_mlm.experiment.result import Result


def print_lines(lines: Iterable[str]) -> None:
    """Prints every line, wrapped between words where it is wider than the terminal; none is read as markup."""
    width = terminal_width()
    for text in lines:
        for line in text.split("\n"):
            print(line if width is None else wrapped(line, width))


def terminal_width() -> int | None:
    """Returns the columns of the terminal; None where the output goes elsewhere, such as to `grep` or a file."""
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        return max(20, shutil.get_terminal_size().columns)
    return None


def wrapped(line: str, width: int) -> str:
    """Returns a line broken between words, continued two columns further in; a path that is wider stays whole."""
    if len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def shell_line(*words: str) -> str:
    """Returns a command as bash and zsh take it: words that they would read otherwise are quoted."""
    # zsh gives `=` at the start of a word a meaning that shlex does not know.
    return " ".join(f"'{word}'" if word[:1] == "=" and "'" not in word else shlex.quote(word) for word in words)


def print_result(result: Result) -> None:
    """Prints the metrics of a run, what must be read with them, and where everything lies."""
    from rich.console import Console

    from cl_mlm.results.run_report import metrics_table, notes, prompting_tables

    if not result.is_new:
        warnings = [f"warning: {warning}" for warning in result.warnings]
        print_lines([f"already finished (--again runs it once more): {result.folder}", *warnings])
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
