"""Disk: how much of it a run will take, told before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_mlm.config.components import make_objective
from cl_mlm.config.schema import Config
from cl_mlm.data.tasks import Tasks
from cl_mlm.errors import UnreachableModelError
from cl_mlm.models.backbone import AUTO_CLASSES, body_parameters, find_head, model_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.objective import Head, Objective

BYTES = 4  # of a number in fp32
KEPT = 2  # checkpoints of each kind while a run goes on
MOMENTS = {"adamw": 2, "sgd": 1}
# Upper bound of a row's entry in `predictions/<i>.parquet`: an id, two numbers, two labels and a column as indices.
PREDICTION_BYTES = 40


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


def disk_lines(prepared: Prepared, size: ModelSize | None = None) -> list[str]:
    """Returns what a run writes at most while it goes on, and leaves; or why that is not known.

    Args:
        prepared: the run.
        size: of its model; None: is looked up.
    """
    try:
        size = size or size_of_tasks(prepared.config, Tasks.of_stream(prepared.stream))
    except UnreachableModelError as error:
        return [f"disk: not known: {error}"]
    config, stream = prepared.config, prepared.stream
    copies, unknown = _state_copies(prepared)
    width = number_bytes(config)
    state = copies * size.trainable * width
    stage, step = size.whole * width + state, _step_bytes(config, size) + state
    joint = any(strategy.regime == "joint" for strategy in prepared.strategies)
    num_stages = 1 if joint else len(stream.measured) or len(stream)
    everything = config.checkpoint.keep_stages == "all"
    stages = num_stages if everything else min(KEPT, num_stages)
    # None is due by time or by steps: then only an interruption writes one.
    steps = KEPT if config.checkpoint.every_minutes or config.checkpoint.every_steps else 1
    predictions = _prediction_bytes(prepared, joint) if "test" in config.evaluation.splits else 0
    # One more is written before the oldest is removed, so that there is always a whole one.
    most = stages * stage + steps * step + max(stage * (not everything and num_stages > KEPT), step * (steps == KEPT))
    left = {"all": num_stages, "last": 1, "none": 0}[config.checkpoint.keep_stages]
    lines = [
        f"disk: while running at most {shown(most + predictions)} ({_counted(stages, 'stage checkpoint', stage)}, "
        f"{_counted(steps, 'step checkpoint', step)}, one more while it is written, predictions "
        f"{shown(predictions)}), afterwards {shown(left * stage + predictions)}"
    ]
    reused = min(config.checkpoint.reuse_stages, num_stages) if config.limit is None else 0
    if reused:
        lines.append(
            f"disk: beside the runs, for all that share them, {_counted(reused, 'first stage', size.changing * width)}"
        )
    return lines + [f"disk: not counted: the state of {name}, whose size is not known" for name in unknown]


def model_size(config: Config, labels: Sequence[str], objective: Objective | None = None) -> ModelSize:
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


def shown(size: float) -> str:
    """Returns bytes in the unit that suits them, such as `91 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.1f} {unit}" if unit == "GB" and size < 99.95 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _step_bytes(config: Config, size: ModelSize) -> int:
    """Returns the bytes of weights, moments and, under early stopping, the best weights."""
    best = size.changing if config.training.patience else 0
    return number_bytes(config) * (size.changing + MOMENTS[config.training.optimizer] * size.trainable + best)


def _state_copies(prepared: Prepared) -> tuple[int, list[str]]:
    """Returns how often the strategies keep the trainable parameters, and the strategies of which it is not known."""
    known = [strategy for strategy in prepared.strategies if strategy.state_copies is not None]
    unknown = [s.name for s in prepared.strategies if s.state_copies is None and s.overrides("state_dict")]
    return sum(strategy.state_copies or 0 for strategy in known), unknown


def _prediction_bytes(prepared: Prepared, joint: bool) -> int:
    """Returns the bytes of every test row's prediction before training and after every stage, known columns or not."""
    stream = prepared.stream
    rows = 0
    for column in stream.columns:
        number = len(column.test)
        if make_objective(column.objective, column.options).packs:
            # A token stands for a byte at least, but for the one that ends a text.
            number = (column.test.data.nbytes + number) // prepared.config.training.max_length + 1
        rows += number
    return PREDICTION_BYTES * rows * (1 + (1 if joint else len(stream.measured) or len(stream)))


def _counted(number: int, what: str, size: int) -> str:
    return f"{number} {what}{'s' * (number > 1)} of {shown(size)}"
