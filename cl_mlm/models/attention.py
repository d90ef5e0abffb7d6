"""Which implementation of attention a model runs with, where the config names one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
import transformers

from cl_mlm.errors import ConfigError
from cl_mlm.models.loading import AUTO_CLASSES, model_settings

if TYPE_CHECKING:
    from cl_mlm.config.schema import Config
    from cl_mlm.task import Tasks

FLASH = "flash_attention_2"


def check_attention(config: Config) -> None:
    """Refuses an implementation that this machine, or the run's precision, cannot have.

    Args:
        config: with its device filled in.

    Raises:
        ConfigError: every reason.
    """
    training = config.training
    if config.model.attention != FLASH:
        return
    problems = []
    if torch.device(str(training.device)).type != "cuda":
        problems.append(f"model.attention: must be sdpa or eager on {training.device}, got {FLASH}, which needs cuda")
    if find_spec("flash_attn") is None:
        problems.append(f"model.attention: {FLASH} needs the package flash-attn, which is not installed")
    if training.precision == "fp32":
        problems.append(f"training.precision: must be bf16 or fp16 where model.attention is {FLASH}, got fp32")
    if problems:
        raise ConfigError(problems)


def attention_faults(config: Config, tasks: Tasks) -> list[str]:
    """Returns why the model cannot run with the attention that the config names; its config alone is read.

    Raises:
        ConfigError: the model's config cannot be read.
    """
    asked = config.model.attention
    if asked is None:
        return []
    for task in tasks:
        kind, settings = model_settings(config.model, task.labels.names, config.training.max_length, task.objective)
        try:
            with torch.device("meta"):
                getattr(transformers, AUTO_CLASSES[kind]).from_config(settings)
        except (ValueError, ImportError) as error:
            told = str(error).partition(". ")[0].replace("\n", " ")
            return [f"model.attention: must be one that models of type {settings.model_type} have, got {asked}: {told}"]
    return []
