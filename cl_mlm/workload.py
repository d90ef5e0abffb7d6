"""How much a prepared run will do: optimiser steps and scored rows of every stage, counted before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_mlm.labels import LabelSpace
from cl_mlm.loop import num_steps, steps_per_epoch

if TYPE_CHECKING:
    from cl_mlm.preparation import Prepared


@dataclass(frozen=True)
class StageWork:
    """What one stage asks for; a stage that is not trained by itself (joint) asks for nothing.

    Attributes:
        rows: that training goes through in an epoch; None: a strategy chooses them.
        steps: optimiser steps, at most, where training stops early; None: not known before.
        validated: rows scored within training, for early stopping, at most.
        scored: rows scored after the stage and, for the first, before it.
    """

    rows: int | None
    steps: int | None
    validated: int
    scored: int


def workload(prepared: Prepared) -> list[StageWork]:
    """Returns the work of every stage, in order; stages taken over from other runs count as if they were trained."""
    num_stages = len(prepared.stream)
    regimes = {strategy.regime for strategy in prepared.strategies}
    chosen = any(strategy.overrides("training_data") for strategy in prepared.strategies)
    is_joint = "joint" in regimes
    work = []
    for i in range(num_stages):
        if is_joint and i < num_stages - 1:
            work.append(StageWork(0, 0, 0, 0))
            continue
        parts = range(i + 1) if regimes - {"sequential"} else range(i, i + 1)
        rows = None if chosen else sum(len(prepared.stream.stages[j].train) for j in parts)
        steps = _steps(prepared, rows)
        is_first = is_joint or i == 0
        scored = _scored_after(prepared, i) + (_scored_before(prepared) if is_first else 0)
        work.append(StageWork(rows, steps, _validated(prepared, parts, rows, steps), scored))
    return work


def known_rows(prepared: Prepared, last_stage: int, splits: Sequence[str], *, fully: bool = False) -> int:
    """Returns the rows of the columns of whose labels any (`fully`: all) are known with those of `last_stage`."""
    stream = prepared.stream
    labels = LabelSpace(stream, prepared.objective.classes)
    labels.begin(last_stage, -1)
    columns = [j for j in range(len(stream)) if labels.known(j)[1 if fully else 0]]
    return sum(len(stream.stages[j].split(split)) for j in columns for split in splits)


def _scored_after(prepared: Prepared, stage_index: int) -> int:
    return known_rows(prepared, stage_index, prepared.config.evaluation.splits)


def _scored_before(prepared: Prepared) -> int:
    """Returns the test rows of the baseline: columns whose labels the untrained model all knows."""
    return known_rows(prepared, 0, ["test"], fully=True) if "test" in prepared.config.evaluation.splits else 0


def _steps(prepared: Prepared, rows: int | None) -> int | None:
    if rows is None:
        fixed = prepared.config.training.steps
        return None if fixed is None else num_steps(prepared.config, 0)
    return num_steps(prepared.config, rows)


def _validated(prepared: Prepared, parts: range, rows: int | None, steps: int | None) -> int:
    if not prepared.config.training.patience or not rows or steps is None:
        return 0
    epochs = -(-steps // steps_per_epoch(prepared.config, rows))
    return epochs * sum(len(prepared.stream.stages[j].validation) for j in parts)
