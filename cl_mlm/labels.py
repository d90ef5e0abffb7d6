"""LabelSpace: which labels the model knows now, which it knew before this stage, and which belong to a stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cl_mlm.stream import Stream


class LabelSpace:
    """The labels of a run, in the order in which stages bring them, and the classes that stand for them.

    `seen` and `old` move forward with `begin`; the model never knows more than `seen`. A class is what the model
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
        self._num_seen = 0
        self._num_old = 0

    def begin(self, last_stage: int, last_trained: int) -> None:
        """Counts the labels up to `last_stage` as seen and those up to `last_trained` (-1: none) as old."""
        self._num_seen, self._num_old = self._through(last_stage), self._through(last_trained)

    def _through(self, stage_index: int) -> int:
        return max((i + 1 for stage in self._by_stage[: stage_index + 1] for i in stage), default=0)

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
        return tuple(c for i in self._by_stage[stage_index] for c in range(self._ends[i], self._ends[i + 1]))

    def allowed(self, stage_index: int) -> list[int]:
        """Indices of the classes that a row of the stage may be given where its stage is known, as far as seen."""
        return [c for c in (*self.shared, *self.of(stage_index)) if c < self.num_classes]

    def known(self, stage_index: int) -> tuple[bool, bool]:
        """Says whether any and whether all of a stage's labels are seen; both where it has none."""
        seen = [i < self._num_seen for i in self._by_stage[stage_index]] or [True]
        return any(seen), all(seen)


def rarest_labels(rows: Sequence[Sequence[str]]) -> npt.NDArray[np.int64]:
    """Returns for every row with many labels the code of its rarest one, (N,), from 1; 0 where it has none."""
    import numpy as np

    counts = Counter(label for labels in rows for label in labels)
    order = {label: i + 1 for i, label in enumerate(sorted(counts, key=lambda label: (counts[label], label)))}
    return np.array([min((order[label] for label in labels), default=0) for labels in rows], dtype=np.int64)
