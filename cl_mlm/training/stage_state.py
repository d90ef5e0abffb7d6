"""What training a stage changes: read from a run, and put back into one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cl_mlm.training import hooks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cl_mlm.strategy import Strategy
    from cl_mlm.training.run import Run


def changing_tensors(run: Run) -> dict[str, torch.Tensor]:
    """Returns what training can change of the model: trainable parameters and floating-point buffers, by name."""
    buffers = {name: b for name, b in run.network.model.named_buffers() if b.is_floating_point()}
    return {**run.network.trainable(), **buffers}


def put_back(run: Run, values: Mapping[str, torch.Tensor]) -> None:
    """Copies earlier values into the model; `values` has the names of `changing_tensors`."""
    with torch.no_grad():
        for name, tensor in changing_tensors(run).items():
            tensor.copy_(values[name])


def changing_strategies(run: Run) -> list[tuple[Strategy, Mapping[str, Any]]]:
    """Returns the strategies that can change what training this stage computes, each with its signature."""
    signed = [(strategy, hooks.signature(run, strategy)) for strategy in run.strategies]
    return [(strategy, signature) for strategy, signature in signed if signature is not None]


def trained_state(run: Run, cost: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what training the present stage has changed: weights, strategies' states, place, cost."""
    return {
        "weights": changing_tensors(run),
        "strategies": [hooks.state_of(run, strategy) for strategy, _ in changing_strategies(run)],
        "place": {"epoch": run.place.epoch, "step": run.place.step},
        "cost": cost,
    }


def take_over(run: Run, state: Mapping[str, Any]) -> None:
    """Leaves the run as training this stage would: restores what `trained_state` returned, but for the cost."""
    put_back(run, state["weights"])
    changed = changing_strategies(run)
    for (strategy, _), strategy_state in zip(changed, state["strategies"], strict=True):
        hooks.restore(strategy, strategy_state)
    run.place.epoch, run.place.step = state["place"]["epoch"], state["place"]["step"]
