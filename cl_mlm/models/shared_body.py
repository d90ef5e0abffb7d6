"""Several heads on one body: a plain transformers model for every task, all of which share one pretrained body.

Imports torch at once: import it where heads are built. Axes: I inputs, T tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from typing_extensions import override

from cl_mlm.config.schema import ModelConfig
from cl_mlm.data.tasks import Tasks
from cl_mlm.errors import ConfigError
from cl_mlm.models.backbone import Backbone, load_backbone, model_settings
from cl_mlm.objective import Batch, Head, Outputs

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


class MixedBackbone(Backbone):
    """A head for each task on one body; fulfils what a run asks of a `Backbone`.

    Each head is a plain transformers model, so that its folder reloads by itself. `model` is the module of all.

    Args:
        parts: the model of every task, by its key; tasks of one writing form may have the same. Mutated: they share
            the largest body among them, the first of these.
    """

    def __init__(self, parts: Mapping[str, Backbone]) -> None:
        self._by_task = dict(parts)
        self._key_of: dict[int, str] = {}
        for key, part in self._by_task.items():
            self._key_of.setdefault(id(part), key)
        for part in self.parts().values():
            # A folder holds what its model was made with, not what only other heads need of the body.
            part.own_names = frozenset(part.model.state_dict())
        models = {key: part.model for key, part in self.parts().items()}
        self.body: Any = share_body(models)
        self.model: Any = Heads(self.body, models)
        first = next(iter(self._by_task.values()))
        self.tokenizer, self.kind, self.problem_type = first.tokenizer, first.kind, first.problem_type

    @override
    def part(self, task: str) -> Backbone:
        return self._by_task[task]

    @override
    def parts(self) -> dict[str, Backbone]:
        return {key: self._by_task[key] for key in self._key_of.values()}

    @override
    def forward(self, batch: Batch) -> Outputs:
        """Returns logits and features of the head of the batch's task, and on demand the logits of another head."""
        part = self._by_task[batch.task]
        given: list[Any] = []
        handle = self.body.register_forward_hook(lambda module, inputs, output: given.append(output))
        try:
            found = part.read(batch, self.model(self._key_of[id(part)], **part.arguments(batch)))
        finally:
            handle.remove()

        def on_the_same_pass(task: str) -> torch.Tensor:
            other = self._by_task[task]
            with _giving(self.body, given[-1]):
                return other.read(batch, other.model(**other.arguments(batch))).logits

        return replace(found, lazy_logits=on_the_same_pass)

    @override
    def grow(self, labels: Sequence[str], seed: int, stage_index: int, task: str = "") -> None:
        self._by_task[task].grow(labels, seed, stage_index)

    @override
    def set_trainable(self, mode: str) -> None:
        for part in self.parts().values():
            part.set_trainable(mode)

    @override
    def train_mode(self, mode: str) -> None:
        self.model.train()
        if mode == "head":
            self.body.eval()

    @override
    def checkpoint_activations(self) -> None:
        for part in self.parts().values():
            part.checkpoint_activations()

    @override
    def head_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        own = {id(parameter) for part in self.parts().values() for _, parameter in part.head_parameters()}
        yield from ((name, p) for name, p in self.model.named_parameters() if id(p) in own)

    @override
    def settings(self) -> dict[str, Any]:
        return {key: part.settings() for key, part in self.parts().items()}


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
    parts: dict[str, Backbone] = {}
    writers: dict[Head, Backbone] = {}
    for task in tasks:
        labels = task.labels.seen or task.first_labels
        source = config if kept is None else replace(config, name=str(kept[task.key]), revision=None, dropout=None)
        kind = model_settings(source, labels, max_length, task.objective)[0]
        if kind not in writers:
            part = load_backbone(source, labels, seed, max_length, task.objective)
            if not task.labels.seen:
                part.grow(task.objective.classes(labels), seed, 0)
            parts[task.key] = part
            if kind in WRITING:
                writers[kind] = part
        else:
            parts[task.key] = writers[kind]
        task.objective.bind(parts[task.key].model, parts[task.key].kind)
    if len({id(part) for part in parts.values()}) == 1:
        return next(iter(parts.values()))
    return MixedBackbone(parts)


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
