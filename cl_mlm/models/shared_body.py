"""Several heads on one body: a plain transformers model for every task, all of which share one pretrained body.

Imports torch at once: import it where heads are built. Axes: I inputs, T tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel
from typing_extensions import override

from cl_mlm.batch import Batch, Outputs
from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.models.backbone import Backbone, PlainBackbone
from cl_mlm.models.loading import load_backbone, model_settings
from cl_mlm.objective import Head
from cl_mlm.task import Tasks

# Models that write: their head is the output embedding, which tasks of one form share, and so the whole model.
WRITING: tuple[Head, ...] = ("causal", "masked", "seq2seq")


class Heads(torch.nn.Module):
    """The module that is trained: the body first, so that its parameters' names name no task, then every head."""

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
        """Calls the model of the task `key`."""
        return self.heads[key](**inputs)


class SharedBodyBackbone:
    """A head for each task on one body; fulfils `Backbone`.

    Each head is a plain transformers model, so that its folder reloads by itself. `model` is the module of all.

    Args:
        models: the model of every task, by its key; tasks of one writing form may have the same. Mutated: they share
            the largest body among them, the first of these.
    """

    is_shared: ClassVar[bool] = True

    def __init__(self, models: Mapping[str, PlainBackbone]) -> None:
        self._by_task = dict(models)
        self._key_of: dict[int, str] = {}
        for key, one in self._by_task.items():
            self._key_of.setdefault(id(one), key)
        for one in self.task_models().values():
            # A folder holds what its model was made with, not what only other heads need of the body.
            one.own_names = frozenset(one.model.state_dict())
        plain = {key: one.model for key, one in self.task_models().items()}
        self.body: Any = share_body(plain)
        self.model: Any = Heads(self.body, plain)
        first = next(iter(self._by_task.values()))
        self.tokenizer, self.kind = first.tokenizer, first.kind

    def task_model(self, task: str) -> PlainBackbone:
        """Returns the model of one task, by the task's key."""
        return self._by_task[task]

    def task_models(self) -> dict[str, PlainBackbone]:
        """Returns every model once, by the key of its first task."""
        return {key: self._by_task[key] for key in self._key_of.values()}

    def forward(self, batch: Batch) -> Outputs:
        """Returns logits and features of the head of the batch's task, and on demand the logits of another head."""
        one = self._by_task[batch.task]
        body_outputs: list[Any] = []
        handle = self.body.register_forward_hook(lambda module, inputs, output: body_outputs.append(output))
        try:
            outputs = one.read(batch, self.model(self._key_of[id(one)], **one.arguments(batch)))
        finally:
            handle.remove()

        def on_the_same_pass(task: str) -> torch.Tensor:
            other = self._by_task[task]
            with _giving(self.body, body_outputs[-1]):
                return other.read(batch, other.model(**other.arguments(batch))).logits

        return replace(outputs, lazy_logits=on_the_same_pass)

    def grow(self, labels: Sequence[str], seed: int, stage_index: int, task: str = "") -> None:
        """Widens the head of `task`."""
        self._by_task[task].grow(labels, seed, stage_index)

    def set_trainable(self, mode: str) -> None:
        """Leaves everything trainable (`full`), or all but the shared body (`head`)."""
        for one in self.task_models().values():
            one.set_trainable(mode)

    def train_mode(self, mode: str) -> None:
        """Puts all heads and, unless it is frozen, the body in training mode."""
        self.model.train()
        if mode == "head":
            self.body.eval()

    def checkpoint_activations(self) -> None:
        """Keeps fewer activations in training."""
        for one in self.task_models().values():
            one.checkpoint_activations()

    def head_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yields names and parameters outside the shared body."""
        of_heads = {id(parameter) for one in self.task_models().values() for _, parameter in one.head_parameters()}
        yield from ((name, p) for name, p in self.model.named_parameters() if id(p) in of_heads)

    def settings(self) -> dict[str, Any]:
        """Returns the settings of every model, by the key of its first task."""
        return {key: one.settings() for key, one in self.task_models().items()}


def load_heads(
    config: ModelConfig, tasks: Tasks, seed: int, max_length: int, kept: Mapping[str, Path] | None = None
) -> Backbone:
    """Returns the model of `config` with a head for every task of a stream; one without more where one head serves all.

    A head of classes is as wide as the labels seen, or where none is seen yet as those of its task's first stage.

    Args:
        config: which model.
        tasks: of the stream.
        seed: of what is drawn.
        max_length: tokens of a sequence.
        kept: folders to load heads from, by the task's key, in place of the model that `config` names; of tasks that
            share a head one is enough.

    Raises:
        ConfigError: there is no such model, or its family has no such heads on one body.
    """
    models: dict[str, PlainBackbone] = {}
    writers: dict[Head, PlainBackbone] = {}
    for task in tasks:
        labels = task.labels.seen or task.first_labels
        source = config if kept is None else replace(config, name=str(kept[task.key]), revision=None, dropout=None)
        kind = model_settings(source, labels, max_length, task.objective)[0]
        if kind not in writers:
            one = load_backbone(source, labels, seed, max_length, task.objective)
            if not task.labels.seen:
                one.grow(task.objective.classes(labels), seed, 0)
            models[task.key] = one
            if kind in WRITING:
                writers[kind] = one
        else:
            models[task.key] = writers[kind]
        task.objective.bind(models[task.key].model, models[task.key].kind)
    if len({id(one) for one in models.values()}) == 1:
        return next(iter(models.values()))
    return SharedBodyBackbone(models)


def share_body(models: Mapping[str, PreTrainedModel]) -> torch.nn.Module:
    """Gives all models the body of the one that has most parameters, the first of these; returns it. Mutates them.

    Raises:
        ConfigError: their bodies are not of one kind, or a model has none apart from its head.
    """
    check_bodies(models)
    bodies: list[Any] = [model.base_model for model in models.values()]
    body: torch.nn.Module = max(bodies, key=lambda body: sum(p.numel() for p in body.parameters()))
    for model in models.values():
        setattr(model, model.base_model_prefix, body)
        model.tie_weights()  # an output embedding is that of the shared body now
    return body


def check_bodies(models: Mapping[str, PreTrainedModel]) -> None:
    """Refuses models whose heads cannot stand on one body.

    Raises:
        ConfigError: naming them.
    """
    kinds = {key: type(model.base_model).__name__ for key, model in models.items()}
    apart = all(model.base_model is not model for model in models.values())
    writes = any(model.config.is_encoder_decoder and model.get_output_embeddings() for model in models.values())
    if len(models) == 1 or (len({*kinds.values()}) == 1 and apart and not writes):
        return
    listed = ", ".join(f"{key} needs {type(model).__name__}" for key, model in models.items())
    raise ConfigError(
        f"stream: the objectives of a stream must have heads on one body, which this model's family has not: {listed}"
    )


@contextmanager
def _giving(body: torch.nn.Module, output: Any) -> Iterator[None]:
    """Within the block the body gives `output`, whatever it is called with."""
    before = vars(body).get("forward")
    vars(body)["forward"] = lambda *inputs, **named: output
    try:
        yield
    finally:
        if before is None:
            del vars(body)["forward"]
        else:
            vars(body)["forward"] = before
