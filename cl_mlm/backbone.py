"""Backbone: a pretrained (or tiny) transformer whose class head grows as labels arrive.

Axes: R rows, T tokens, H hidden, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.config import ModelConfig
from cl_mlm.encoding import tokenizer_hash
from cl_mlm.errors import ConfigError
from cl_mlm.objective import Batch, Outputs
from cl_mlm.randomness import seed_everything
from cl_mlm.tiny import build_tiny

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# What torch and others keep as pickles, which run code when they are read.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Backbone:
    """A sequence classifier, its tokenizer and its class head.

    The head is found, not named: the last Linear outside the pretrained body whose output size is the number of labels.

    Attributes:
        model: a plain transformers model; parameter names never change within a run.
        tokenizer: pads on the right; a model without a padding token got one, written into its config.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        _ensure_padding(model, tokenizer)
        self.head_name = _find_head(model)
        self._head_input: torch.Tensor | None = None
        self._watch_head()

    @property
    def head(self) -> torch.nn.Linear:
        """The Linear that gives the class logits."""
        return self.model.get_submodule(self.head_name)  # type: ignore[return-value]

    def forward(self, batch: Batch) -> Outputs:
        """Returns logits (R, C), and on demand the input of the head (R, H), for `batch`."""
        logits = self.model(**batch.inputs).logits
        head_input, ids = self._head_input, batch.inputs["input_ids"]
        self._head_input = None
        return Outputs(logits, lambda: _pooled(head_input, ids.ne(self.model.config.pad_token_id)))

    def grow(self, labels: Sequence[str], seed: int, stage_index: int) -> None:
        """Widens the head to `labels`: old rows are copied, new ones drawn from the `init` seed of this stage.

        Mutates the head in place of the old one and the label fields of the model's config.
        """
        import torch

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
        _write_labels(self.model, labels)

    def set_trainable(self, mode: str) -> None:
        """Leaves everything trainable (`full`), or all but the pretrained body (`head`)."""
        body = {id(parameter) for parameter in self.model.base_model.parameters()}
        for parameter in self.model.parameters():
            parameter.requires_grad_(mode == "full" or id(parameter) not in body)

    def train_mode(self, mode: str) -> None:
        """Puts the model in training mode; a frozen body stays deterministic, without dropout."""
        self.model.train()
        if mode == "head":
            self.model.base_model.eval()

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
        body = {id(parameter) for parameter in self.model.base_model.parameters()}
        yield from ((n, p) for n, p in self.model.named_parameters() if id(p) not in body)

    def settings(self) -> dict[str, Any]:
        """Returns what the model and the tokenizer are beside their weights, whatever folder they came from."""
        config = self.model.config.to_dict()
        for key in ("_name_or_path", "transformers_version"):
            config.pop(key, None)
        return {"config": config, "tokenizer": tokenizer_hash(self.tokenizer)}

    def save(self, folder: Path) -> None:
        """Writes a plain transformers folder (safetensors, config, tokenizer) that `pipeline` reloads."""
        with _calm_transformers():
            self.model.save_pretrained(folder, safe_serialization=True)
            # What the tokenizer was loaded from and last called with is none of the model's: the folder is the same
            # whether rows were encoded here or found encoded, and whether the run went on from a checkpoint.
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


def load_backbone(config: ModelConfig, labels: Sequence[str], seed: int, max_length: int) -> Backbone:
    """Returns the model of `config` with a fresh head for `labels`.

    Raises:
        ConfigError: there is no such model, or it has no sequence-classification form.
    """
    seed_everything(seed, "init", 0)
    if config.name == "tiny":
        return Backbone(*build_tiny(len(labels), config.dropout, max_length))
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    check_model(config)
    try:
        settings = AutoConfig.from_pretrained(
            config.name, revision=config.revision, num_labels=len(labels), trust_remote_code=False
        )
        _refuse_own_code(config.name, settings.to_dict())
        tokenizer = AutoTokenizer.from_pretrained(config.name, revision=config.revision, trust_remote_code=False)
        _set_dropout(settings, config.dropout)
        settings.problem_type = "single_label_classification"
        seed_everything(seed, "init", 0)
        # A classifier of another number of classes keeps its body; its class head is drawn anew.
        with _calm_transformers():
            model = AutoModelForSequenceClassification.from_pretrained(
                config.name,
                revision=config.revision,
                config=settings,
                ignore_mismatched_sizes=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.name: cannot load {config.name!r}: {str(error).splitlines()[0]}") from error
    return Backbone(model.float(), tokenizer)


def check_model(config: ModelConfig) -> None:
    """Refuses a local path that is no model folder, or one that could only be loaded by running code of its own.

    Raises:
        ConfigError: the path does not exist, or holds no config.json, own code, or weights only as a pickle.
    """
    path = Path(config.name).expanduser()
    looks_local = path.is_absolute() or config.name.startswith((".", "~")) or config.name.count("/") > 1
    if config.name == "tiny" or (not looks_local and not path.exists()):
        return
    if not (path / "config.json").is_file():
        state = "has no config.json" if path.exists() else "does not exist"
        raise ConfigError(
            f"model.name: must be `tiny`, a hub id or a folder with a transformers model; {config.name!r} {state}"
        )
    for name in ("config.json", "tokenizer_config.json"):
        if (path / name).is_file():
            _refuse_own_code(config.name, _read_json(path / name))
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles and not any(path.glob("*.safetensors")):
        raise ConfigError(
            f"model.name: weights must be safetensors, {config.name!r} has only {', '.join(pickles)}; a pickle runs "
            "code when it is read (where you trust it, load it with transformers and save_pretrained it elsewhere)"
        )


def _refuse_own_code(name: str, settings: Mapping[str, Any]) -> None:
    if settings.get("auto_map"):
        raise ConfigError(
            f"model.name: must be a model that transformers has itself, {name!r} brings code of its own (auto_map), "
            "which is not run"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"model.name: {path}: cannot be read: {error}") from error


def leading(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Returns the part of a grown parameter that `old` corresponds to: a view of `new` with the shape of `old`."""
    return new[tuple(slice(0, size) for size in old.shape)]


@contextmanager
def _calm_transformers() -> Iterator[None]:
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


def _find_head(model: PreTrainedModel) -> str:
    from torch.nn import Linear

    body = {id(module) for module in model.base_model.modules()}
    heads: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and id(module) not in body and module.out_features == model.config.num_labels
    ]
    if not heads:
        raise ConfigError(f"model.name: {type(model).__name__} has no class head of {model.config.num_labels} outputs")
    return heads[-1]


def _write_labels(model: PreTrainedModel, labels: Sequence[str]) -> None:
    setattr(model, "num_labels", len(labels))  # noqa: B010 - declared nowhere, read by every forward pass
    model.config.num_labels = len(labels)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.config.problem_type = "single_label_classification"


def _ensure_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives decoders without a padding token one: the end-of-text token, masked wherever it pads."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model.config.pad_token_id = tokenizer.pad_token_id


def _set_dropout(settings: PretrainedConfig, dropout: float | None) -> None:
    if dropout is None:
        return
    for key, value in settings.to_dict().items():
        if ("dropout" in key or key.endswith("pdrop")) and (value is None or isinstance(value, float | int)):
            setattr(settings, key, dropout)


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
