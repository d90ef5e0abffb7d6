"""Backbone: a transformer in the form that the objective needs; a class head grows with labels.

Axes: I inputs, R rows, T tokens, H hidden, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from cl_mlm.batch import Batch, Outputs
from cl_mlm.errors import ConfigError
from cl_mlm.models.tokenizers import tokenizer_hash
from cl_mlm.objective import Head, ProblemType
from cl_mlm.randomness import seed_everything

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLASS_HEADS: tuple[Head, ...] = ("sequence", "token")  # their outputs are classes, and grow


class Backbone(Protocol):
    """What a run needs of a model with one head, or with several on one body.

    Attributes:
        model: the module that is trained; parameter names never change within a run.
        tokenizer: pads on the right.
        kind: the form of the model; with several heads, that of the first.
        is_shared: whether several heads share one body.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    kind: Head
    is_shared: ClassVar[bool]

    def forward(self, batch: Batch) -> Outputs:
        """Returns logits, (I, C) or (I, T, C), and on demand the input of the head, for `batch`."""
        ...

    def grow(self, labels: Sequence[str], seed: int, stage_index: int, task: str = "") -> None:
        """Widens the head of a task to the classes `labels`; see `PlainBackbone.grow`."""
        ...

    def set_trainable(self, mode: str) -> None:
        """Leaves everything trainable (`full`), or all but the pretrained body (`head`).

        Raises:
            ConfigError: nothing would be left to train.
        """
        ...

    def train_mode(self, mode: str) -> None:
        """Puts the model in training mode; a frozen body stays deterministic, without dropout."""
        ...

    def checkpoint_activations(self) -> None:
        """Keeps fewer activations in training and computes them again in the backward pass.

        Raises:
            ConfigError: the model cannot.
        """
        ...

    def head_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yields names and parameters outside the pretrained body."""
        ...

    def settings(self) -> dict[str, Any]:
        """Returns what the model and the tokenizer are beside their weights, whatever folder they came from."""
        ...

    def task_model(self, task: str) -> PlainBackbone:
        """Returns the model of one task, by the task's key; tasks that share a head share the object."""
        ...

    def task_models(self) -> dict[str, PlainBackbone]:
        """Returns the models that share the body, each once, by the key of its first task; with one head, none."""
        ...


class PlainBackbone:
    """A transformer, its tokenizer and its head.

    A head over classes is found, not named: the last Linear outside the pretrained body whose output size is the number
    of labels; the head of a language model is its output embedding.

    Attributes:
        model: a plain transformers model; parameter names never change within a run.
        tokenizer: pads on the right; a model without a padding token got one, written into its config.
        kind: the form of the model.
        problem_type: what transformers calls the task of a sequence classifier.
        own_names: names of the part of the model's state that its folder holds; empty: all.
    """

    is_shared: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: Head) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.kind: Head = kind
        self.own_names: frozenset[str] = frozenset()
        self.problem_type: ProblemType = model.config.problem_type or "single_label_classification"
        _ensure_padding(model, tokenizer)
        self.head_name = find_head(model, kind)
        self._head_input: torch.Tensor | None = None
        self._watch_head()

    @property
    def head(self) -> torch.nn.Linear:
        """The Linear that gives the logits."""
        return self.model.get_submodule(self.head_name)  # type: ignore[return-value]

    def forward(self, batch: Batch) -> Outputs:
        """Returns logits, (I, C) or (I, T, C), and on demand the input of the head, for `batch`."""
        return self.read(batch, self.model(**self.arguments(batch)))

    def arguments(self, batch: Batch) -> dict[str, Any]:
        """Returns what the model is called with."""
        # Keys and values are for generation, which asks for them itself.
        return {**batch.inputs, **({"use_cache": False} if self.kind in ("causal", "seq2seq") else {})}

    def read(self, batch: Batch, found: Any) -> Outputs:
        """Returns logits and features of what the model has just given for `batch`."""
        head_input, ids = self._head_input, batch.inputs["input_ids"]
        self._head_input = None
        if self.kind != "sequence":
            return Outputs(self.logits(found), lambda: head_input)  # type: ignore[arg-type, return-value]
        return Outputs(found.logits, lambda: _pooled(head_input, ids.ne(self.model.config.pad_token_id)))

    def logits(self, found: Any) -> torch.Tensor:
        """Returns the logits of what the model gave, (I, C) or (I, T, C); those of a span head are start and end."""
        import torch

        logits: torch.Tensor = (
            torch.stack([found.start_logits, found.end_logits], -1) if self.kind == "span" else found.logits
        )
        return logits

    def grow(self, labels: Sequence[str], seed: int, stage_index: int, task: str = "") -> None:
        """Widens the head to the classes `labels`: old rows are copied, new ones drawn from this stage's `init` seed.

        Mutates the head in place of the old one and the label fields of the model's config; a head that is not over
        classes stays as it is. `task` says which head, where there are several.
        """
        import torch

        if self.kind not in CLASS_HEADS or not labels:
            return
        old = self.head
        if len(labels) > old.out_features:
            seed_everything(seed, "init", stage_index)
            new = torch.nn.Linear(old.in_features, len(labels), bias=old.bias is not None)
            self.model._init_weights(new)
            new = new.to(old.weight.device, old.weight.dtype)
            with torch.no_grad():
                for name, parameter in old.named_parameters():
                    leading(parameter, new.get_parameter(name)).copy_(parameter)
                    new.get_parameter(name).requires_grad_(parameter.requires_grad)
            self.model.set_submodule(self.head_name, new)
            self._watch_head()
        _write_labels(self.model, labels, self.problem_type)

    def set_trainable(self, mode: str) -> None:
        """Leaves everything trainable (`full`), or all but the pretrained body (`head`).

        Raises:
            ConfigError: nothing would be left to train.
        """
        body = body_parameters(self.model, self.head)
        for parameter in self.model.parameters():
            parameter.requires_grad_(mode == "full" or id(parameter) not in body)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ConfigError(
                f"finetuning.mode: head leaves nothing to train in {type(self.model).__name__}, whose output layer is "
                "its input embedding; got head"
            )

    def train_mode(self, mode: str) -> None:
        """Puts the model in training mode; a frozen body stays deterministic, without dropout."""
        self.model.train()
        if mode == "head":
            self.model.base_model.eval()  # the whole model, where there is no body apart: its head has no dropout

    def checkpoint_activations(self) -> None:
        """Keeps fewer activations in training and computes them again in the backward pass.

        Raises:
            ConfigError: the model cannot.
        """
        # transformers 5.2x renamed it.
        new = getattr(self.model, "activation_checkpointing_enable", None)
        try:
            (new or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        except ValueError as error:
            raise ConfigError(f"training.gradient_checkpointing: {error}; got true") from error

    def head_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yields names and parameters outside the pretrained body."""
        body = body_parameters(self.model, self.head)
        yield from ((n, p) for n, p in self.model.named_parameters() if id(p) not in body)

    def settings(self) -> dict[str, Any]:
        """Returns what the model and the tokenizer are beside their weights, whatever folder they came from."""
        config = self.model.config.to_dict()
        for key in ("_name_or_path", "transformers_version"):
            config.pop(key, None)
        return {"config": config, "tokenizer": tokenizer_hash(self.tokenizer)}

    def task_model(self, task: str) -> PlainBackbone:
        """Returns this model, which serves every task."""
        return self

    def task_models(self) -> dict[str, PlainBackbone]:
        """Returns none: no body is shared."""
        return {}

    def save(self, folder: Path) -> None:
        """Writes a plain transformers folder (safetensors, config, tokenizer) that `pipeline` reloads."""
        with calm_transformers():
            state = self.model.state_dict() if self.own_names else {}
            own = {name: tensor for name, tensor in state.items() if name in self.own_names}
            self.model.save_pretrained(folder, safe_serialization=True, state_dict=own or None)
            # Remove load-time state, so that the folder does not depend on caching or on resuming.
            for key in ("is_local", "local_files_only"):
                self.tokenizer.init_kwargs.pop(key, None)
            if self.tokenizer.is_fast:
                backend: Any = self.tokenizer.backend_tokenizer
                backend.no_truncation()
            self.tokenizer.save_pretrained(folder)

    def _watch_head(self) -> None:
        def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._head_input = inputs[0]

        self.head.register_forward_pre_hook(keep)


def body_parameters(model: PreTrainedModel, head: torch.nn.Module) -> set[int]:
    """Returns the identities of the pretrained body's parameters, also of one that the head shares."""
    body: Any = model.base_model
    if body is not model:
        return {id(parameter) for parameter in body.parameters()}
    inputs: Any = model.get_input_embeddings()
    own = {id(p) for p in head.parameters()} - {id(p) for p in inputs.parameters()}
    return {id(parameter) for parameter in model.parameters()} - own


def find_head(model: PreTrainedModel, kind: Head) -> str:
    """Returns the name of the Linear that gives the logits.

    Raises:
        ConfigError: there is none.
    """
    from torch.nn import Linear

    if kind in ("causal", "masked", "seq2seq"):
        output: Any = model.get_output_embeddings()
        return next(str(name) for name, module in model.named_modules() if module is output)
    outputs, base = model.config.num_labels if kind in CLASS_HEADS else 2, list(model.base_model.modules())
    body = set() if base[0] is model else {id(module) for module in base}  # some have no body apart
    heads: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and id(module) not in body and module.out_features == outputs
    ]
    if not heads:
        raise ConfigError(f"model.name: {type(model).__name__} has no head of {outputs} outputs")
    return heads[-1]


def leading(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Returns the part of a grown parameter that `old` corresponds to: a view of `new` with the shape of `old`."""
    return new[tuple(slice(0, size) for size in old.shape)]


@contextmanager
def calm_transformers() -> Iterator[None]:
    """Keeps transformers from telling that the head is new and from drawing bars for one file; errors still show."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _write_labels(model: PreTrainedModel, labels: Sequence[str], problem_type: ProblemType) -> None:
    setattr(model, "num_labels", len(labels))  # noqa: B010 - declared nowhere, read by every forward pass
    model.config.num_labels = len(labels)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.config.problem_type = problem_type


def _ensure_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives decoders without a padding token one: the end-of-text token, masked wherever it pads."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def _pooled(head_input: Any, is_token: torch.Tensor) -> torch.Tensor:
    """Returns (R, H): where the head runs over all tokens (decoders), the last one that is no padding token.

    Read off the ids, as transformers does, and not off the mask: where the end-of-text token pads, a row that ends
    with it is classified at the token before.
    """
    features: torch.Tensor = head_input
    if features.dim() == 2:
        return features
    last = (is_token.int() * is_token.new_ones(is_token.shape[-1]).cumsum(0)).argmax(-1)
    return features[range(len(features)), last]
