"""The ceiling of every column: the score of its own references, after what a model's answer goes through.

An entity on a word without a token, or an answer that the vocabulary cannot write, costs every model the same. No model
runs for it: `Objective.attainable` says what encoding and decoding leave of the references.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_mlm.objective import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from cl_mlm.config.schema import Config
    from cl_mlm.objective import Attainable
    from cl_mlm.stream import Column, Stream
    from cl_mlm.task import Task, Tasks

MOST_ROWS = 1000  # rows of a column that are scored; of a larger one, rows at even spacing stand for all
ROUNDING = 1e-6


@dataclass(frozen=True)
class Cause:
    """One reason why rows cannot be right.

    Attributes:
        reason: in words that hold of all of them.
        rows: how many there are.
        row: the position of the first in its split.
        example: what it is there; may be empty.
    """

    reason: str
    rows: int
    row: int
    example: str


@dataclass(frozen=True)
class Ceiling:
    """The score that a perfect model reaches on a column.

    Attributes:
        score: in 0-1.
        metric: which metric that is.
        split: of the column.
        rows: rows that were scored.
        rows_of_split: rows that there are.
        causes: why it is below 1, the most frequent reason first.
    """

    score: float
    metric: str
    split: str
    rows: int
    rows_of_split: int
    causes: tuple[Cause, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every answer can be right."""
        return self.score > 1 - ROUNDING

    def note(self, column: str) -> str:
        """Returns in words how much a perfect model reaches on a column of this name, and why not all."""
        # Rounded down: what is below 1 must not read as 1.
        reached = f"column {column!r}: a perfect model reaches {int(self.score * 1000) / 1000:.3f} ({self.metric})"
        sampled = f" looked at ({self.rows_of_split:,} in all)" if self.rows < self.rows_of_split else ""
        affected = sum(cause.rows for cause in self.causes)
        told = "; ".join(
            f"in {cause.rows:,} {cause.reason} (row {cause.row}{cause.example and ': '}{cause.example})"
            for cause in self.causes
        )
        return f"{reached}: {affected:,} of {self.rows:,} {self.split} rows{sampled} cannot be right: {told}"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return {**asdict(self), "causes": [asdict(cause) for cause in self.causes]}


Ceilings = dict[str, "Ceiling | None"]


def ceilings(stream: Stream, tasks: Tasks, tokenizer: PreTrainedTokenizerBase, config: Config) -> Ceilings:
    """Returns the ceiling of every column by its name; None: not known.

    It is over the test rows, or where these are not evaluated over the validation rows.
    """
    split = "test" if "test" in config.evaluation.splits else "validation"
    return {
        column.name: _ceiling(column, tasks.of_column(j), split, tokenizer, config.training.row_length)
        for j, column in enumerate(stream.columns)
    }


def ceiling_notes(found: Mapping[str, Ceiling | None]) -> list[str]:
    """Returns a line for every column on which not every answer can be right."""
    return [ceiling.note(name) for name, ceiling in found.items() if ceiling is not None and not ceiling.is_whole]


def as_dict(found: Mapping[str, Ceiling | None]) -> dict[str, Any]:
    """Returns plain values, for JSON."""
    return {name: None if ceiling is None else ceiling.to_dict() for name, ceiling in found.items()}


def _ceiling(
    column: Column, task: Task, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Ceiling | None:
    objective, dataset = task.objective, column.split(split).with_format(None)
    # Where the answer is not known, no row is read.
    if type(objective).attainable is Objective.attainable or not len(dataset):
        return None
    positions = np.linspace(0, len(dataset) - 1, min(len(dataset), MOST_ROWS)).round().astype(np.int64).tolist()
    rows = dataset[positions]
    found = objective.attainable(rows, tokenizer, task.labels.index, max_length, column.labels)
    if found is None:
        return None
    references = objective.references(rows)
    score = objective.score(found.values, references, column.labels)["score"]
    whole = score > 1 - ROUNDING
    if not whole and len(positions) < len(dataset) and found.values == references:
        return None  # it is the sample that cannot be scored, such as one without an entity
    causes = () if whole else _causes(found, positions)
    return Ceiling(float(score), found.metric, split, len(positions), len(dataset), causes)


def _causes(found: Attainable, positions: Sequence[int]) -> tuple[Cause, ...]:
    with_obstacle = [(obstacle, place) for obstacle, place in zip(found.obstacles, positions, strict=True) if obstacle]
    first = {obstacle.reason: (place, obstacle.example) for obstacle, place in reversed(with_obstacle)}
    counts = Counter(obstacle.reason for obstacle, _ in with_obstacle)
    return tuple(Cause(reason, number, *first[reason]) for reason, number in counts.most_common())
