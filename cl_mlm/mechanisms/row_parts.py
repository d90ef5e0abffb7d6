"""Parts of a parameter's gradient by row, and sums over rows of the power of their total.

A parameter that is used several times has a part from every use. The parts of a row are added before the power is taken
of them: the square of a sum is not the sum of squares.

Axes: R rows, I inputs of the model (a row is one or several), T tokens, A and B the axes of a weight matrix, H the last
axis of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from cl_mlm.tokens.windows import by_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Work space for gradients by row. On a CPU it must fit a core's cache: beyond it, the work is 8 times slower.
CPU_WORK_BYTES = 1 << 20
DEVICE_WORK_BYTES = 64 << 20


@dataclass(frozen=True)
class Outer:
    """Input i has the gradient `Σ_t left_it ⊗ right_it`, (A, B).

    Attributes:
        left: (I, T, A).
        right: (I, T, B).
    """

    left: Tensor
    right: Tensor

    def of_rows(self, input_row: Tensor | None) -> Outer:
        """Returns the part with the inputs of every row put end to end: they are more tokens of the row."""
        return Outer(_end_to_end(self.left, input_row), _end_to_end(self.right, input_row))


@dataclass(frozen=True)
class Entries:
    """Input i has the gradient `Σ_t values_it` at those entries of a table that its tokens t name.

    Attributes:
        entries: int64 (I, T).
        values: (I, T, H).
    """

    entries: Tensor
    values: Tensor

    def of_rows(self, input_row: Tensor | None) -> Entries:
        """Returns the part with the inputs of every row put end to end; what is missing has the value 0."""
        return Entries(_end_to_end(self.entries, input_row), _end_to_end(self.values, input_row))


@dataclass(frozen=True)
class Whole:
    """Every input's gradient as it is.

    Attributes:
        values: (I, …), after the first axis as the parameter.
    """

    values: Tensor

    def of_rows(self, input_row: Tensor | None) -> Whole:
        """Returns the part with the inputs of every row added up."""
        return self if input_row is None else Whole(by_row(self.values, input_row).sum(1))


Part: TypeAlias = "Outer | Entries | Whole"


def add_powers(total: Tensor, parts: Sequence[Part], power: int) -> None:
    """Adds `Σ_r |gradient of row r|^power` to `total`.

    Args:
        total: as the parameter; mutated.
        parts: of rows, whose sum is the gradient. Parts that are whole are not added to parts of another kind.
        power: 1 or 2.
    """
    outer = [part for part in parts if isinstance(part, Outer)]
    entries = [part for part in parts if isinstance(part, Entries)]
    if outer:
        left, right = torch.cat([part.left for part in outer], 1), torch.cat([part.right for part in outer], 1)
        _add_products(total, left, right, _joined(entries), power)
    elif entries:
        _add_entries(total, _joined(entries), power)
    else:
        values = sum((part.values for part in parts if isinstance(part, Whole)), start=torch.zeros_like(total))
        total.add_(_raise(values, power).sum(0))


def add_at(total: Tensor, places: Tensor, values: Tensor) -> None:
    """Adds `values` (N, H) to the rows `places`, int64 (N,), of `total`, always in the same order."""
    # The additions of `index_put_` have no fixed order on several CPU threads, those of `index_add_` none on a GPU.
    if total.device.type == "cpu":
        total.index_add_(0, places, values)
    else:
        total.index_put_((places,), values, accumulate=True)


def _end_to_end(tensor: Tensor, input_row: Tensor | None) -> Tensor:
    """Returns (I, T, …) as (R, T', …)."""
    return tensor if input_row is None else by_row(tensor, input_row).flatten(1, 2)


def _joined(parts: Sequence[Entries]) -> Entries | None:
    if not parts:
        return None
    return Entries(torch.cat([part.entries for part in parts], 1), torch.cat([part.values for part in parts], 1))


def _raise(values: Tensor, power: int) -> Tensor:
    """Returns |values|^power, in place."""
    return values.square_() if power == 2 else values.abs_()


def _add_entries(total: Tensor, part: Entries | None, power: int) -> None:
    """Adds for a table (V, H) that is only looked up: values at the same entry of a row are added first."""
    assert part is not None
    rows = torch.arange(len(part.entries), device=total.device).unsqueeze(1)
    pairs, place = torch.unique(rows * len(total) + part.entries, return_inverse=True)
    sums = part.values.new_zeros(len(pairs), part.values.shape[-1])
    add_at(sums, place.flatten(), part.values.flatten(0, 1))
    add_at(total, pairs % len(total), _raise(sums, power).to(total.dtype))


def _add_products(total: Tensor, left: Tensor, right: Tensor, entries: Entries | None, power: int) -> None:
    """Adds for `Σ_t left_rt ⊗ right_rt`, and values at entries, in blocks that fit the work space."""
    if left.shape[1] == 1 and entries is None:
        total.add_(left[:, 0].abs().pow_(power).t() @ right[:, 0].abs().pow_(power))
        return
    budget = (CPU_WORK_BYTES if left.device.type == "cpu" else DEVICE_WORK_BYTES) // left.element_size()
    height = min(left.shape[2], max(1, budget // right.shape[2]))
    num_rows = max(1, budget // (height * right.shape[2]))
    blocks = None if entries is None else _Blocks(entries, height, num_rows, left.shape[2])
    for top in range(0, left.shape[2], height):
        strip = left[:, :, top : top + height].transpose(1, 2)
        powers = strip.new_zeros(strip.shape[1], right.shape[2])
        for first in range(0, len(strip), num_rows):
            products = strip[first : first + num_rows] @ right[first : first + num_rows]
            if blocks is not None:
                blocks.add_next(products)
            if len(products) == 1 and power == 2:
                powers.addcmul_(products[0], products[0])  # reads memory once instead of three times
            else:
                powers.add_(_raise(products, power).sum(0))
        total[top : top + height].add_(powers)


class _Blocks:
    """Values at entries of a table, handed out by block: strips of the table from the top, groups of rows within.

    Args:
        part: of rows.
        height: entries of the table in a strip; the last may have fewer.
        num_rows: rows in a group.
        size: entries of the table.
    """

    def __init__(self, part: Entries, height: int, num_rows: int, size: int) -> None:
        rows = torch.arange(len(part.entries), device=part.entries.device).unsqueeze(1)
        num_groups, num_strips = -(-len(rows) // num_rows), -(-size // height)
        block = (part.entries // height * num_groups + rows // num_rows).flatten()
        order = block.argsort(stable=True)
        self._values = part.values.flatten(0, 1)[order]
        self._rows = (rows % num_rows).expand_as(part.entries).flatten()[order]
        self._entries = (part.entries % height).flatten()[order]
        self._lengths = iter(torch.bincount(block, minlength=num_groups * num_strips).tolist())
        self._next = 0

    def add_next(self, products: Tensor) -> None:
        """Adds the next block's values to its gradients, (rows, entries, H)."""
        here = slice(self._next, self._next + next(self._lengths))
        self._next = here.stop
        if here.start < here.stop:
            places = self._rows[here] * products.shape[1] + self._entries[here]
            add_at(products.view(-1, products.shape[2]), places, self._values[here])
