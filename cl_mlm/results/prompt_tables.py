"""Averages and tabulates the scores of prompts; `prompting` says how they were asked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

BEFORE: Final = "(before training)"


def mean_scores(section: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Returns the mean score over columns by number of demonstrations, (1 + stages,) each; before training first.

    A mean of which a column is missing is None.

    Args:
        section: `prompting` of a summary.
    """
    return {shots: [_mean(row) for row in rows] for shots, rows in section["shots"].items()}


def _mean(row: Sequence[float | None]) -> float | None:
    """Returns the mean of a row of scores; None if the row is empty or a score is missing."""
    known = [score for score in row if score is not None and not math.isnan(score)]
    return sum(known) / len(known) if known and len(known) == len(row) else None


def later_table(values: Mapping[str, Any]) -> Table:
    """Returns the table that `cl-mlm prompt` prints: a row for each column, then their mean.

    Args:
        values: what `prompt_run` measured.
    """
    from rich.table import Table
    from rich.text import Text

    shots = values["shots"]
    table = Table(
        "column", "labels", "rows", *(f"{k}-shot" for k in shots), title=f"{values['model']}, {values['split']}"
    )
    for j, name in enumerate(values["columns"]):
        cells = [values["num_labels"][j], values["num_rows"][j]]
        table.add_row(Text(name), *map(str, cells), *(_percent(scores[j]) for scores in shots.values()))
    table.add_row("mean", "", "", *(_percent(_mean(scores)) for scores in shots.values()))
    return table


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f} %"
