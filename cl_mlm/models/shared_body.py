"""Several heads on one body: every task has a plain transformers model, and all models share one pretrained body.

With one task there is nothing to share: names, files and bits are then those of the plain model.
Axes: I inputs, T tokens, C classes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from typing_extensions import override

from cl_mlm.errors import ConfigError
from cl_mlm.models.finetuning import WRITING  # tasks of one writing form share the output embedding: the whole model
from cl_mlm.models.loading import load_backbone, model_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from cl_mlm.batch import Batch, Outputs
    from cl_mlm.config.schema import FinetuningConfig, ModelConfig
    from cl_mlm.models.backbone import Backbone, PlainBackbone
    from cl_mlm.objective import Head
    from cl_mlm.task import Tasks


class Heads(torch.nn.Module):
    """The module that is trained: the shared body and all models.

    The body comes first: a shared parameter goes by its first name, which then names no task.
    """

    def __init__(self, body: torch.nn.Module, models: Mapping[str, PreTrainedModel]) -> None:
        super().__init__()
        self.body = body
        self.heads = torch.nn.ModuleDict(models)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @override
    def forward(self, key: str, **inputs: Any) -> Any:
        """Calls the model under `key`, the key of its first task."""
        return self.heads[key](**inputs)


class SharedBodyBackbone:
    """A head for each task on one body; fulfils `Backbone`.

    Each head belongs to a plain transformers model, so that its folder reloads by itself.

    Args:
        models: the model of every task, by the task's key; tasks of one writing form may have the same. Mutated: all
            models get the largest body among them.

    Attributes:
        body: the shared body.
        model: the module of all models.
        tokenizer: the model's.
        kind: form of the first task's model.
    """

    is_shared: ClassVar[bool] = True

    def __init__(self, models: Mapping[str, PlainBackbone]) -> None:
        self._by_task = dict(models)
        self._key_of: dict[int, str] = {}
        for key, backbone in self._by_task.items():
            self._key_of.setdefault(id(backbone), key)
        for backbone in self.task_models().values():
            # A model's folder holds what the model was made with, not the parts of the body that only others need.
            backbone.own_names = frozenset(backbone.model.state_dict())
        plain = {key: backbone.model for key, backbone in self.task_models().items()}
        self.body: Any = share_body(plain)
        self.model: Any = Heads(self.body, plain)
        first = next(iter(self._by_task.values()))
        self.tokenizer = first.tokenizer
        self.kind: Head = first.kind

    def task_model(self, task: str) -> PlainBackbone:
        """Returns the model of one task, by the task's key."""
        return self._by_task[task]

    def task_models(self) -> dict[str, PlainBackbone]:
        """Returns every model once, by the key of its first task."""
        return {key: self._by_task[key] for key in self._key_of.values()}

    def forward(self, batch: Batch) -> Outputs:
        """Returns logits and features of the head of the batch's task, and on demand the logits of another head."""
        backbone = self._by_task[batch.task]
        body_outputs: list[Any] = []
        handle = self.body.register_forward_hook(lambda module, inputs, output: body_outputs.append(output))
        try:
            outputs = backbone.read(batch, self.model(self._key_of[id(backbone)], **backbone.arguments(batch)))
        finally:
            handle.remove()

        def other_logits(task: str) -> torch.Tensor:
            # The body has already run on this batch: another head costs its own layers only.
            other = self._by_task[task]
            with _fixed_output(self.body, body_outputs[-1]):
                return other.read(batch, other.model(**other.arguments(batch))).logits

        return replace(outputs, lazy_logits=other_logits)

    def grow(self, labels: Sequence[str], seed: int, stage_index: int, task: str = "") -> None:
        """Widens the head of `task`."""
        self._by_task[task].grow(labels, seed, stage_index)

    def set_trainable(self, finetuning: FinetuningConfig, seed: int) -> None:
        """Leaves those parameters trainable that the mode trains; the body gets one set of adapters for all heads."""
        for backbone in self.task_models().values():
            backbone.set_trainable(finetuning, seed)

    def train_mode(self) -> None:
        """Puts all heads and, unless it is frozen as a whole, the body in training mode."""
        self.model.train()
        for backbone in self.task_models().values():
            backbone.train_mode()

    def read_adapters(self, folders: Mapping[str, Path]) -> None:
        """Puts in the trained tensors that were kept; `folders` are those of the models, by the task's key."""
        for key, backbone in self.task_models().items():
            backbone.read_adapters({key: folders[key]})

    def checkpoint_activations(self) -> None:
        """Keeps fewer activations in training."""
        for backbone in self.task_models().values():
            backbone.checkpoint_activations()

    def head_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yields names and parameters outside the shared body."""
        backbones = self.task_models().values()
        of_heads = {id(parameter) for backbone in backbones for _, parameter in backbone.head_parameters()}
        yield from ((name, p) for name, p in self.model.named_parameters() if id(p) in of_heads)

    def settings(self) -> dict[str, Any]:
        """Returns the settings of every model, by the key of its first task."""
        return {key: backbone.settings() for key, backbone in self.task_models().items()}


def load_heads(
    config: ModelConfig, tasks: Tasks, seed: int, max_length: int, folders: Mapping[str, Path] | None = None
) -> Backbone:
    """Returns the model of `config` with a head for every task of a stream; a plain model where one head serves all.

    All heads exist from the start: parameter names never change, a checkpoint of any stage holds all heads, and the
    start of a later stage's head does not depend on the stages before. Heads cost their parameters, not time in a step.
    A head of classes is as wide as the labels seen; where none is seen yet, as the labels of its task's first stage.

    Args:
        config: which model.
        tasks: of the stream.
        seed: of the run; new weights are drawn from its addresses.
        max_length: tokens of a sequence at most.
        folders: folders to load heads from, by the task's key, in place of the model that `config` names. Of tasks that
            share a head one folder is enough.

    Raises:
        ConfigError: there is no such model, or its family has no such heads on one body.
    """
    models: dict[str, PlainBackbone] = {}
    writers: dict[Head, PlainBackbone] = {}
    for task in tasks:
        labels = task.labels.seen or task.first_labels
        source = (
            config if folders is None else replace(config, name=str(folders[task.key]), revision=None, dropout=None)
        )
        kind = model_settings(source, labels, max_length, task.objective)[0]
        if kind in writers:
            backbone = writers[kind]
        else:
            backbone = load_backbone(source, labels, seed, max_length, task.objective)
            if not task.labels.seen:
                backbone.grow(task.objective.classes(labels), seed, 0)
            if kind in WRITING:
                writers[kind] = backbone
        models[task.key] = backbone
        task.objective.bind(backbone.model, backbone.kind)
    if len({id(backbone) for backbone in models.values()}) == 1:
        return next(iter(models.values()))
    return SharedBodyBackbone(models)


def share_body(models: Mapping[str, PreTrainedModel]) -> torch.nn.Module:
    """Gives all models one body and returns it: the body with the most parameters, of equals the first. Mutates them.

    Raises:
        ConfigError: the bodies are of several kinds, or a model has no body apart from its head.
    """
    check_bodies(models)
    bodies: list[Any] = [model.base_model for model in models.values()]
    body: torch.nn.Module = max(bodies, key=lambda body: sum(p.numel() for p in body.parameters()))
    for model in models.values():
        setattr(model, model.base_model_prefix, body)
        model.tie_weights()  # ties an output embedding to the shared body's input embedding
    return body


def check_bodies(models: Mapping[str, PreTrainedModel]) -> None:
    """Refuses models whose heads cannot stand on one body.

    Raises:
        ConfigError: the bodies are of several kinds, or a model has no body apart, or one is an encoder-decoder that
            writes.
    """
    if len(models) == 1:
        return
    are_of_one_kind = len({type(model.base_model).__name__ for model in models.values()}) == 1
    have_bodies_apart = all(model.base_model is not model for model in models.values())
    one_writes = any(model.config.is_encoder_decoder and model.get_output_embeddings() for model in models.values())
    if are_of_one_kind and have_bodies_apart and not one_writes:
        return
    listed = ", ".join(f"{key} needs {type(model).__name__}" for key, model in models.items())
    raise ConfigError(
        f"stream: the objectives of a stream must have heads on one body, which this model's family has not: {listed}"
    )


@contextmanager
def _fixed_output(body: torch.nn.Module, output: Any) -> Iterator[None]:
    """Makes the body return `output` within the block, whatever it is called with.

    A model calls its body inside its own forward pass, so the body itself must be told. `forward` is replaced and not
    the module, so that parameter names and hooks stay.
    """
    attributes = vars(body)
    former = attributes.get("forward")  # something else may have replaced it before; usually nothing has
    attributes["forward"] = lambda *inputs, **named: output
    try:
        yield
    finally:
        if former is None:
            del attributes["forward"]
        else:
            attributes["forward"] = former
