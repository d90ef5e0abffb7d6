"""Averages and tabulates the scores of prompts; `prompting` says how they were asked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from cl_mlm.results.terminal_tables import tables_that_fit

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


def later_tables(values: Mapping[str, Any]) -> list[Table]:
    """Returns the tables that `cl-mlm prompt` prints: a row for each column, then their mean.

    Args:
        values: what `prompt_run` measured.
    """
    shots = values["shots"]
    rows = [
        [name, *map(str, (num_labels, num_rows)), *(_percent(scores[j]) for scores in shots.values())]
        for j, (name, num_labels, num_rows) in enumerate(
            zip(values["columns"], values["num_labels"], values["num_rows"], strict=True)
        )
    ]
    rows.append(["mean", "", "", *(_percent(_mean(scores)) for scores in shots.values())])
    header = ["column", "labels", "rows", *(f"{k}-shot" for k in shots)]
    return tables_that_fit(f"{values['model']}, {values['split']}", header, rows)


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f} %"
