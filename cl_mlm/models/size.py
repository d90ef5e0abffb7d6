"""How many numbers a model has, known from its config before any weight is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_mlm.config.schema import Config
from cl_mlm.models.backbone import body_parameters, find_head
from cl_mlm.models.loading import AUTO_CLASSES, model_settings
from cl_mlm.objective import Head, Objective
from cl_mlm.task import Tasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


BYTES = 4  # of a number in fp32


@dataclass(frozen=True)
class ModelSize:
    """Numbers of a model.

    Attributes:
        whole: what a folder of it holds, of several heads a folder for each.
        held: what memory holds: the body that heads share counts once.
        changing: what training can change.
        trainable: what the optimiser moves.
    """

    whole: int
    held: int
    changing: int
    trainable: int


def model_size(config: Config, labels: Sequence[str], objective: Objective) -> ModelSize:
    """Returns the numbers of the model that `config` means, knowing `labels`; its weights are neither read nor made.

    Raises:
        ConfigError: the model's config cannot be had.
    """
    import torch
    import transformers

    kind, settings = model_settings(config.model, labels, config.training.max_length, objective)
    with torch.device("meta"):
        model: PreTrainedModel = getattr(transformers, AUTO_CLASSES[kind]).from_config(settings)
    body = body_parameters(model, model.get_submodule(find_head(model, kind)))
    parameters = list(model.parameters())
    is_full = config.finetuning.mode == "full"
    trainable = sum(p.numel() for p in parameters if is_full or id(p) not in body)
    buffers = sum(buffer.numel() for buffer in model.buffers() if buffer.is_floating_point())
    whole = sum(p.numel() for p in parameters) + buffers
    return ModelSize(whole, whole, trainable + buffers, trainable)


def size_of_tasks(config: Config, tasks: Tasks) -> ModelSize:
    """Returns the same for a model with a head for every task: `whole` counts a folder for each.

    Raises:
        ConfigError: the model's config cannot be had, or its family has no such heads on one body.
    """
    if len(tasks) == 1:
        (task,) = tasks
        return model_size(config, task.labels.names, task.objective)
    import torch
    import transformers

    from cl_mlm.models.shared_body import WRITING, share_body

    models: dict[str, PreTrainedModel] = {}
    kinds: dict[str, Head] = {}
    for task in tasks:
        kind, settings = model_settings(config.model, task.labels.names, config.training.max_length, task.objective)
        if kind not in WRITING or kind not in kinds.values():
            with torch.device("meta"):
                models[task.key] = getattr(transformers, AUTO_CLASSES[kind]).from_config(settings)
            kinds[task.key] = kind
    whole = sum(p.numel() for model in models.values() for p in model.parameters())
    share_body(models)
    is_full = config.finetuning.mode == "full"
    held: dict[int, int] = {}
    trained: dict[int, int] = {}
    buffers: dict[int, int] = {}
    for key, model in models.items():
        body = body_parameters(model, model.get_submodule(find_head(model, kinds[key])))
        held |= {id(p): p.numel() for p in model.parameters()}
        trained |= {id(p): p.numel() for p in model.parameters() if is_full or id(p) not in body}
        buffers |= {id(b): b.numel() for b in model.buffers() if b.is_floating_point()}
    num_trained, num_buffered = sum(trained.values()), sum(buffers.values())
    return ModelSize(
        whole=whole + num_buffered,
        held=sum(held.values()) + num_buffered,
        changing=num_trained + num_buffered,
        trainable=num_trained,
    )


def number_bytes(config: Config) -> int:
    """Returns the bytes of a weight; moments and the states of strategies have its precision."""
    return BYTES // 2 if config.model.dtype == "bfloat16" else BYTES
