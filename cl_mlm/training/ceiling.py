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
    from cl_mlm.objective import Attainable, Obstacle
    from cl_mlm.stream import Column, Stream
    from cl_mlm.task import Task, Tasks

MOST_ROWS = 20_000  # rows of a column that are scored; of a larger one, rows at even spacing stand for all
BATCH_ROWS = 1000  # that are encoded at a time: a row that becomes many windows takes memory
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
        score: in 0-1; None: the rows that were scored do not tell it.
        metric: which metric that is.
        split: of the column.
        rows: rows that were scored.
        rows_of_split: rows that there are.
        causes: why it is below 1, the most frequent reason first.
        is_general: it holds of the rows that were not scored, too.
    """

    score: float | None
    metric: str
    split: str
    rows: int
    rows_of_split: int
    causes: tuple[Cause, ...]
    is_general: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether every answer that was looked at can be right."""
        return self.score is not None and self.score > 1 - ROUNDING

    def note(self, column: str) -> str:
        """Returns in words how much a perfect model reaches on a column of this name, and why not all."""
        name, sample = f"column {column!r}", f"{self.rows:,} of {self.rows_of_split:,} {self.split} rows"
        if self.score is None:
            return f"{name}: what a perfect model reaches ({self.metric}) is not known: looked at {sample}"
        if self.is_whole:
            return f"{name}: a perfect model can be right in all rows looked at ({self.metric}): {sample}"
        # Rounded down: what is below 1 must not read as 1.
        reached = f"{name}: a perfect model reaches {int(self.score * 1000) / 1000:.3f} ({self.metric})"
        affected = sum(cause.rows for cause in self.causes)
        told = "; ".join(
            f"in {cause.rows:,} {cause.reason} (row {cause.row}{cause.example and ': '}{cause.example})"
            for cause in self.causes
        )
        sampled = f"; looked at {sample}" if self.rows < self.rows_of_split else ""
        return f"{reached}: {affected:,} of {self.rows:,} {self.split} rows cannot be right: {told}{sampled}"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        values = {**asdict(self), "causes": [asdict(cause) for cause in self.causes]}
        del values["is_general"]  # it is for the note alone
        return values


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
    """Returns a line for every column on which not every answer can be right, or not all rows were looked at."""
    return [
        ceiling.note(name)
        for name, ceiling in found.items()
        if ceiling is not None and not (ceiling.is_whole and ceiling.is_general)
    ]


def as_dict(found: Mapping[str, Ceiling | None]) -> dict[str, Any]:
    """Returns plain values, for JSON."""
    return {name: None if ceiling is None else ceiling.to_dict() for name, ceiling in found.items()}


def _ceiling(
    column: Column, task: Task, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Ceiling | None:
    objective, dataset = task.objective, column.split(split).with_format(None)
    # Where the answer is not known, no row is read.
    is_known = objective.choice_metric is not None or type(objective).attainable is not Objective.attainable
    if not is_known or not len(dataset):
        return None
    positions = np.linspace(0, len(dataset) - 1, min(len(dataset), MOST_ROWS)).round().astype(np.int64).tolist()
    is_sample = len(positions) < len(dataset)
    parts: list[Attainable] = []
    references: list[Any] = []
    for start in range(0, len(positions), BATCH_ROWS):
        rows = dataset[positions[start : start + BATCH_ROWS]]
        part = objective.attainable(rows, tokenizer, task.labels.index, max_length, column.labels)
        if part is None:
            return None
        parts.append(part)
        references += objective.references(rows)
    values = [value for part in parts for value in part.values]
    score: float | None = float(objective.score(values, references, column.labels)["score"])
    whole = score is not None and score > 1 - ROUNDING
    pairs = zip(objective.within(values, column.labels), objective.within(references, column.labels), strict=True)
    is_lost = [value != reference for value, reference in pairs]
    obstacles = [obstacle for part in parts for obstacle in part.obstacles]
    if any(is_lost):
        # What keeps a row from being right though it has its answer, such as rows without an entity, holds of a batch.
        obstacles = [obstacle if lost else None for obstacle, lost in zip(obstacles, is_lost, strict=True)]
    elif not whole and is_sample:
        score = None  # it is the sample that cannot be scored, such as one without an entity
    causes = () if whole or score is None else _causes(obstacles, positions)
    is_general = not is_sample or any(part.is_general for part in parts)
    return Ceiling(score, parts[0].metric, split, len(positions), len(dataset), causes, is_general)


def _causes(obstacles: Sequence[Obstacle | None], positions: Sequence[int]) -> tuple[Cause, ...]:
    with_obstacle = [(obstacle, place) for obstacle, place in zip(obstacles, positions, strict=True) if obstacle]
    first = {obstacle.reason: (place, obstacle.example) for obstacle, place in reversed(with_obstacle)}
    counts = Counter(obstacle.reason for obstacle, _ in with_obstacle)
    return tuple(Cause(reason, number, *first[reason]) for reason, number in counts.most_common())
