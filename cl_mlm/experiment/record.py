"""Record: what has been measured of a run so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_mlm.training.cost import StageCost


MATRICES = ("matrix", "validation")


@dataclass
class Record:
    """Scores, flags and cost of the stages measured so far; a checkpoint carries it.

    Attributes:
        matrix: test scores, (stages, columns); NaN where nothing was measured.
        validation: the same on the validation splits.
        baseline: test scores before any training, (columns,).
        next_stage: the first stage that is not yet trained and measured.
        reused: stages that another run had trained, `stage` and `run`.
        prompting: scores of prompts for each number of demonstrations, (1 + stages, prompted columns): before any
            training, then after every stage.
        readings: further numbers by name, before training and after every stage, (1 + stages,); NaN where none was
            taken.
        tables: length and digest of every table of predictions (`whole_files.extent_of`), by its name.
    """

    matrix: list[list[float]]
    validation: list[list[float]]
    baseline: list[float]
    flags: list[str] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    next_stage: int = 0
    reused: list[dict[str, str]] = field(default_factory=list)
    prompting: dict[str, list[list[float]]] = field(default_factory=dict)
    readings: dict[str, list[float]] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def empty(cls, num_stages: int, num_columns: int) -> Record:
        """Returns the record of a run that has measured nothing."""

        def unknown() -> list[list[float]]:
            return [[math.nan] * num_columns for _ in range(num_stages)]

        return cls(unknown(), unknown(), [math.nan] * num_columns)

    def add_cost(self, cost: StageCost, eval_seconds: float, sizes: Mapping[str, float]) -> None:
        """Adds a stage's cost to the sums; sizes are as large as they ever were."""
        spent = {
            "train_seconds": cost.train_seconds,
            "eval_seconds": eval_seconds,
            "train_examples": cost.train_examples,
            "train_tokens": cost.train_tokens,
            "hook_examples": cost.hook_examples,
            "hook_tokens": cost.hook_tokens,
        }
        for name, value in spent.items():
            self.cost[name] = self.cost.get(name, 0) + value
        for name, size in sizes.items():
            self.cost[name] = max(self.cost.get(name, 0), size)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, NaN as None."""
        # By hand: every checkpoint holds the record, and `asdict` takes ten times as long with 10,000 stages.
        matrices = {name: _without_nan(getattr(self, name)) for name in MATRICES}
        return {name: matrices[name] if name in matrices else without_nan(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """Returns the record that `to_dict` gave."""
        restored = dict(values)
        for name in MATRICES:
            restored[name] = _with_nan(values[name])
        restored["prompting"] = {shots: _with_nan(rows) for shots, rows in values.get("prompting", {}).items()}
        readings = values.get("readings", {})
        restored["readings"] = dict(zip(readings, _with_nan([*readings.values()]), strict=True))
        restored["baseline"] = [math.nan if x is None else x for x in values["baseline"]]
        return cls(**restored)


def _with_nan(rows: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[math.nan if x is None else x for x in row] for row in rows]


def _without_nan(rows: Sequence[Sequence[float]]) -> list[list[float | None]]:
    return [[None if math.isnan(x) else x for x in row] for row in rows]


def without_nan(value: Any) -> Any:
    """Returns `value` with every NaN replaced by None, so that it is valid JSON."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_nan(item) for item in value]
    return value
