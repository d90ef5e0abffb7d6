"""Counts the numbers (weights and buffers) of a model from its config, before any weight is read or made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers

from cl_mlm.models.backbone import find_head
from cl_mlm.models.finetuning import WRITING, set_trainable
from cl_mlm.models.loading import AUTO_CLASSES, model_settings
from cl_mlm.models.shared_body import share_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from cl_mlm.config.schema import Config
    from cl_mlm.objective import Head, Objective
    from cl_mlm.task import Tasks


BYTES = 4  # of a number in fp32


@dataclass(frozen=True)
class ModelSize:
    """Counts of numbers of a model.

    Attributes:
        whole: numbers in the model's folder; with several heads, in the folders of all of them.
        held: numbers in memory; a body that several heads share counts once.
        changing: numbers that training can change: trainable parameters, and buffers of floating point.
        trainable: numbers that the optimiser moves.
    """

    whole: int
    held: int
    changing: int
    trainable: int


def model_size(config: Config, labels: Sequence[str], objective: Objective) -> ModelSize:
    """Returns the size of the model that `config` names, with a head for `labels`.

    Raises:
        ConfigError: the model's config cannot be read.
    """
    kind, settings = model_settings(config.model, labels, config.training.max_length, objective)
    model = without_weights(kind, settings)
    set_trainable(model, model.get_submodule(find_head(model, kind)), kind, config.finetuning, config.seed)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    buffers = sum(buffer.numel() for buffer in model.buffers() if buffer.is_floating_point())
    whole = sum(p.numel() for p in model.parameters()) + buffers
    return ModelSize(whole, whole, trainable + buffers, trainable)


def without_weights(kind: Head, settings: PretrainedConfig) -> PreTrainedModel:
    """Returns a model whose tensors have shapes but no memory."""
    with torch.device("meta"):
        model: PreTrainedModel = getattr(transformers, AUTO_CLASSES[kind]).from_config(settings)
    return model


def size_of_tasks(config: Config, tasks: Tasks) -> ModelSize:
    """Returns the size of the model that `config` names, with a head for every task on one body.

    Raises:
        ConfigError: the model's config cannot be read, or its family has no such heads on one body.
    """
    if len(tasks) == 1:
        (task,) = tasks
        return model_size(config, task.labels.names, task.objective)
    models: dict[str, PreTrainedModel] = {}
    kinds: dict[str, Head] = {}
    for task in tasks:
        kind, settings = model_settings(config.model, task.labels.names, config.training.max_length, task.objective)
        if kind not in WRITING or kind not in kinds.values():  # tasks of one writing form share the whole model
            models[task.key] = without_weights(kind, settings)
            kinds[task.key] = kind
    whole = sum(p.numel() for model in models.values() for p in model.parameters())
    share_body(models)
    held: dict[int, int] = {}
    trained: dict[int, int] = {}
    buffers: dict[int, int] = {}
    for key, model in models.items():
        kind = kinds[key]
        set_trainable(model, model.get_submodule(find_head(model, kind)), kind, config.finetuning, config.seed)
        held |= {id(p): p.numel() for p in model.parameters()}
        trained |= {id(p): p.numel() for p in model.parameters() if p.requires_grad}
        buffers |= {id(b): b.numel() for b in model.buffers() if b.is_floating_point()}
    num_trained, num_buffered = sum(trained.values()), sum(buffers.values())
    return ModelSize(
        whole=whole + num_buffered,
        held=sum(held.values()) + num_buffered,
        changing=num_trained + num_buffered,
        trainable=num_trained,
    )


def number_bytes(config: Config) -> int:
    """Returns the bytes of a weight; the optimiser's moments and the states of strategies have its precision."""
    return BYTES // 2 if config.model.dtype == "bfloat16" else BYTES
