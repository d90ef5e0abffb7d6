"""Correlation of two columns of numbers.

A column that does not vary has correlation 0 with any other. The quotient is 0 / 0 there; 0 says that the predictions
tell no rows apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


def pearson(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns Pearson's r of two columns of N numbers, in -1 to 1; 0 where one does not vary."""
    centred = []
    for column in (first, second):
        values = np.asarray(column, dtype=np.float64)
        if values.min() == values.max():
            return 0.0
        deviations = values - values.mean()
        # Scaled, as squares of tiny and of huge numbers would leave the range of floats.
        centred.append(deviations / np.abs(deviations).max())
    a, b = centred
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns Spearman's rho of two columns of N numbers, in -1 to 1: Pearson's r of their mean ranks."""
    return pearson(mean_ranks(first).tolist(), mean_ranks(second).tolist())


def mean_ranks(column: Sequence[float]) -> npt.NDArray[np.float64]:
    """Returns the rank of every number, (N,), counted from 1; equal numbers share the mean of their ranks."""
    _, place, counts = np.unique(np.asarray(column, dtype=np.float64), return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
