"""Tells what a model takes (weights and buffers) from its config, before any weight is read or made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers

from cl_mlm.models.backbone import find_head
from cl_mlm.models.finetuning import ADAPTED, WRITING, set_trainable
from cl_mlm.models.loading import AUTO_CLASSES, model_settings
from cl_mlm.models.shared_body import share_body
from cl_mlm.models.tiny import TINY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from cl_mlm.config.schema import Config
    from cl_mlm.objective import Head, Objective
    from cl_mlm.task import Tasks


# Of a linear layer's weight in a quantised body; what bitsandbytes keeps for each block of weights comes to little.
QUANTISED_BYTES = {"nf4": 0.5, "int8": 1.0}


@dataclass(frozen=True)
class ModelSize:
    """What a model takes, in bytes.

    Attributes:
        whole: its folder after a stage, where a mode adds adapters with theirs; with several heads, the folders of all.
        held: memory of its parameters and buffers; a body that several heads share counts once.
        changing: what training can change: trainable parameters, and buffers of floating point.
        trained: what the optimiser moves.
        trainable: how many numbers these are.
    """

    whole: int
    held: int
    changing: int
    trained: int
    trainable: int

    @property
    def number_bytes(self) -> int:
        """Bytes of a trained number; the optimiser's moments and the states of strategies have its precision."""
        return self.trained // self.trainable if self.trainable else 4


def model_size(config: Config, labels: Sequence[str], objective: Objective) -> ModelSize:
    """Returns the size of the model that `config` names, with a head for `labels`.

    Raises:
        ConfigError: the model's config cannot be read.
    """
    kind, settings = model_settings(config.model, labels, config.training.max_length, objective)
    return _size(config, {"": without_weights(kind, settings, config.model.dtype)}, {"": kind})


def without_weights(kind: Head, settings: PretrainedConfig, dtype: str = "float32") -> PreTrainedModel:
    """Returns a model whose tensors have shapes but no memory."""
    with torch.device("meta"):
        auto = getattr(transformers, AUTO_CLASSES[kind])
        model: PreTrainedModel = auto.from_config(settings, dtype=getattr(torch, dtype))
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
            models[task.key] = without_weights(kind, settings, config.model.dtype)
            kinds[task.key] = kind
    return _size(config, models, kinds)


def _size(config: Config, models: Mapping[str, PreTrainedModel], kinds: Mapping[str, Head]) -> ModelSize:
    """Returns the size of models without weights, by the key of a task; mutates them: they share one body."""
    plain = sum(_bytes(model.parameters()) for model in models.values())
    if len(models) > 1:
        share_body(models)
    held: dict[int, torch.Tensor] = {}
    buffers: dict[int, torch.Tensor] = {}
    trained: dict[int, torch.Tensor] = {}
    adapters = 0
    for key, model in models.items():
        kind = kinds[key]
        set_trainable(model, model.get_submodule(find_head(model, kind)), kind, config.finetuning, config.seed)
        own = {id(p): p for p in model.parameters() if p.requires_grad}
        adapters += _bytes(own.values())
        trained |= own
        held |= {id(p): p for p in model.parameters()}
        buffers |= {id(b): b for b in model.buffers() if b.is_floating_point()}
    of_buffers = _bytes(buffers.values())
    whole, finetuning = plain + of_buffers, config.finetuning
    if finetuning.mode in ADAPTED:
        # A model that is built here lies beside its adapter: nothing else keeps it.
        copies = (finetuning.export == "merged") + (config.model.name in TINY)
        whole = copies * plain + adapters
    return ModelSize(
        whole=whole,
        held=_bytes(held.values()) - _saved(config, models) + of_buffers,
        changing=_bytes(trained.values()) + of_buffers,
        trained=_bytes(trained.values()),
        trainable=sum(parameter.numel() for parameter in trained.values()),
    )


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _saved(config: Config, models: Mapping[str, PreTrainedModel]) -> int:
    """Returns the bytes that quantised weights take less than `model.dtype` would."""
    if config.model.quantization is None:
        return 0
    weights = {
        id(part.weight): part.weight
        for model in models.values()
        for part in model.base_model.modules()
        if isinstance(part, torch.nn.Linear) and not part.weight.requires_grad
    }
    fewer = QUANTISED_BYTES[config.model.quantization]
    return int(sum(weight.numel() * (weight.element_size() - fewer) for weight in weights.values()))
