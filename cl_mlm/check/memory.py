"""Memory that a run needs beside activations: numbers known from the model's config, before any weight is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_mlm.check.disk import MOMENTS
from cl_mlm.models.size import ModelSize, number_bytes

if TYPE_CHECKING:
    from cl_mlm.experiment.preparation import Prepared

KEEPING_HOOKS = ("training_data", "before_stage", "memory", "after_step", "after_stage", "state_dict")


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes, by what holds them.

    Attributes:
        weights: of the whole model.
        gradients: of what is trained.
        moments: of the optimiser.
        best_weights: kept for early stopping.
        strategies: copies of the trainable weights that strategies keep.
        unknown: strategies that keep something of a size that is not known.
    """

    weights: int
    gradients: int
    moments: int
    best_weights: int
    strategies: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int:
        """All that is known."""
        return self.weights + self.gradients + self.moments + self.best_weights + self.strategies


def memory_need(prepared: Prepared, size: ModelSize) -> MemoryNeed:
    """Returns what the model of `size` takes in training; activations and batches are not counted."""
    training, width = prepared.config.training, number_bytes(prepared.config)
    copies = sum(strategy.state_copies or 0 for strategy in prepared.strategies)
    unknown = [
        strategy.name
        for strategy in prepared.strategies
        if strategy.state_copies is None and any(strategy.overrides(hook) for hook in KEEPING_HOOKS)
    ]
    return MemoryNeed(
        weights=size.held * width,
        gradients=size.trainable * width,
        moments=MOMENTS[training.optimizer] * size.trainable * width,
        best_weights=size.changing * width if training.patience else 0,
        strategies=copies * size.trainable * width,
        unknown=tuple(unknown),
    )
