"""Tasks: the objectives of a stream, each once, with the labels that its own stages bring.

A stage has one objective; stages whose objective and options are equal share one task, its labels and its head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cl_mlm.config.components import make_objective
from cl_mlm.data.label_columns import LabelSpace
from cl_mlm.stream import Column, Stage, Stream, unpack_row_ids

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cl_mlm.objective import Objective


@dataclass(frozen=True)
class Task:
    """One objective of a stream.

    Attributes:
        key: its name; with `-2`, `-3` where the stream has that objective with other options before.
        labels: those of its own stages alone; as a stage of another task has none, `labels.of` is empty there.
        stages: the stages that ask it, ascending.
        first_labels: those of the first of them.
    """

    key: str
    objective: Objective
    labels: LabelSpace
    stages: tuple[int, ...]
    first_labels: tuple[str, ...]


class Tasks:
    """The tasks of a stream, in the order in which its stages bring them.

    Attributes:
        by_key: every task.
        keys: of every stage, the key of its task.
        column_keys: of every column.
    """

    def __init__(self, by_key: Mapping[str, Task], keys: Sequence[str], column_keys: Sequence[str]) -> None:
        self.by_key, self.keys, self.column_keys = dict(by_key), tuple(keys), tuple(column_keys)

    @classmethod
    def single(cls, stream: Stream, objective: Objective, labels: LabelSpace) -> Tasks:
        """Returns the one task of a stream whose every stage and column has `objective`."""
        every = tuple(range(len(stream.stages)))
        first = stream.stages[0].labels if every else ()
        task = Task(objective.name, objective, labels, every, tuple(first))
        return cls({task.key: task}, [task.key] * len(every), [task.key] * len(stream.columns))

    @classmethod
    def of_stream(cls, stream: Stream, objectives: Mapping[str, Objective] | None = None) -> Tasks:
        """Returns the tasks of a stream; `objectives`, by key, are used in place of new ones."""
        keys, found = objectives_of(stream)
        of = dict(zip(map(identity, stream.stages), keys, strict=True))
        found |= objectives or {}
        tasks = {}
        for key, objective in found.items():
            own = tuple(j for j, name in enumerate(keys) if name == key)
            # A stage of another task brings none of this one's labels.
            stages = [s if j in own else replace(s, labels=()) for j, s in enumerate(stream.stages)]
            labels = LabelSpace(replace(stream, stages=tuple(stages)), objective.classes)
            tasks[key] = Task(key, objective, labels, own, tuple(stages[own[0]].labels))
        return cls(tasks, keys, [of[identity(column)] for column in stream.columns])

    def __iter__(self) -> Iterator[Task]:
        return iter(self.by_key.values())

    def __len__(self) -> int:
        return len(self.by_key)

    def at(self, stage_index: int) -> Task:
        """Returns the task of a stage."""
        return self.by_key[self.keys[stage_index]]

    def of_column(self, column: int) -> Task:
        """Returns the task of a column."""
        return self.by_key[self.column_keys[column]]

    def keys_of(self, split: str) -> tuple[str, ...]:
        """Returns the keys of the parts that the rows of a split belong to: stages for `train`, else columns."""
        return self.keys if split == "train" else self.column_keys

    def begin(self, last_stage: int, last_trained: int) -> None:
        """Counts labels as seen and as old for every task; see `LabelSpace.begin`."""
        for task in self:
            task.labels.begin(last_stage, last_trained)

    def codes(self, ids: npt.NDArray[np.int64], split: str = "train") -> npt.NDArray[np.int64]:
        """Returns the place of every row's task among all, (N,)."""
        import numpy as np

        order = {key: place for place, key in enumerate(self.by_key)}
        return np.array([order[key] for key in self.keys_of(split)], dtype=np.int64)[unpack_row_ids(ids)[0]]

    def split(self, ids: npt.NDArray[np.int64], split: str = "train") -> list[npt.NDArray[np.int64]]:
        """Returns where in `ids` the rows of every task are that has some, each ascending."""
        import numpy as np

        if len(self) == 1:
            return [np.arange(len(ids))] if len(ids) else []
        codes = self.codes(ids, split)
        return [np.flatnonzero(codes == code) for code in np.unique(codes)]


def objectives_of(stream: Stream) -> tuple[tuple[str, ...], dict[str, Objective]]:
    """Returns the key of every stage's objective, and the objectives by key, in the order of the stages.

    Raises:
        ConfigError: there is no such objective, or it has no such option.
    """
    keys: list[str] = []
    found: dict[str, Objective] = {}
    known: dict[tuple[str, str], str] = {}
    for stage in stream.stages:
        same = identity(stage)
        if same not in known:
            made = make_objective(stage.objective, stage.options)
            number = 1 + sum(other.name == made.name for other in found.values())
            known[same] = made.name if number == 1 else f"{made.name}-{number}"
            found[known[same]] = made
        keys.append(known[same])
    return tuple(keys), found


def identity(part: Stage | Column) -> tuple[str, str]:
    """Returns what two stages or columns of one task have alike: the objective, and its options, defaults filled in.

    Raises:
        ConfigError: there is no such objective, or it has no such option.
    """
    made = make_objective(part.objective, part.options)
    return f"{type(made).__module__}.{type(made).__qualname__}", repr(sorted(made.options().items()))


def foreign_columns(stream: Stream) -> list[str]:
    """Returns a line for every column whose objective no stage has: there is no head for it."""
    known = {identity(stage) for stage in stream.stages}
    return [
        f"column {column.name!r}: its objective must be that of a stage, options included, got {column.objective} "
        f"{dict(column.options)}"
        for column in stream.columns
        if identity(column) not in known
    ]
