"""Disk: how much of it a run will take, told before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.config.components import make_objective
from cl_mlm.config.schema import Config
from cl_mlm.data.tasks import tasks_of
from cl_mlm.errors import UnreachableModelError
from cl_mlm.models.size import ModelSize, number_bytes, size_of_tasks

if TYPE_CHECKING:
    from cl_mlm.experiment.preparation import Prepared

KEPT = 2  # checkpoints of each kind while a run goes on
MOMENTS = {"adamw": 2, "sgd": 1}
# Upper bound of a row's entry in `predictions/<i>.parquet`: an id, two numbers, two labels and a column as indices.
PREDICTION_BYTES = 40


def disk_lines(prepared: Prepared, size: ModelSize | None = None) -> list[str]:
    """Returns what a run writes at most while it goes on, and leaves; or why that is not known.

    Args:
        prepared: the run.
        size: of its model; None: is looked up.
    """
    try:
        size = size or size_of_tasks(prepared.config, tasks_of(prepared.stream))
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
