"""A quadratic penalty that pulls parameters towards an anchor, each element with a precision of its own.

For parameters θ the quadratic is Q(θ) = Σ A (θ − μ)² + c, with precision A ≥ 0, anchor μ and a constant c. A parameter
that has grown since, such as the head of a classifier, is held in the leading part that the anchor has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from cl_mlm.models.backbone import leading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cl_mlm.strategy import Setting

    Tensors = dict[str, torch.Tensor]


class Pull(NamedTuple):
    """How far some elements are from their anchor, and their precision; both of one shape."""

    distance: torch.Tensor
    precision: torch.Tensor


class _Held(NamedTuple):
    """The part of a parameter that has an anchor; all of one shape. `gradient` is a view of `.grad`."""

    gradient: torch.Tensor
    values: torch.Tensor
    anchor: torch.Tensor
    precision: torch.Tensor


class Quadratic:
    """The sum of quadratics around the weights of earlier stages, kept as one.

    Attributes:
        precision: A, by parameter name.
        anchor: μ, by parameter name.
        constant: c.
    """

    def __init__(self) -> None:
        self.precision: Tensors = {}
        self.anchor: Tensors = {}
        self.constant = 0.0
        self._rows: dict[str, torch.Tensor | None] = {}

    def replace(
        self, precision: Mapping[str, torch.Tensor], anchor: Mapping[str, torch.Tensor], constant: float
    ) -> None:
        """Makes this the quadratic with the given precision, anchor and constant."""
        self.precision, self.anchor, self.constant = dict(precision), dict(anchor), constant
        self._rows = {}

    def hold(self, values: Mapping[str, torch.Tensor]) -> None:
        """Makes this `Σ (θ − values)²`: every precision is 1, and takes no memory."""
        self.replace({name: value.new_ones(()).expand_as(value) for name, value in values.items()}, values, 0.0)

    def add(
        self, precision: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor], decay: float = 1.0
    ) -> None:
        """Makes this `decay` times itself plus `Σ precision (θ − values)²`, which again is one quadratic.

        With old precision A and new precision F the sum has precision A + F, anchor (A μ + F values) / (A + F), and
        A F / (A + F) (values − μ)² more in its constant. Elements that have grown have old precision zero.

        Args:
            precision: F, not negative, by parameter name.
            values: parameters at which the new quadratic is zero, by name.
            decay: factor on the old quadratic, in 0-1.
        """
        self.constant *= decay
        self._rows = {}
        for name, new in precision.items():
            old = torch.zeros_like(new)
            anchor = values[name].clone()
            if name in self.precision:
                leading(self.precision[name], old).copy_(self.precision[name] * decay)
                leading(self.anchor[name], anchor).copy_(self.anchor[name])
            total = old + new
            share = torch.where(total > 0, new / total.clamp_min(torch.finfo(total.dtype).tiny), 1.0)
            gap = values[name] - anchor
            self.constant += float((old * share * gap.square()).sum())
            self.precision[name] = total
            self.anchor[name] = anchor + share * gap

    def pull(self, parameters: Mapping[str, torch.nn.Parameter], weight: float) -> list[Pull]:
        """Adds `weight * A (θ − μ)`, the gradient of `weight / 2 * Q`, to `.grad` of the parameters.

        Parameters without a gradient, or without an anchor, are left alone.

        Returns:
            The pulls, from which `energy` computes Q; `[]` where no parameter is held.
        """
        pulls: list[Pull] = []
        whole: list[_Held] = []
        with torch.no_grad():
            for name, parameter in parameters.items():
                if name not in self.precision or parameter.grad is None:
                    continue
                anchor, precision = self.anchor[name], self.precision[name]
                held = _Held(leading(anchor, parameter.grad), leading(anchor, parameter), anchor, precision)
                rows = self._weighted_rows(name)
                if rows is None:
                    whole.append(held)
                else:
                    pulls.append(_pull_rows(held, rows, weight))
            return pulls + _pull_whole(whole, weight)

    def energy(self, pulls: Sequence[Pull]) -> torch.Tensor:
        """Returns Q(θ) from what `pull` returned, at least one pull."""
        with torch.no_grad():
            terms = [(distance.square() * precision).sum() for distance, precision in pulls]
            return torch.stack(terms).sum() + self.constant

    def _weighted_rows(self, name: str) -> torch.Tensor | None:
        """Returns the rows of a matrix that have any precision above zero, int64 (rows,); None: all rows count.

        In an embedding only the rows of tokens that were seen have any, and the penalty need not read the others. Where
        that would spare less than half of the rows, or the tensor is no matrix, all rows count.
        """
        if name not in self._rows:
            precision = self.precision[name]
            rows = precision.any(-1).nonzero()[:, 0] if precision.dim() == 2 else None
            self._rows[name] = rows if rows is not None and 2 * len(rows) < len(precision) else None
        return self._rows[name]


def _pull_rows(matrix: _Held, rows: torch.Tensor, weight: float) -> Pull:
    """Adds the pull on some rows of a matrix to its gradient."""
    pull = Pull(matrix.values[rows] - matrix.anchor[rows], matrix.precision[rows])
    matrix.gradient.index_add_(0, rows, pull.distance * pull.precision, alpha=weight)
    return pull


def _pull_whole(tensors: Sequence[_Held], weight: float) -> list[Pull]:
    """Adds the pull on whole tensors to their gradients, with one kernel for many of them."""
    if not tensors:
        return []
    precisions = [held.precision for held in tensors]
    # torch's own optimisers run on the `_foreach_` functions, but they are not public.
    distances = torch._foreach_sub([held.values for held in tensors], [held.anchor for held in tensors])
    torch._foreach_addcmul_([held.gradient for held in tensors], distances, precisions, value=weight)
    return [Pull(*pair) for pair in zip(distances, precisions, strict=True)]


def factor_faults(setting: Setting) -> list[str]:
    """Returns why a penalty on weights has no meaning in a setting: those of `osf` mean another thing in each stage."""
    if setting.mode != "osf":
        return []
    return ["weight: finetuning.mode must not be osf, whose factors are drawn up anew in every stage, got osf"]
