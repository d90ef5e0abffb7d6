"""Counts the numbers that optimiser and strategies keep beside the weights; memory and disk both depend on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.models.size import ModelSize

MOMENTS = {"adamw": 2, "sgd": 1}  # numbers that an optimiser keeps for each trainable parameter


def strategy_numbers(prepared: Prepared, size: ModelSize) -> int:
    """Returns how many numbers the strategies keep at most; strategies that do not know it count as 0."""
    return sum(number or 0 for number in _by_strategy(prepared, size))


def uncounted_strategies(prepared: Prepared, size: ModelSize, hooks: Sequence[str]) -> list[str]:
    """Returns the names of the strategies that may keep something and do not know how much.

    Args:
        prepared: the run.
        size: of its model.
        hooks: a strategy that overrides none of these keeps nothing.
    """
    return [
        strategy.name
        for strategy, number in zip(prepared.strategies, _by_strategy(prepared, size), strict=True)
        if number is None and any(strategy.overrides(hook) for hook in hooks)
    ]


def _by_strategy(prepared: Prepared, size: ModelSize) -> list[int | None]:
    num_stages = len(prepared.stream)
    return [strategy.state_numbers(size.trainable, num_stages) for strategy in prepared.strategies]
