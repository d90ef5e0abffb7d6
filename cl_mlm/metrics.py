"""Metrics of continual learning: pure functions of the accuracy matrix.

R is the accuracy matrix, `(stages, columns)` in 0-1, R[i,j] the score on column j after stage i; T the number of its
rows; h_j = `home[j]` the stage after which column j counts as learned (default j; None or -1: a probe, left out; not
below T: not learned yet, left out). Every mean is over columns, never pooled over samples. A mean of which one needed
entry is missing (NaN), or which has no entry at all, is NaN: never 0, and never a mean over what happens to be there.
A whole row may be missing where it is no column's home and not the last (a stream that is not measured after every
stage): means and maxima over stages are then over the rows that are measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Home = Sequence[int | None] | None

DEFINITIONS: Final[dict[str, str]] = {
    "average_accuracy": "mean score over all learned columns after the last stage",
    "average_incremental_accuracy": "mean over measured stages of the mean score over the columns learned so far",
    "backward_transfer": "mean over earlier columns of (score after the last stage - score when learned)",
    "forward_transfer": "mean over later columns of (score just before being learned - score before any training)",
    "forgetting": "mean over earlier columns of (best score since learned - score after the last stage)",
    "learning_accuracy": "mean score of every column right after its own stage",
}
NEED_EARLIER: Final = frozenset({"backward_transfer", "forgetting"})
NEED_TWO_STAGES: Final = NEED_EARLIER | {"forward_transfer"}


def average_accuracy(matrix: npt.ArrayLike, home: Home = None) -> float:
    """Returns mean_j R[T-1,j]: Lopez-Paz & Ranzato 2017, Gradient Episodic Memory, arXiv 1706.08840, eq. 2 (ACC)."""
    scores, _, _ = _learned(matrix, home)
    return _mean(scores[-1])


def average_incremental_accuracy(matrix: npt.ArrayLike, home: Home = None) -> float:
    """Returns mean_i mean_{j: h_j <= i} R[i,j]: Rebuffi et al. 2017, iCaRL, arXiv 1611.07725, section 4.

    Differs from the paper: a mean over columns, not over samples. Stages before the first learned column are left out.
    """
    scores, homes, _ = _learned(matrix, home)
    rows = _measured(scores, homes)
    return _mean(stage_averages(matrix, home)[rows[rows >= homes.min()]]) if homes.size else math.nan


def backward_transfer(matrix: npt.ArrayLike, home: Home = None) -> float:
    """Returns mean_{j: h_j < T-1} R[T-1,j] - R[h_j,j]: Lopez-Paz & Ranzato 2017, arXiv 1706.08840, eq. 3 (BWT)."""
    scores, homes, _ = _learned(matrix, home)
    earlier = np.flatnonzero(homes < len(scores) - 1)
    return _mean(scores[-1, earlier] - scores[homes[earlier], earlier])


def forward_transfer(matrix: npt.ArrayLike, baseline: npt.ArrayLike, home: Home = None, start: Home = None) -> float:
    """Returns mean_{j: s_j > 0} R[s_j-1,j] - b_j: Lopez-Paz & Ranzato 2017, arXiv 1706.08840, eq. 4 (FWT).

    b_j = `baseline[j]` is the score on column j before any training, s_j = `start[j]` the first stage that trains for
    it (default h_j, which it is where each column has one stage).
    """
    scores, homes, columns = _learned(matrix, home)
    before = _baseline(matrix, baseline)[columns]
    starts = _starts(start, homes, columns)
    later = np.flatnonzero(starts > 0)
    return _mean(scores[starts[later] - 1, later] - before[later])


def forgetting(matrix: npt.ArrayLike, home: Home = None) -> float:
    """Returns mean_{j: h_j < T-1} max_{l in h_j..T-2} R[l,j] - R[T-1,j], over measured stages l.

    Chaudhry et al. 2018, Riemannian Walk, arXiv 1801.10112, eq. 3-4.
    Differs from the paper: scores from before the column was learned do not count as its best.
    """
    scores, homes, _ = _learned(matrix, home)
    earlier = np.flatnonzero(homes < len(scores) - 1)
    rows = _measured(scores, homes)[:-1]
    return _mean(np.array([scores[rows[rows >= homes[j]], j].max() - scores[-1, j] for j in earlier]))


def learning_accuracy(matrix: npt.ArrayLike, home: Home = None) -> float:
    """Returns mean_j R[h_j,j]: Riemer et al. 2019, Learning to Learn without Forgetting, arXiv 1810.11910 (LA)."""
    scores, homes, _ = _learned(matrix, home)
    return _mean(scores[homes, np.arange(len(homes))])


def stage_averages(matrix: npt.ArrayLike, home: Home = None) -> FloatArray:
    """Returns the mean score over the columns learned so far after every stage, `(stages,)`."""
    scores, homes, _ = _learned(matrix, home)
    return np.array([_mean(row[homes <= i]) for i, row in enumerate(scores)])


def summarise(
    matrix: npt.ArrayLike, baseline: npt.ArrayLike | None, home: Home = None, start: Home = None
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns `(metrics, reasons)`: every metric of `DEFINITIONS`, and for each that is NaN why, in words.

    Args:
        matrix: `(stages, columns)`, NaN or None where nothing was measured.
        baseline: `(columns,)`; None where no column has one.
        home: see the module.
        start: see `forward_transfer`.
    """
    before = np.full(as_matrix(matrix).shape[1], math.nan) if baseline is None else baseline
    metrics = {
        "average_accuracy": average_accuracy(matrix, home),
        "average_incremental_accuracy": average_incremental_accuracy(matrix, home),
        "backward_transfer": backward_transfer(matrix, home),
        "forward_transfer": forward_transfer(matrix, before, home, start),
        "forgetting": forgetting(matrix, home),
        "learning_accuracy": learning_accuracy(matrix, home),
    }
    undefined = [name for name, value in metrics.items() if math.isnan(value)]
    return metrics, {name: _reason(name, matrix, before, home, start) for name in undefined}


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Returns mean and half width of its confidence interval by Student's t; NaN half width below two values."""
    mean = fmean(values) if values else math.nan
    if len(values) < 2 or math.isnan(mean):
        return mean, math.nan
    return mean, _t_quantile(confidence, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def as_matrix(rows: npt.ArrayLike) -> FloatArray:
    """Returns float64 `(stages, columns)` for nested lists in which None stands for NaN."""
    matrix = np.atleast_2d(np.asarray(rows, dtype=np.float64))
    # No stage measured yet is one row of which nothing is known, so that every mean comes out as NaN.
    return matrix if len(matrix) else np.full((1, matrix.shape[1]), math.nan)


def _learned(matrix: npt.ArrayLike, home: Home) -> tuple[FloatArray, IntArray, IntArray]:
    """Returns the learned columns: their scores `(stages, learned)`, their homes and their positions, `(learned,)`."""
    scores = as_matrix(matrix)
    num_columns = scores.shape[1]
    given = range(num_columns) if home is None else home
    homes = np.array([-1 if h is None else h for h in given], dtype=np.int64)
    if len(homes) != num_columns:
        raise ValueError(f"home: must have one entry for each of {num_columns} columns, got {len(homes)}")
    columns = np.flatnonzero((homes >= 0) & (homes < len(scores)))
    return scores[:, columns], homes[columns], columns


def _measured(scores: FloatArray, homes: IntArray) -> IntArray:
    """Returns the rows that means over stages run over, `(rows,)`: all but those of which nothing is known.

    The homes of columns and the last stage always count: what needs them is undefined without them.
    """
    rows = np.arange(len(scores))
    needed = np.isin(rows, homes) | (rows == len(scores) - 1)
    return np.flatnonzero(needed | ~np.isnan(scores).all(axis=1))


def _starts(start: Home, homes: IntArray, columns: IntArray) -> IntArray:
    """Returns the first stage that trains for each learned column, `(learned,)`."""
    if start is None:
        return homes
    return np.array([-1 if start[j] is None else start[j] for j in columns], dtype=np.int64)


def _baseline(matrix: npt.ArrayLike, baseline: npt.ArrayLike) -> FloatArray:
    before = np.asarray(baseline, dtype=np.float64)
    num_columns = as_matrix(matrix).shape[1]
    if before.shape != (num_columns,):
        raise ValueError(f"baseline: must have one entry for each of {num_columns} columns, got shape {before.shape}")
    return before


def _mean(values: FloatArray) -> float:
    """Returns the mean as a float; NaN, and no warning, for no values."""
    return float(values.mean()) if values.size else math.nan


def _reason(name: str, matrix: npt.ArrayLike, baseline: npt.ArrayLike, home: Home, start: Home) -> str:
    """Returns why the metric called `name`, which came out as NaN, is undefined."""
    scores, homes, columns = _learned(matrix, home)
    undefined = {
        "no column counts as learned": not homes.size,
        "needs two stages": name in NEED_TWO_STAGES and len(scores) < 2,
        "no column is learned before the last stage": name in NEED_EARLIER and bool((homes == len(scores) - 1).all()),
    }
    if name == "forward_transfer":
        starts = _starts(start, homes, columns)
        undefined["every column is learned at the first stage"] = bool((starts == 0).all())
        unset = np.isnan(_baseline(matrix, baseline)[columns][starts > 0])
        undefined["baseline has no meaning before the labels are seen"] = bool(unset.any())
    return next((reason for reason, holds in undefined.items() if holds), _gap(name, scores, homes))


def _gap(name: str, scores: FloatArray, homes: IntArray) -> str:
    """Returns which entries of the matrix the metric called `name` lacks."""
    measured = [not np.isnan(row[homes <= i]).all() for i, row in enumerate(scores)]
    needed = _measured(scores, homes)
    missing = [i for i, there in enumerate(measured) if not there and (homes <= i).any() and i in needed]
    if measured[-1] and len(missing) > 0 and not any(measured[:-1]):
        return "rows of earlier stages are not measured (joint)"
    if name != "average_accuracy" and missing:
        return f"rows of stages {missing} are not measured"
    if name == "forward_transfer":
        return "a column's score just before it is learned is not measured (labels unseen)"
    return "a score that the definition needs is not measured"


def _t_quantile(confidence: float, freedom: int) -> float:
    """Returns t with P(|T| < t) = `confidence` for Student's T with `freedom` degrees of freedom, by bisection."""
    low, high = 0.0, math.pi / 2
    while high - low > 1e-15:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _t_within(angle: float, freedom: int) -> float:
    """Returns P(|T| < sqrt(freedom) tan(angle)): the finite series of Abramowitz & Stegun 26.7.3-26.7.4."""
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
