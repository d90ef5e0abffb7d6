"""Readings: further numbers that are taken before training and after every stage, beside the accuracy matrix."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cl_mlm.training.evaluation import FREE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cl_mlm.experiment.record import Record
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.training.evaluation import Evaluated


def add_readings(record: Record, journal: Journal, values: Mapping[str, float], after: int) -> None:
    """Puts readings into record and journal.

    Args:
        record: gets entry `after + 1` of every reading.
        journal: gets them at step `after`, before training as `baseline_<name>` at step 0.
        values: by name; NaN: not taken.
        after: the last stage that was trained; -1: none.
    """
    for name, value in values.items():
        of_stages = record.readings.setdefault(name, [math.nan] * (len(record.matrix) + 1))
        of_stages[after + 1] = value
    known = {name if after >= 0 else f"baseline_{name}": value for name, value in values.items()}
    journal.metrics({name: value for name, value in known.items() if not math.isnan(value)}, max(0, after))


def free_readings(evaluated: Evaluated, column_slugs: Sequence[str]) -> dict[str, float]:
    """Returns by `free/<column>` the scores of what a model said freely whose answers were confined to a list."""
    key = f"{FREE}score"
    return {f"free/{column_slugs[j]}": values[key] for j, values in evaluated.scores.items() if key in values}
