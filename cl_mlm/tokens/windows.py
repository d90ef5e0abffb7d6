"""Rows that become several model inputs: cuts columns into windows, and puts tensors of inputs together by row.

Axes: R rows, I inputs, W inputs of the row that has the most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch


def cut(columns: Mapping[str, Sequence[Any]], lengths: Sequence[Sequence[int]]) -> dict[str, list[Any]]:
    """Returns columns of rows as columns of inputs.

    Args:
        columns: of every row, the values of all its inputs end to end.
        lengths: of every row, the number of values of each input.
    """
    ends_by_row = [np.cumsum(row_lengths)[:-1] for row_lengths in lengths]
    return {
        name: [
            window for row, ends in zip(rows, ends_by_row, strict=True) for window in np.split(np.asarray(row), ends)
        ]
        for name, rows in columns.items()
    }


def by_row(tensor: torch.Tensor, input_row: torch.Tensor | None) -> torch.Tensor:
    """Returns (I, ...) as (R, W, ...), filled with zeros where a row has fewer than W inputs.

    Args:
        tensor: first axis I, or 1 where all inputs share it.
        input_row: the row of every input, int64 (I,), ascending, every row present; None: each input is a row.
    """
    import torch

    if input_row is None:
        return tensor
    counts = torch.bincount(input_row)
    first = counts.cumsum(0) - counts
    place_in_row = torch.arange(len(input_row), device=input_row.device) - first[input_row]
    rows = tensor.new_zeros(len(counts), int(counts.max()), *tensor.shape[1:])
    rows[input_row, place_in_row] = tensor.expand(len(input_row), *tensor.shape[1:])
    return rows
