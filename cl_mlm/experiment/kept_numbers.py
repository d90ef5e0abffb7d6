"""Counts what optimiser and strategies keep beside the weights, and so what a checkpoint takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.experiment.composition import swapping_strategies
from cl_mlm.own_code import OwnCode, broken, label_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.models.size import ModelSize
    from cl_mlm.strategy import Strategy

MOMENTS = {"adamw": 2, "sgd": 1}  # numbers that an optimiser keeps for each trainable parameter


def stage_bytes(prepared: Prepared, size: ModelSize) -> int:
    """Returns the bytes of a checkpoint after a stage: the model, and what strategies keep, at most."""
    num_models = 2 if swapping_strategies(prepared.strategies) else 1  # what is trained on, and what was scored
    return num_models * size.whole + strategy_bytes(prepared, size)


def step_bytes(prepared: Prepared, size: ModelSize) -> int:
    """Returns the bytes of a checkpoint within a stage, which is one file.

    It holds the weights that change, the optimiser's moments, under early stopping the best weights, and what
    strategies keep, at most.
    """
    training = prepared.config.training
    best_weights = size.changing if training.may_stop_early else 0
    return size.changing + MOMENTS[training.optimizer] * size.trained + best_weights + strategy_bytes(prepared, size)


def checkpoint_bytes(prepared: Prepared, size: ModelSize) -> int:
    """Returns the bytes of the largest checkpoint that is sure to be written."""
    return max(stage_bytes(prepared, size), sure_step_bytes(prepared, size))


def sure_step_bytes(prepared: Prepared, size: ModelSize) -> int:
    """Returns the bytes of a checkpoint within a stage; 0 where a run that is short enough writes none."""
    return step_bytes(prepared, size) if prepared.config.checkpoint.every_steps else 0


def strategy_bytes(prepared: Prepared, size: ModelSize) -> int:
    """Returns the bytes that strategies keep at most, in a checkpoint one file."""
    return strategy_numbers(prepared, size) * size.number_bytes


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
    return [_state_numbers(strategy, size.trainable, num_stages) for strategy in prepared.strategies]


def _state_numbers(strategy: Strategy, num_trainable: int, num_stages: int) -> int | None:
    who = f"strategy {label_of(type(strategy))}, hook state_numbers"
    with OwnCode("strategy", who):
        found = strategy.state_numbers(num_trainable, num_stages)
    if found is not None and not (isinstance(found, int) and found >= 0):
        raise broken("strategy", who, "must be a whole number from 0, or None", found)
    return found
