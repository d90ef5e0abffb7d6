"""The optimiser and the learning-rate schedule of one stage; both are made anew for every stage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from cl_mlm.models.finetuning import mode_settings
from cl_mlm.strategy import ParameterSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cl_mlm.config.schema import TrainingConfig

USUAL = ParameterSettings()


def make_optimizer(
    parameters: Mapping[str, torch.nn.Parameter],
    head_names: Iterable[str],
    config: TrainingConfig,
    own: Mapping[str, ParameterSettings] | None = None,
) -> torch.optim.Optimizer:
    """Returns AdamW (fused where the device has it) or SGD over the trainable parameters.

    Matrices decay; biases, norms and other vectors do not, nor what the mode of fine-tuning says. The head moves
    `head_factor` times faster.

    Args:
        parameters: by name.
        head_names: names of the parameters of heads.
        config: of the stage.
        own: settings that strategies give single parameters, by name.
    """
    heads, of_mode, own = set(head_names), mode_settings(parameters), own or {}
    groups: dict[tuple[bool, float, bool, float | None], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        given, mode = own.get(name, USUAL), of_mode.get(name, USUAL)
        decay = mode.weight_decay if given.weight_decay is None else given.weight_decay
        # What a mode keeps from decaying goes with the vectors: how parameters are grouped is part of a checkpoint.
        decay, is_matrix = (None, False) if decay == 0 else (decay, parameter.dim() >= 2)
        groups.setdefault((name in heads, given.lr_factor * mode.lr_factor, is_matrix, decay), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {
            "params": group,
            "lr": config.learning_rate * (config.head_factor if is_head else 1.0) * factor,
            "weight_decay": (config.weight_decay if is_matrix else 0.0) if decay is None else decay,
        }
        for (is_head, factor, is_matrix, decay), group in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(settings, momentum=config.momentum, foreach=True)
    return torch.optim.AdamW(settings, fused=True)


def make_scheduler(
    optimizer: torch.optim.Optimizer, num_steps: int, config: TrainingConfig
) -> torch.optim.lr_scheduler.LRScheduler:
    """Returns a schedule stepped once an optimiser step: linear warm-up, then constant, linear or cosine to zero."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, num_steps, config))


def learning_rate_factor(step: int, num_steps: int, config: TrainingConfig) -> float:
    """Returns the learning rate of `step` (0 is the first) as a fraction of its peak."""
    warm = round(config.warmup * num_steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    if config.schedule == "constant":
        return 1.0
    progress = (step - warm) / max(1, num_steps - warm)
    if config.schedule == "linear":
        return max(0.0, 1.0 - progress)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
