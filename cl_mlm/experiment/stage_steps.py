"""Counts the optimiser steps of every stage before a run starts, with the `num_steps` of the training loop."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cl_mlm.data.tasks import tasks_of
from cl_mlm.training.loop import num_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cl_mlm.experiment.preparation import Prepared


def stage_steps(prepared: Prepared) -> list[int | None]:
    """Returns the optimiser steps of every stage, at most where it may stop early; None: not known before it begins."""
    tasks = tasks_of(prepared.stream)
    rows = [
        None if tasks.by_key[key].objective.packs and len(stage.train) else len(stage.train)
        for key, stage in zip(tasks.keys, prepared.stream.stages, strict=True)
    ]
    return [steps_with(prepared, i, of_stage) for i, of_stage in enumerate(rows_by_task(prepared, tasks.keys, rows))]


def rows_by_task(prepared: Prepared, keys: Sequence[str], rows: Sequence[int | None]) -> list[list[int] | None]:
    """Returns the rows of every task that each stage trains on; None: not known, or a strategy chooses them.

    Args:
        prepared: the run.
        keys: the task of every stage.
        rows: training rows of every stage; None: not known.
    """
    is_sequential = all(strategy.regime == "sequential" for strategy in prepared.strategies)
    is_chosen = any(strategy.overrides("training_data") for strategy in prepared.strategies)
    counted: list[list[int] | None] = []
    task_rows: Counter[str] = Counter()
    is_known = not is_chosen
    for i, (key, num_rows) in enumerate(zip(keys, rows, strict=True)):
        if is_sequential:
            task_rows, is_known = Counter(), not is_chosen
        task_rows[key] += num_rows or 0
        is_known = is_known and num_rows is not None
        if prepared.is_joint and i < len(keys) - 1:
            counted.append([])  # a joint run trains in its last stage only
        else:
            counted.append([*task_rows.values()] if is_known else None)
    return counted


def steps_with(prepared: Prepared, stage_index: int, task_rows: Sequence[int] | None) -> int | None:
    """Returns the optimiser steps of a stage with these rows of every task; None: not known."""
    training, limit = prepared.training(stage_index), prepared.config.limit
    if task_rows is not None:
        return num_steps(training, task_rows, limit)
    if training.steps is None:
        return None
    return num_steps(training, [1], limit)  # a fixed number of steps needs one row at least
