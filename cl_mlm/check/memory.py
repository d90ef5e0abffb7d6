"""Estimates the memory that training needs beside activations, from the model's config alone: no weight is created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_mlm.experiment.kept_numbers import MOMENTS, strategy_numbers, uncounted_strategies

if TYPE_CHECKING:
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.models.size import ModelSize

# A strategy that overrides none of these keeps nothing between two calls.
KEEPING_HOOKS = ("training_data", "before_stage", "memory", "after_step", "after_stage", "state_dict")


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes, by what they hold.

    Attributes:
        weights: of the whole model.
        gradients: of the trainable parameters.
        moments: of the optimiser.
        best_weights: kept for early stopping.
        strategies: what strategies keep, as far as it is known.
        unknown: names of the strategies that keep an unknown amount; it is not in `strategies`.
    """

    weights: int
    gradients: int
    moments: int
    best_weights: int
    strategies: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int:
        """The sum of all that is known."""
        return self.weights + self.gradients + self.moments + self.best_weights + self.strategies


def memory_need(prepared: Prepared, size: ModelSize) -> MemoryNeed:
    """Returns what training a model of `size` takes; activations and batches are not counted."""
    training = prepared.config.training
    return MemoryNeed(
        weights=size.held,
        gradients=size.trained,
        moments=MOMENTS[training.optimizer] * size.trained,
        best_weights=size.changing if training.may_stop_early else 0,
        strategies=strategy_numbers(prepared, size) * size.number_bytes,
        unknown=tuple(uncounted_strategies(prepared, size, KEEPING_HOOKS)),
    )
