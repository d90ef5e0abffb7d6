"""Tasks: the objectives of a stream, each once, with the labels that its own stages bring.

A stage has one objective; stages whose objective and options are equal share one task, its labels and its head.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from cl_mlm.stream import Stream, unpack_row_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from cl_mlm.objective import Objective


class LabelSpace:
    """The labels of a run, in the order in which stages bring them, and the classes that stand for them.

    `seen` and `old` move forward with `count`; the model never knows more than `seen`. A class is what the model
    chooses: the label itself, or with tags `B-` and `I-` of every label beside `O`.

    Args:
        stream: whose labels.
        classes: classes for the first k labels, such as `Objective.classes`; None: a label is a class.

    Attributes:
        names: all labels.
        index: every label to its place among them.
        classes: all classes; position = output of the model.
        shared: indices of the classes that stand for no label.
    """

    def __init__(self, stream: Stream, classes: Callable[[Sequence[str]], list[str]] | None = None) -> None:
        self.names: tuple[str, ...] = stream.labels
        self.index: dict[str, int] = {name: i for i, name in enumerate(self.names)}
        count = list if classes is None else classes
        self.classes: tuple[str, ...] = tuple(count(self.names))
        self._ends = [len(count(self.names[:k])) for k in range(len(self.names) + 1)]
        self.shared = tuple(range(self._ends[0]))
        self._by_stage = tuple(tuple(self.index[label] for label in stage.labels) for stage in stream.stages)
        brought = (max((i + 1 for i in own), default=0) for own in self._by_stage)
        self._num_by_stage = tuple(accumulate(brought, max, initial=0))
        self._num_seen = 0
        self._num_old = 0

    def count(self, last_stage: int, last_trained: int) -> None:
        """Counts the labels up to `last_stage` as seen and those up to `last_trained` (-1: none) as old."""
        self._num_seen, self._num_old = self._through(last_stage), self._through(last_trained)

    def _through(self, stage_index: int) -> int:
        return self._num_by_stage[min(stage_index + 1, len(self._by_stage))]

    @property
    def seen(self) -> tuple[str, ...]:
        """Labels of this stage and of those before it."""
        return self.names[: self._num_seen]

    @property
    def old(self) -> tuple[str, ...]:
        """Labels that the model knew before this stage."""
        return self.names[: self._num_old]

    @property
    def num_classes(self) -> int:
        """Classes of the labels seen, shared ones included."""
        return self._ends[self._num_seen]

    @property
    def num_old_classes(self) -> int:
        """Classes that the model knew before this stage; 0 before the first is trained."""
        return self._ends[self._num_old] if self._num_old else 0

    def of(self, stage_index: int) -> tuple[int, ...]:
        """Indices of the classes of a stage's own labels, without the shared ones."""
        return tuple(c for label in self._by_stage[stage_index] for c in self._classes_of(label))

    def _classes_of(self, label: int) -> range:
        """Returns the classes that stand for one label, by its place in `names`."""
        return range(self._ends[label], self._ends[label + 1])

    def allowed(self, labels: Sequence[str]) -> list[int]:
        """Indices of the classes that stand for `labels` or for none, as far as seen."""
        of_labels = (c for label in labels for c in self._classes_of(self.index[label]))
        return [c for c in (*self.shared, *of_labels) if c < self.num_classes]

    def knows_any(self, labels: Sequence[str]) -> bool:
        """Says whether at least one of `labels` is seen; true where there are none, as of objectives without labels."""
        return not labels or any(self.index[label] < self._num_seen for label in labels)

    def knows_all(self, labels: Sequence[str]) -> bool:
        """Says whether all of `labels` are seen."""
        return all(self.index[label] < self._num_seen for label in labels)


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
        """Returns the key of every owner of the rows of a split: of stages for `train`, else of columns."""
        return self.keys if split == "train" else self.column_keys

    def count_labels(self, last_stage: int, last_trained: int) -> None:
        """Counts labels as seen and as old for every task; see `LabelSpace.count`."""
        for task in self:
            task.labels.count(last_stage, last_trained)

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
