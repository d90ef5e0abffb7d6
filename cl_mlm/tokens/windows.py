"""Rows that are several inputs: a text cut into windows, and tensors put together again by row.

Axes: R rows, I inputs, W inputs of the row that has most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def cut(columns: Mapping[str, Sequence[Any]], lengths: Sequence[Sequence[int]]) -> dict[str, list[Any]]:
    """Returns columns of rows as columns of inputs.

    Args:
        columns: what every row holds for all its inputs, end to end.
        lengths: of every row's inputs.
    """
    import numpy as np

    ends = [np.cumsum(own)[:-1] for own in lengths]
    return {
        name: [part for row, end in zip(rows, ends, strict=True) for part in np.split(np.asarray(row), end)]
        for name, rows in columns.items()
    }


def by_row(tensor: torch.Tensor, input_row: torch.Tensor | None) -> torch.Tensor:
    """Returns (I, ...) as (R, W, ...), zeros where a row has fewer inputs than another.

    Args:
        tensor: first axis I, or 1 where all inputs share it.
        input_row: the row of every input, int64 (I,), ascending, no row left out; None: `tensor` is by row.
    """
    import torch

    if input_row is None:
        return tensor
    counts = torch.bincount(input_row)
    first = counts.cumsum(0) - counts
    within = torch.arange(len(input_row), device=input_row.device) - first[input_row]
    placed = tensor.new_zeros(len(counts), int(counts.max()), *tensor.shape[1:])
    placed[input_row, within] = tensor.expand(len(input_row), *tensor.shape[1:])
    return placed
