"""Gradients of memory rows, their products, and the nearest gradient that several of them allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from cl_mlm.strategy import RunView


def gradient_of_rows(run: RunView, ids: npt.NDArray[np.int64]) -> list[torch.Tensor]:
    """Returns the gradient of the mean loss over training rows, for every trainable parameter.

    The rows go through the model in batches of the run's size; each task's count by their share of the rows.

    Args:
        run: within a step.
        ids: of the rows, (N,), at least one.
    """
    total: list[torch.Tensor] = []
    for of_task in run.by_task(ids):
        items = [(batch, float(batch.count.sum())) for _, batch in run.batches(of_task, run.batch_size)]
        of_all = sum(count for _, count in items) or 1.0
        for batch, count in items:
            share = (len(of_task) / len(ids)) * (count / of_all)
            found = run.gradients(batch)
            if not total:
                total = [torch.zeros_like(gradient) for gradient in found]
            torch._foreach_add_(total, found, alpha=share)
    return total


def inner_product(first: Sequence[torch.Tensor | None], second: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Returns the inner product of two gradients, over all tensors together: a scalar in double precision.

    What is None counts as 0.
    """
    terms = [
        (a.double() * b.double()).sum() for a, b in zip(first, second, strict=True) if a is not None and b is not None
    ]
    return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)


def nearest_allowed(products: npt.NDArray[np.float64], margin: float = 0.0) -> npt.NDArray[np.float64]:
    """Returns the weights v of reference gradients with which g + Gᵀ v is the nearest to g that violates none of them.

    v solves min ½ vᵀ G Gᵀ v + (G g)ᵀ v over v ≥ margin: the dual of Lopez-Paz and Ranzato (2017), Gradient Episodic
    Memory, arXiv:1706.08840, equation 11, by active sets (Lawson and Hanson 1974). A thousandth of the mean of the
    diagonal is added to G Gᵀ, so that parallel references have one solution.

    Args:
        products: of the references with each other and, in the last column, with g: [G Gᵀ | G g], (T, T + 1).
        margin: each weight is at least this; above 0 the new gradient lowers the losses on memory.
    """
    gram, against = products[:, :-1], products[:, -1]
    size = len(gram)
    gram = gram + np.eye(size) * 1e-3 * max(float(np.trace(gram)) / size, np.finfo(np.float64).tiny)
    linear = against + gram @ np.full(size, margin)  # of the part above the margin
    above, is_free = np.zeros(size), np.zeros(size, dtype=bool)
    tolerance = 1e-12 * float(np.abs(linear).max(initial=0.0))
    for _ in range(3 * size):
        slope = -(linear + gram @ above)
        if is_free.all() or slope[~is_free].max() <= tolerance:
            break
        is_free[np.flatnonzero(~is_free)[slope[~is_free].argmax()]] = True
        while True:
            found = np.zeros(size)
            found[is_free] = np.linalg.solve(gram[np.ix_(is_free, is_free)], -linear[is_free])
            negative = is_free & (found <= 0)
            if not negative.any():
                above = found
                break
            step = float((above[negative] / (above[negative] - found[negative])).min())
            above = above + step * (found - above)
            is_free &= above > 0
            above[~is_free] = 0.0
    return above + margin
