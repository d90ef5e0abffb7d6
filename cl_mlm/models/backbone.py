"""Backbone: a transformer in the form that the objective needs; its class head grows with the labels.

Axes: I inputs, R rows, T tokens, H hidden, C classes.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from transformers.utils import logging

from cl_mlm.batch import Batch, Outputs
from cl_mlm.config.schema import FinetuningConfig, ModelConfig
from cl_mlm.config.undecodable import named_in_text
from cl_mlm.errors import ConfigError
from cl_mlm.models.adapter_files import FOLDER, read_adapter, write_adapter
from cl_mlm.models.finetuning import ADAPTED, merged_state, set_trainable
from cl_mlm.models.soft_prompts import hide_prompt, start_from_text
from cl_mlm.models.targets import body_parameters
from cl_mlm.models.tokenizers import give_padding, tokenizer_hash
from cl_mlm.randomness import seed_everything

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cl_mlm.objective import Head, ProblemType

CLASS_HEADS: tuple[Head, ...] = ("sequence", "token")  # their outputs are classes, so they grow


class Backbone(Protocol):
    """What a run needs of a model with one head, or with several on one body.

    Attributes:
        model: the module that is trained; parameter names never change within a run.
        tokenizer: the model's; pads on the right.
        kind: the form of the model; with several heads, that of the first.
        is_shared: whether several heads share one body.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    kind: Head
    is_shared: ClassVar[bool]

    def forward(self, batch: Batch) -> Outputs:
        """Returns the logits for a batch, (I, C) or (I, T, C), and on demand the input of the head."""
        ...

    def grow(self, labels: Sequence[str], seed: int, stage_index: int, task: str = "") -> None:
        """Widens the head of a task to the classes `labels`; see `PlainBackbone.grow`."""
        ...

    def set_trainable(self, finetuning: FinetuningConfig, seed: int) -> None:
        """Leaves those parameters trainable that the mode trains, and adds its adapters; see `finetuning.py`.

        Raises:
            ConfigError: the mode has no meaning for this model, or nothing would be left to train.
        """
        ...

    def train_mode(self) -> None:
        """Puts the model in training mode; a body that is frozen as a whole stays deterministic, without dropout."""
        ...

    def read_adapters(self, folders: Mapping[str, Path]) -> None:
        """Puts in the trained tensors that were kept; `folders` are those of the models, by the task's key."""
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
        """Returns config and tokenizer, without what depends on the folder that they were loaded from."""
        ...

    def task_model(self, task: str) -> PlainBackbone:
        """Returns the model of the task with this key; tasks that share a head share the object."""
        ...

    def task_models(self) -> dict[str, PlainBackbone]:
        """Returns each model that shares the body once, by the key of its first task; empty with one head."""
        ...


class PlainBackbone:
    """A transformer, its tokenizer and its head; fulfils `Backbone`.

    `find_head` finds the head by its shape, so that no family of models is named.

    Attributes:
        model: a plain transformers model; parameter names never change within a run.
        tokenizer: the model's; pads on the right. Where it had no padding token, it gets one; see `give_padding`.
        kind: the form of the model.
        problem_type: what transformers calls the task of a sequence classifier.
        own_names: names of the tensors that the model's folder holds; empty: all.
        origin: which base the model was made of; an adapter's folder names it.
        finetuning: which parameters are trained.
    """

    is_shared: ClassVar[bool] = False

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: Head, origin: ModelConfig | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.kind: Head = kind
        self.own_names: frozenset[str] = frozenset()
        self.origin = origin
        self.finetuning = FinetuningConfig()
        self.problem_type: ProblemType = model.config.problem_type or "single_label_classification"
        _set_padding(model, tokenizer, kind)
        types = getattr(model.config, "type_vocab_size", None)
        # A tokenizer may give types of tokens to a family that has none, or one (RoBERTa).
        self._has_types = "token_type_ids" in inspect.signature(model.forward).parameters and types != 1
        self.head_name = find_head(model, kind)
        self._head_input: torch.Tensor | None = None
        self._watch_head()

    @property
    def head(self) -> torch.nn.Linear:
        """The linear layer that gives the logits."""
        return self.model.get_submodule(self.head_name)  # type: ignore[return-value]

    def forward(self, batch: Batch) -> Outputs:
        """Returns the logits for a batch, (I, C) or (I, T, C), and on demand the input of the head."""
        return self.read(batch, self.model(**self.arguments(batch)))

    def arguments(self, batch: Batch) -> dict[str, Any]:
        """Returns the arguments of the model's forward pass."""
        if self.kind in ("causal", "seq2seq"):
            # Only generation needs the cache of keys and values, and it asks for it itself.
            return {**batch.inputs, "use_cache": False}
        return {name: tensor for name, tensor in batch.inputs.items() if self._has_types or name != "token_type_ids"}

    def read(self, batch: Batch, model_output: Any) -> Outputs:
        """Returns logits and features from the output of the forward pass that has just been run for `batch`."""
        head_input, ids = self._head_input, batch.inputs["input_ids"]
        self._head_input = None
        if self.kind != "sequence":
            return Outputs(self.logits(model_output), lambda: head_input)  # type: ignore[arg-type, return-value]
        pad = self.model.config.pad_token_id
        return Outputs(model_output.logits, lambda: _pooled(head_input, ids.ne(-1 if pad is None else pad)))

    def forget_head_input(self) -> None:
        """Lets go of what `read` would take; for a forward pass whose output it does not read."""
        self._head_input = None

    def logits(self, model_output: Any) -> torch.Tensor:
        """Returns the logits of a forward pass, (I, C) or (I, T, C); a span head has two, of start and end."""
        if self.kind == "span":
            return torch.stack([model_output.start_logits, model_output.end_logits], -1)
        logits: torch.Tensor = model_output.logits
        return logits

    def grow(self, labels: Sequence[str], seed: int, stage_index: int, task: str = "") -> None:
        """Widens the head to the classes `labels`: old rows are copied, new ones are drawn.

        Replaces the head of the model, and writes the label fields of its config. A head that is not over classes stays
        as it is.

        Args:
            labels: all classes that the model is to know.
            seed: of the run; new rows are drawn from its address (`init`, stage_index).
            stage_index: part of the address.
            task: key of the task whose head is widened, where there are several.
        """
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

    def set_trainable(self, finetuning: FinetuningConfig, seed: int) -> None:
        """Leaves those parameters trainable that the mode trains, and adds its adapters; see `finetuning.py`.

        Raises:
            ConfigError: the mode has no meaning for this model, or nothing would be left to train.
        """
        self.finetuning = finetuning
        set_trainable(self.model, self.head, self.kind, finetuning, seed)
        if finetuning.init_text is not None:
            start_from_text(self.model, self.tokenizer, finetuning.init_text)

    def train_mode(self) -> None:
        """Puts the model in training mode; a body that is frozen as a whole stays deterministic, without dropout."""
        self.model.train()
        if self.finetuning.mode == "head":
            # The features of a row are then the same in every epoch. Where there is no body apart, this is the whole
            # model, whose head has no dropout.
            self.model.base_model.eval()

    def checkpoint_activations(self) -> None:
        """Keeps fewer activations in training and computes them again in the backward pass.

        Raises:
            ConfigError: the model cannot.
        """
        # transformers 5.2x renamed `gradient_checkpointing_enable`.
        renamed = getattr(self.model, "activation_checkpointing_enable", None)
        try:
            (renamed or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        except ValueError as error:
            raise ConfigError(f"training.gradient_checkpointing: {error}; got true") from error

    def head_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yields names and parameters outside the pretrained body."""
        body = body_parameters(self.model, self.head)
        yield from ((n, p) for n, p in self.model.named_parameters() if id(p) not in body)

    def settings(self) -> dict[str, Any]:
        """Returns config and tokenizer, without what depends on the folder that they were loaded from."""
        config = self.model.config.to_dict()
        for key in ("_name_or_path", "transformers_version"):
            config.pop(key, None)
        origin = self.origin or ModelConfig()
        chosen = {"attention": origin.attention, "quantization": origin.quantization}
        told = {key: value for key, value in chosen.items() if value is not None}
        return {"config": config, "tokenizer": tokenizer_hash(self.tokenizer), **told}

    def task_model(self, task: str) -> PlainBackbone:
        """Returns this model, which serves every task."""
        return self

    def task_models(self) -> dict[str, PlainBackbone]:
        """Returns none: no body is shared."""
        return {}

    @property
    def num_bytes(self) -> int:
        """The bytes of the weights, which `save` writes beside a few small files."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    def save(self, folder: Path) -> None:
        """Writes a plain transformers folder (safetensors, config, tokenizer) that `pipeline` reloads.

        Where the mode adds adapters, they are merged into the weights, and lie in a folder within this one, too; with
        `export: adapter` they lie there alone.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with calm_transformers(), named_in_text(folder) as named:
            if self.finetuning.mode in ADAPTED:
                assert self.origin is not None
                write_adapter(named / FOLDER, self.model, self.finetuning, self.origin)
            if self.finetuning.export == "adapter":
                self.model.config.save_pretrained(named)
            else:
                with merged_state(self.model) as state:
                    own = {name: tensor for name, tensor in state.items() if name in self.own_names}
                    self.model.save_pretrained(named, safe_serialization=True, state_dict=own or state)
            # Remove load-time state, so that the folder does not depend on caching or on resuming.
            for key in ("is_local", "local_files_only"):
                self.tokenizer.init_kwargs.pop(key, None)
            if self.tokenizer.is_fast:
                backend: Any = self.tokenizer.backend_tokenizer
                backend.no_truncation()
            self.tokenizer.save_pretrained(named)

    def read_adapters(self, folders: Mapping[str, Path]) -> None:
        """Puts in the trained tensors that were kept; `folders` are those of the models, by the task's key."""
        (folder,) = set(folders.values())
        read_adapter(folder / FOLDER, self.model)

    def _watch_head(self) -> None:
        """Keeps the input of the head at every forward pass, which are the features."""

        def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._head_input = inputs[0]

        hide_prompt(self.model, self.head)
        self.head.register_forward_pre_hook(keep)


def find_head(model: PreTrainedModel, kind: Head) -> str:
    """Returns the name of the linear layer that gives the logits.

    The head of a language model is its output embedding. A head over classes is the last linear layer outside the
    pretrained body with as many outputs as there are labels; that of spans has two, start and end.

    Raises:
        ConfigError: there is none.
    """
    if kind in ("causal", "masked", "seq2seq"):
        output: Any = model.get_output_embeddings()
        return next(str(name) for name, module in model.named_modules() if module is output)
    num_outputs = model.config.num_labels if kind in CLASS_HEADS else 2
    has_body_apart = model.base_model is not model
    body = {id(module) for module in model.base_model.modules()} if has_body_apart else set()
    heads: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and id(module) not in body and module.out_features == num_outputs
    ]
    if not heads:
        raise ConfigError(f"model.name: {type(model).__name__} has no head of {num_outputs} outputs")
    return heads[-1]


def leading(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Returns the leading part of a parameter that has grown: a view of `new` with the shape of `old`."""
    return new[tuple(slice(0, size) for size in old.shape)]


@contextmanager
def calm_transformers() -> Iterator[None]:
    """Silences transformers' notes that the head is new, and its progress bars; errors still show."""
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
    setattr(model, "num_labels", len(labels))  # noqa: B010 - not declared, but every forward pass reads it
    model.config.num_labels = len(labels)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.config.problem_type = problem_type


def _set_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: Head) -> None:
    """Makes model and tokenizer pad with the same token, on the right; see `give_padding`."""
    is_encoder_decoder = bool(model.config.is_encoder_decoder)
    give_padding(tokenizer, kind, is_encoder_decoder=is_encoder_decoder)
    if tokenizer.pad_token is not None:
        model.config.pad_token_id = tokenizer.pad_token_id
    elif is_encoder_decoder and model.config.pad_token_id is None:
        model.config.pad_token_id = 0  # their classifiers shift the input to the right, and ask for the token
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = model.config.pad_token_id


def _pooled(head_input: Any, is_token: torch.Tensor) -> torch.Tensor:
    """Returns the features of every row, (R, H), from the input of the head of a sequence classifier.

    The head of a decoder runs over all tokens; the row's features are then those of its last token that is no padding.
    As transformers does, this goes by the ids and not by the mask: where the end-of-text token pads, a row that ends
    with that token is classified at the token before.
    """
    features: torch.Tensor = head_input
    if features.dim() == 2:
        return features
    last = (is_token.int() * is_token.new_ones(is_token.shape[-1]).cumsum(0)).argmax(-1)
    return features[range(len(features)), last]
