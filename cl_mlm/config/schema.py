"""The settings of an experiment as dataclasses; the metadata of a field holds its help text and its bounds.

Metadata keys: `help`; `min`, `max` (inclusive) and `above` (exclusive) bound numbers and the items of lists.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from cl_mlm.config.keeping import CheckpointConfig, TrackingConfig
from cl_mlm.config.options import option as _option
from cl_mlm.config.probes import ProbesConfig

Overlap = Literal["error", "drop", "keep"]
Labels = Literal["error", "fold"]  # that look the same
UnseenLabels = Literal["error", "drop"]  # that no training row has
# What says where a run is written, what it is called, and how it is tracked and kept: it changes no result.
BESIDE_IDENTITY = ("arm", "code", "output", "tracking", "checkpoint")
NAME_LENGTH = 40
STAGE_SETTINGS = ("epochs", "steps", "learning_rate", "batch_size", "patience")  # a stage may have its own
CHAT_OPTIONS = ("chat", "system", "chat_template")  # of prompting; left out of a resolved config without `chat`


@dataclass(frozen=True)
class ModelConfig:
    """Which pretrained (or tiny) model is fine-tuned."""

    name: str = _option(
        "tiny", "a hub id, a local folder, or built here: tiny (an encoder), tiny-decoder, tiny-encoder-decoder"
    )
    revision: str | None = _option(None, "hub revision; null: the newest")
    dropout: float | None = _option(
        None, "every dropout probability of the model; null: the model's own", min=0, max=0.95
    )
    dtype: Literal["float32", "bfloat16"] = _option(
        "float32", "of the weights; bfloat16: half the memory, but each update is rounded to 8 bits (precision: bf16)"
    )
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = _option(
        None, "implementation of attention; null: the model's own choice"
    )
    quantization: Literal["nf4", "int8"] | None = _option(
        None, "bits of the frozen base under adapters, by bitsandbytes on CUDA; null: none"
    )


def _of_modes(help: str, modes: dict[str, Any], **bounds: float) -> dict[str, Any]:
    """Returns the metadata of an option that only some modes of fine-tuning have, with its default in each.

    The option is None, and left out of a resolved config, in all others: their hashes do not change by it.
    """
    words = ", ".join(f"{mode}: {json.dumps(default)}" for mode, default in modes.items())
    return {"help": f"{help} ({words})", "modes": modes, **bounds}


@dataclass(frozen=True)
class FinetuningConfig:
    """What is trained: of the model, or of what a mode adds to it. Heads over classes always are."""

    mode: Literal[
        "full", "head", "bitfit", "norm", "last_k", "lora", "ia3", "bottleneck", "prompt", "p_tuning", "prefix"
    ] = _option("full", "which weights are trained: docs/finetuning.md tells the modes")
    cache_features: bool = _option(
        True, "mode head: the frozen body sees every row once, and the head is trained on its cached output"
    )
    rank: int | None = field(default=None, metadata=_of_modes("rank of an adapter", {"lora": 8}, min=1))
    alpha: float | None = field(
        default=None,
        metadata=_of_modes("`alpha` / `rank` multiplies what an adapter gives", {"lora": 16.0}, above=0),
    )
    dropout: float | None = field(
        default=None, metadata=_of_modes("dropout of an adapter's input", {"lora": 0.05}, min=0, max=0.95)
    )
    scaling: Literal["rank", "root"] | None = field(
        default=None, metadata=_of_modes("divides `alpha` by the rank, or by its root (rsLoRA)", {"lora": "rank"})
    )
    dora: bool | None = field(
        default=None, metadata=_of_modes("trains direction and magnitude of a weight apart (DoRA)", {"lora": False})
    )
    targets: str | list[str] | None = field(
        default=None,
        metadata=_of_modes(
            "layers with adapters: `attention` (queries and values), `all-linear`, or names", {"lora": "attention"}
        ),
    )
    layers: list[int] | None = field(
        default=None,
        metadata=_of_modes(
            "blocks with adapters, from 0; null: all", {"lora": None, "ia3": None, "bottleneck": None}, min=0
        ),
    )
    last_blocks: int | None = field(
        default=None, metadata=_of_modes("how many blocks are trained, from the body's end", {"last_k": 2}, min=1)
    )
    width: int | None = field(
        default=None, metadata=_of_modes("numbers between the two layers of a bottleneck", {"bottleneck": 64}, min=1)
    )
    placement: Literal["houlsby", "pfeiffer"] | None = field(
        default=None,
        metadata=_of_modes(
            "bottlenecks behind attention and feed-forward part, or behind the latter alone", {"bottleneck": "houlsby"}
        ),
    )
    start: Literal["zero", "normal"] | None = field(
        default=None,
        metadata=_of_modes(
            "of a bottleneck: it adds nothing at first, or next to nothing as in its paper", {"bottleneck": "zero"}
        ),
    )
    virtual_tokens: int | None = field(
        default=None,
        metadata=_of_modes(
            "trained vectors that are read before every text", {"prompt": 20, "p_tuning": 20, "prefix": 20}, min=1
        ),
    )
    init: Literal["vocab", "text", "random"] | None = field(
        default=None,
        metadata=_of_modes("of a prompt: rows of the model's embeddings, a text, or numbers", {"prompt": "vocab"}),
    )
    init_text: str | None = field(
        default=None, metadata=_of_modes("text that a prompt begins as, with init: text", {"prompt": None})
    )
    hidden_size: int | None = field(
        default=None,
        metadata=_of_modes(
            "hidden units of the network that computes virtual tokens; null: as wide as what it reads",
            {"p_tuning": None, "prefix": None},
            min=1,
        ),
    )
    prefix_projection: bool | None = field(
        default=None,
        metadata=_of_modes("computes a prefix by a network of two layers, as in its paper", {"prefix": False}),
    )
    export: Literal["merged", "adapter", "both"] | None = field(
        default=None,
        metadata=_of_modes(
            "the model of a stage: a plain one with its adapter within (`both` says the same), or the adapter alone",
            {
                **dict.fromkeys(("lora", "ia3"), "merged"),
                **dict.fromkeys(("bottleneck", "prompt", "p_tuning", "prefix"), "adapter"),
            },
        ),
    )


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation of one stage."""

    epochs: int = _option(3, "passes over a stage's rows", min=1)
    steps: int | None = _option(None, "optimiser steps a stage; replaces epochs", min=1)
    batch_size: int = _option(32, "rows of a micro-batch", min=1)
    accumulation: int = _option(
        1, "micro-batches of an optimiser step; equal products with batch_size have the same rows in a step", min=1
    )
    optimizer: Literal["adamw", "sgd"] = _option("adamw", "AdamW (fused where the device has it) or SGD")
    learning_rate: float = _option(5e-5, "peak learning rate", above=0)
    head_factor: float = _option(1.0, "learning rate of the head divided by that of the body", above=0)
    momentum: float = _option(0.9, "momentum of SGD", min=0, max=1)
    weight_decay: float = _option(0.01, "decoupled weight decay; not of biases and norms", min=0)
    schedule: Literal["constant", "linear", "cosine"] = _option(
        "linear", "learning rate after the warm-up, within each stage"
    )
    warmup: float = _option(0.1, "fraction of a stage's steps", min=0, max=1)
    clip: float | None = _option(1.0, "largest norm of the gradient; null: no clipping", above=0)
    patience: int | None = _option(
        None, "epochs without a better validation score before a stage stops; null: never", min=1
    )
    precision: Literal["fp32", "bf16", "fp16"] = _option(
        "fp32", "autocast precision of forward passes; model.dtype sets that of the weights"
    )
    threads: int | None = _option(None, "CPU threads of torch; null: torch's choice", min=1)
    device: str | None = _option(None, "cpu, cuda, cuda:1, mps; null: an accelerator where there is one")
    deterministic: bool = _option(
        False,
        "only kernels that add in one order: on CUDA results are then equal to the bit, at a cost in speed",
    )
    max_length: int | None = _option(128, "tokens; longer rows are cut; null: as many as the model can read", min=4)
    halve_on_oom: bool = _option(
        False, "where memory does not suffice, cuts each micro-batch in halves; a step keeps its rows"
    )
    pack: bool = _option(
        False, "decoders: several rows in one sequence in training, none of which sees another, in place of padding"
    )
    gradient_checkpointing: bool = _option(
        False, "keeps fewer activations and computes them again: less memory, about a third more time"
    )

    stages: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": f"name or index from 0 of a stage -> its own {', '.join(STAGE_SETTINGS)}"},
    )

    def at_stage(self, index: int, names: Sequence[str]) -> TrainingConfig:
        """Returns the settings of one stage: its own in the place of those that hold for all, and no `stages`.

        A stage with `epochs` of its own trains so many, whatever `steps` the others have.

        Args:
            index: of the stage.
            names: of all stages, in order.
        """
        if not self.stages:
            return self
        own = self.stages.get(self.stage_key(index, names), {})
        steps = {"steps": None} if "epochs" in own else {}
        return replace(self, stages={}, **(steps | own))

    def stage_key(self, index: int, names: Sequence[str]) -> str:
        """Returns the key that a stage has in `stages`: its name, or its index where no stage has that for a name."""
        key = str(index)
        return key if key in self.stages and key not in names else names[index]

    @property
    def may_stop_early(self) -> bool:
        """Whether any stage has `patience`."""
        return bool(self.patience) or any(own.get("patience") for own in self.stages.values())

    @property
    def step_rows(self) -> int:
        """Rows of an optimiser step, over all its micro-batches."""
        return self.batch_size * self.accumulation

    @property
    def row_length(self) -> int:
        """`max_length` as a number: preparation puts the model's own in the place of null."""
        assert self.max_length is not None
        return self.max_length


@dataclass(frozen=True)
class EvaluationConfig:
    """What is scored after every stage."""

    batch_size: int = _option(64, "rows of an evaluation batch; on an accelerator larger ones are faster", min=1)
    splits: list[Literal["validation", "test"]] = field(
        default_factory=lambda: ["validation", "test"], metadata={"help": "splits scored after every stage"}
    )


@dataclass(frozen=True)
class PromptingConfig:
    """Prompts beside fine-tuning: how the model, as it is, answers a template; see docs/prompting.md."""

    template: str | None = _option(None, "jinja2 text over a row's columns, `labels`, `choices` and `mask`")
    templates: dict[str, str] = field(
        default_factory=dict, metadata={"help": "name or task of a stage -> its template, instead of `template`"}
    )
    verbaliser: dict[str, str | list[str]] = field(
        default_factory=dict, metadata={"help": "label -> its words, or several; empty: the label's name"}
    )
    delimiter: str = _option(" ", "text between a prompt and its answer")
    separator: str = _option("\n\n", "text after each demonstration")
    shots: list[int] = field(
        default_factory=lambda: [0], metadata={"help": "numbers of demonstrations, each scored by itself", "min": 0}
    )
    per_class: bool = _option(False, "counts `shots` for every label of the stage, instead of for the stage")
    seed: int = _option(0, "draws demonstrations, and rows where there is `max_rows`", min=0)
    normalise: Literal["none", "tokens", "bytes"] = _option(
        "none", "divides the log-probability of a label's words by nothing, their tokens, or their UTF-8 bytes"
    )
    split: Literal["test", "validation"] = _option("test", "split that is prompted; demonstrations come from train")
    max_rows: int | None = _option(None, "rows of a column, drawn by `seed`; null: all", min=1)
    max_length: int | None = _option(
        None, "tokens of a prompt and its answer; longer prompts lose their beginning; null: the model's limit", min=8
    )
    chat: bool = _option(False, "asks through the chat template of the model's tokenizer, as a user does")
    system: str | None = _option(None, "with `chat`: the text of the system's turn; null: none of ours")
    chat_template: str | None = _option(None, "with `chat`: a chat template (jinja2) in place of the tokenizer's own")
    data: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "a stream section whose columns are prompted; null: those of the run's own stream"},
    )


@dataclass(frozen=True)
class Config:
    """The settings of one run, resolved: all that can change its result is in here.

    Attributes:
        stream: `name`, the arguments of the stream's factory, and the keys of `config/stream_keys.py`.
        strategies: name -> arguments, in order; empty is naive fine-tuning.
    """

    experiment: str = _option("experiment", "folder below `output`, and the MLflow experiment")
    seed: int = _option(0, "of initialisation, order, dropout and buffers", min=0)
    stream: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "name, arguments, and overlap, labels, unseen_labels, first_stages, scenario, order, probes ..."
        },
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    finetuning: FinetuningConfig = field(default_factory=FinetuningConfig)
    strategies: dict[str, dict[str, Any]] = field(
        default_factory=dict, metadata={"help": "name -> arguments, in order"}
    )
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    prompting: PromptingConfig | None = field(
        default=None, metadata={"help": "prompts scored before training and after every stage; null: none"}
    )
    probes: ProbesConfig | None = field(
        default=None, metadata={"help": "what is measured of a language model beside the columns; null: nothing"}
    )
    # A setting like others, so that a smoke run has an identity and a folder of its own.
    limit: int | None = _option(None, "rows a split, and 2 steps a stage: a smoke run", min=1)
    arm: str | None = _option(None, "name of this variant in folders and tables; `--arm` sets it; changes no result")
    code: list[str] = field(
        default_factory=list,
        metadata={"help": "folders of modules of your own, looked in before the config's and the working folder"},
    )
    output: str = _option("runs", "folder of all runs")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain nested dicts; what changes nothing where it is not set is left out there.

        Those are `prompting` and its options of a chat, `probes`, `arm`, `code`, `training.deterministic`,
        `training.pack`, `training.stages`, `model.attention`, `model.quantization`, and options of other modes of
        fine-tuning: so they change no hash of runs that do not use them.
        """
        values = asdict(self)
        for section, key in (
            ("training", "deterministic"),
            ("training", "pack"),
            ("training", "stages"),
            ("model", "attention"),
            ("model", "quantization"),
        ):
            if not values[section][key]:
                del values[section][key]
        for option in mode_options():
            if values["finetuning"][option] is None:
                del values["finetuning"][option]
        if self.prompting is not None and not self.prompting.chat:
            for option in CHAT_OPTIONS:
                if not values["prompting"][option]:
                    del values["prompting"][option]
        for key in ("prompting", "probes", "arm", "code"):
            if not values[key]:
                del values[key]
        return values

    def identity(self) -> dict[str, Any]:
        """Returns the settings that can change a result: all but those in `BESIDE_IDENTITY`."""
        return {k: v for k, v in self.to_dict().items() if k not in BESIDE_IDENTITY}

    @property
    def label(self) -> str:
        """The strategies in one word: `naive`, `replay`, `ewc+replay`."""
        return "+".join(name.rpartition(".")[2].lower() for name in self.strategies) or "naive"

    @property
    def run_name(self) -> str:
        """`<arm>-seed<seed>-<hash8>`, or the strategies where there is no arm; the hash is that of the identity.

        A smoke run begins with `limit<rows>-`, so that `<arm>-seed<seed>-*` means no smoke run.
        """
        text = json.dumps(self.identity(), sort_keys=True, default=str)
        name = self.label if self.arm is None else file_name(self.arm)
        name = name if self.limit is None else f"limit{self.limit}-{name}"
        return f"{name}-seed{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def mode_options() -> dict[str, dict[str, Any]]:
    """Returns the options that only some modes of fine-tuning have, each with its default by mode."""
    return {option.name: option.metadata["modes"] for option in fields(FinetuningConfig) if "modes" in option.metadata}


def file_name(arm: str) -> str:
    """Returns the name of an arm as part of a folder's name; empty where it holds no letter and no digit."""
    return re.sub(r"[^\w.+=-]+", "-", arm).strip("-.")[:NAME_LENGTH]
