"""How much a prepared run will do: optimiser steps and scored rows of every stage, counted before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_mlm.check.token_lengths import BLOCK, StreamLengths
from cl_mlm.data.tasks import tasks_of
from cl_mlm.stream import SPLITS
from cl_mlm.task import Tasks
from cl_mlm.training.evaluation import scorable_columns
from cl_mlm.training.loop import num_steps, steps_per_epoch

if TYPE_CHECKING:
    from cl_mlm.experiment.preparation import Prepared

RowCounts = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True)
class StageWork:
    """What one stage asks for; a stage that is not trained by itself (joint) asks for nothing.

    Attributes:
        rows: that training goes through in an epoch; None: a strategy chooses them, or packing has not been tried.
        steps: optimiser steps, at most, where training stops early; None: not known before.
        validated: rows scored within training, for early stopping, at most.
        scored: rows scored after the stage and, for the first, before it; None: packing has not been tried.
    """

    rows: int | None
    steps: int | None
    validated: int
    scored: int | None


def row_counts(tasks: Tasks, prepared: Prepared, lengths: StreamLengths | None) -> RowCounts:
    """Returns by split the rows of every stage (`train`) or column as a run counts them: blocks where they are packed.

    None stands where they are packed and `lengths` are not known.
    """
    counts: dict[str, list[int | None]] = {}
    for split in SPLITS:
        counts[split] = []
        for i, (part, key) in enumerate(zip(prepared.stream.owners(split), tasks.keys_of(split), strict=True)):
            number: int | None = len(part.split(split))
            if number and tasks.by_key[key].objective.packs:
                number = None if lengths is None else len(lengths[i, split][BLOCK].whole)
            counts[split].append(number)
    return counts


def workload(prepared: Prepared, lengths: StreamLengths | None = None) -> list[StageWork]:
    """Returns the work of every stage, in order; stages taken over from other runs count as if they were trained.

    Args:
        prepared: the run.
        lengths: of its stream, by which the blocks of packed rows are counted; None: they are not known.
    """
    stream = prepared.stream
    tasks = tasks_of(stream)
    counts = row_counts(tasks, prepared, lengths)
    regimes = {strategy.regime for strategy in prepared.strategies}
    chosen = any(strategy.overrides("training_data") for strategy in prepared.strategies)
    is_joint, grows = "joint" in regimes, bool(regimes - {"sequential"})
    trained_for = _columns_by_stage(prepared)
    work: list[StageWork] = []
    by_task: Counter[str] = Counter()
    columns: set[int] = set()
    is_known = not chosen
    for i, key in enumerate(tasks.keys):
        if not grows:
            by_task, columns, is_known = Counter(), set(), not chosen
        number = counts["train"][i]
        by_task[key] += number or 0
        columns |= trained_for.get(i, set())
        is_known = is_known and number is not None
        if is_joint and i < len(stream) - 1:
            work.append(StageWork(0, 0, 0, 0))
            continue
        rows = [*by_task.values()] if is_known else None
        steps = _steps(prepared, rows)
        scored = _scored_after(prepared, tasks, counts, i)
        if is_joint or i == 0:
            before = _scored_before(prepared, tasks, counts)
            scored = None if scored is None or before is None else scored + before
        validated = _validated(prepared, rows, steps, [counts["validation"][j] for j in sorted(columns)])
        work.append(StageWork(None if rows is None else sum(rows), steps, validated, scored))
    return work


def _columns_by_stage(prepared: Prepared) -> dict[int, set[int]]:
    """Returns the columns that each stage trains for."""
    found: dict[int, set[int]] = {}
    for j, column in enumerate(prepared.stream.columns):
        for i in column.trained_in:
            found.setdefault(i, set()).add(j)
    return found


def _scored_after(prepared: Prepared, tasks: Tasks, counts: RowCounts, stage_index: int) -> int | None:
    if not prepared.stream.is_measured(stage_index):
        return 0
    tasks.count_labels(stage_index, -1)
    splits = prepared.config.evaluation.splits
    return _sum([counts[split][j] for split in splits for j in scorable_columns(prepared.stream, tasks, split)])


def _scored_before(prepared: Prepared, tasks: Tasks, counts: RowCounts) -> int | None:
    """Returns the test rows of the baseline: columns whose labels the untrained model all knows."""
    if "test" not in prepared.config.evaluation.splits:
        return 0
    tasks.count_labels(0, -1)
    every = enumerate(prepared.stream.columns)
    return _sum([counts["test"][j] for j, column in every if tasks.of_column(j).labels.known(column.labels)[1]])


def _sum(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _steps(prepared: Prepared, task_rows: Sequence[int] | None) -> int | None:
    if task_rows is not None:
        return num_steps(prepared.config, task_rows)
    # Of rows that a strategy chooses only a fixed number of steps is known, if they are any.
    return None if prepared.config.training.steps is None else num_steps(prepared.config, [1])


def _validated(
    prepared: Prepared, task_rows: Sequence[int] | None, steps: int | None, validation: Sequence[int | None]
) -> int:
    if not prepared.config.training.patience or not task_rows or not sum(task_rows) or steps is None:
        return 0
    epochs = -(-steps // steps_per_epoch(prepared.config, task_rows))
    return epochs * (_sum(validation) or 0)
