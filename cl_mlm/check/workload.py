"""Counts the optimiser steps and the scored rows of every stage before a run starts.

`num_steps` of the training loop is used, so that the numbers are those of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_mlm.check.token_lengths import BLOCK, StreamLengths
from cl_mlm.data.tasks import tasks_of
from cl_mlm.experiment.stage_steps import rows_by_task, steps_with
from cl_mlm.stream import SPLITS
from cl_mlm.training.evaluation import scorable_columns
from cl_mlm.training.loop import steps_per_epoch

if TYPE_CHECKING:
    from cl_mlm.config.schema import TrainingConfig
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.task import Tasks

# By split: the rows of every stage (`train`) or column. None: they are packed, and the number of blocks is not known.
RowCounts = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True)
class StageWork:
    """The work of one stage. A joint run trains in its last stage only: the stages before it have no work.

    Attributes:
        rows: training rows of an epoch; None: a strategy chooses them, or the number of blocks is not known.
        steps: optimiser steps, at most where training stops early; None: not known.
        validated: rows scored during training for early stopping, at most.
        scored: rows scored after the stage and, for the first one, before it; None: not known.
    """

    rows: int | None
    steps: int | None
    validated: int
    scored: int | None


NO_WORK = StageWork(rows=0, steps=0, validated=0, scored=0)


def workload(prepared: Prepared, lengths: StreamLengths | None = None) -> list[StageWork]:
    """Returns the work of every stage, in order.

    Stages that may be taken over from another run count as if they were trained.

    Args:
        prepared: the run.
        lengths: of its stream; they hold the number of blocks of packed splits. None: not known.
    """
    stream, is_joint = prepared.stream, prepared.is_joint
    tasks = tasks_of(stream)
    counts = _row_counts(tasks, prepared, lengths)
    is_sequential = all(strategy.regime == "sequential" for strategy in prepared.strategies)
    columns_of_stage = _columns_by_stage(prepared)
    work: list[StageWork] = []
    columns: set[int] = set()  # of all stages that the present one trains on
    for i, rows in enumerate(rows_by_task(prepared, tasks.keys, counts["train"])):
        columns = (set() if is_sequential else columns) | columns_of_stage.get(i, set())
        if is_joint and i < len(stream) - 1:
            work.append(NO_WORK)
            continue
        steps = steps_with(prepared, i, rows)
        scored = _scored_after(prepared, tasks, counts, i)
        if is_joint or i == 0:
            scored = _sum([scored, _scored_before(prepared, tasks, counts)])
        validated = _validated(prepared.training(i), rows, steps, [counts["validation"][j] for j in sorted(columns)])
        work.append(StageWork(None if rows is None else sum(rows), steps, validated, scored))
    return work


def _row_counts(tasks: Tasks, prepared: Prepared, lengths: StreamLengths | None) -> RowCounts:
    """Returns the rows of every split as a run counts them: blocks where they are packed."""
    counts: dict[str, list[int | None]] = {}
    for split in SPLITS:
        counts[split] = []
        for i, (owner, task) in enumerate(zip(prepared.stream.owners(split), tasks.keys_of(split), strict=True)):
            num_rows: int | None = len(owner.split(split))
            if num_rows and tasks.by_key[task].objective.packs:
                num_rows = None if lengths is None else len(lengths[i, split][BLOCK].whole)
            counts[split].append(num_rows)
    return counts


def _columns_by_stage(prepared: Prepared) -> dict[int, set[int]]:
    """Returns the indices of the columns that each stage trains for."""
    columns: dict[int, set[int]] = {}
    for j, column in enumerate(prepared.stream.columns):
        for i in column.trained_in:
            columns.setdefault(i, set()).add(j)
    return columns


def _scored_after(prepared: Prepared, tasks: Tasks, counts: RowCounts, stage_index: int) -> int | None:
    """Returns the rows scored after a stage: those of all columns of which a label is known by then."""
    if not prepared.stream.is_measured(stage_index):
        return 0
    tasks.count_labels(stage_index, -1)
    splits = prepared.config.evaluation.splits
    return _sum([counts[split][j] for split in splits for j in scorable_columns(prepared.stream, tasks, split)])


def _scored_before(prepared: Prepared, tasks: Tasks, counts: RowCounts) -> int | None:
    """Returns the rows scored for the baseline: the test rows of columns whose labels are all known at the start."""
    if "test" not in prepared.config.evaluation.splits:
        return 0
    tasks.count_labels(0, -1)
    columns = enumerate(prepared.stream.columns)
    return _sum([counts["test"][j] for j, column in columns if tasks.of_column(j).labels.knows_all(column.labels)])


def _sum(numbers: Sequence[int | None]) -> int | None:
    """Returns the sum; None if a number is not known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _validated(
    training: TrainingConfig, task_rows: Sequence[int] | None, steps: int | None, validation_rows: Sequence[int | None]
) -> int:
    """Returns the rows that early stopping scores: the validation rows of the stage's columns after every epoch."""
    if not training.patience or not task_rows or not sum(task_rows) or steps is None:
        return 0
    epochs = -(-steps // steps_per_epoch(training, task_rows))
    return epochs * (_sum(validation_rows) or 0)
