"""Estimates how much disk a run takes: checkpoints, predictions, and the first stages that runs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.config.components import make_objective
from cl_mlm.data.tasks import tasks_of
from cl_mlm.disk import shown
from cl_mlm.errors import UnreachableModelError
from cl_mlm.experiment.kept_numbers import stage_bytes, step_bytes, uncounted_strategies
from cl_mlm.models.size import ModelSize, size_of_tasks

if TYPE_CHECKING:
    from cl_mlm.experiment.preparation import Prepared

KEPT = 2  # checkpoints of each kind while a run goes on; see `KEPT_WHILE_RUNNING` and `write_step`
# Upper bound for a row of `predictions/<stage>.parquet`: an id, two numbers, and two labels and a column as indices.
PREDICTION_BYTES = 40


def disk_lines(prepared: Prepared, size: ModelSize | None = None) -> list[str]:
    """Returns what a run writes at most while it goes on, and what it leaves; or why that is not known.

    Args:
        prepared: the run.
        size: of its model; None: it is looked up.
    """
    try:
        size = size or size_of_tasks(prepared.config, tasks_of(prepared.stream))
    except UnreachableModelError as error:
        return [f"disk: not known: {error}"]
    uncounted = uncounted_strategies(prepared, size, ["state_dict"])
    return [
        _run_line(prepared, size),
        *_shared_lines(prepared, size),
        *(f"disk: not counted: the state of {name}, whose size is not known" for name in uncounted),
    ]


def _run_line(prepared: Prepared, size: ModelSize) -> str:
    """Returns what the folder of the run holds at most while it goes on, and afterwards."""
    text, _ = _run_use(prepared, size)
    return text


def most_bytes(prepared: Prepared, size: ModelSize) -> float:
    """Returns the bytes that the folder of a run holds at most while it goes on."""
    return _run_use(prepared, size)[1]


def _run_use(prepared: Prepared, size: ModelSize) -> tuple[str, float]:
    """Returns the line on the folder of the run, and the bytes that it holds at most while the run goes on."""
    config = prepared.config
    of_stage, of_step = stage_bytes(prepared, size), step_bytes(prepared, size)
    num_measured = _num_measured(prepared)  # other stages leave no checkpoint: they are short, see `Experiment`
    keeps_all = config.checkpoint.keep_stages == "all"
    num_stages = num_measured if keeps_all else min(KEPT, num_measured)
    # With neither interval set, only an interruption writes a checkpoint within a stage, and only one.
    num_steps = KEPT if config.checkpoint.every_minutes or config.checkpoint.every_steps else 1
    # A new checkpoint is written before the oldest is removed, so that there is always a whole one.
    extra_stage = of_stage if not keeps_all and num_measured > KEPT else 0
    extra_step = of_step if num_steps == KEPT else 0
    checkpoint_bytes = num_stages * of_stage + num_steps * of_step + max(extra_stage, extra_step)
    predictions = _prediction_bytes(prepared) if "test" in config.evaluation.splits else 0
    num_left = {"all": num_measured, "last": 1, "none": 0}[config.checkpoint.keep_stages]
    text = (
        f"disk: while running at most {shown(checkpoint_bytes + predictions)} "
        f"({_counted(num_stages, 'stage checkpoint', of_stage)}, "
        f"{_counted(num_steps, 'step checkpoint', of_step)}, one more while it is written, "
        f"predictions {shown(predictions)}), afterwards {shown(num_left * of_stage + predictions)}"
    )
    return text, checkpoint_bytes + predictions


def _shared_lines(prepared: Prepared, size: ModelSize) -> list[str]:
    """Returns what the first stages take that the runs below one `output` share; nothing if none are shared."""
    config = prepared.config
    num_shared = min(config.checkpoint.reuse_stages, _num_measured(prepared))
    if config.limit is not None or not num_shared:
        return []
    return [f"disk: beside the runs, for all that share them, {_counted(num_shared, 'first stage', size.changing)}"]


def _num_measured(prepared: Prepared) -> int:
    """Returns after how many stages the columns are scored."""
    if prepared.is_joint:
        return 1
    return len(prepared.stream.measured) or len(prepared.stream)


def _prediction_bytes(prepared: Prepared) -> int:
    """Returns the bytes of a prediction for every test row, before training and after every measured stage.

    This is an upper bound: columns without a known label are not predicted.
    """
    num_rows = 0
    for column in prepared.stream.columns:
        if make_objective(column.objective, column.options).packs:
            # Rows are blocks then. A token stands for at least one byte, or ends a text.
            max_tokens = column.test.data.nbytes + len(column.test)
            num_rows += max_tokens // prepared.config.training.row_length + 1
        else:
            num_rows += len(column.test)
    return PREDICTION_BYTES * num_rows * (1 + _num_measured(prepared))


def _counted(number: int, noun: str, size: int) -> str:
    """Returns `2 stage checkpoints of 91 MB`."""
    plural = "s" if number > 1 else ""
    return f"{number} {noun}{plural} of {shown(size)}"
