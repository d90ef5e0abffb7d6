"""LabelSpace: which labels the model knows now, which it knew before this stage, and which belong to a stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from cl_mlm.fingerprint import arrow_batches

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from datasets import Dataset

    from cl_mlm.objective import Objective
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
        brought = (max((i + 1 for i in own), default=0) for own in self._by_stage)
        self._num_by_stage = tuple(accumulate(brought, max, initial=0))
        self._num_seen = 0
        self._num_old = 0

    def begin(self, last_stage: int, last_trained: int) -> None:
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
        return tuple(c for i in self._by_stage[stage_index] for c in range(self._ends[i], self._ends[i + 1]))

    def allowed(self, labels: Sequence[str]) -> list[int]:
        """Indices of the classes that stand for `labels` or for none, as far as seen."""
        own = (c for label in labels for c in range(*self._ends[self.index[label] : self.index[label] + 2]))
        return [c for c in (*self.shared, *own) if c < self.num_classes]

    def known(self, labels: Sequence[str]) -> tuple[bool, bool]:
        """Says whether any and whether all of `labels` are seen; both where there are none."""
        seen = [self.index[label] < self._num_seen for label in labels] or [True]
        return any(seen), all(seen)


def rarest_labels(rows: Sequence[Sequence[str]]) -> npt.NDArray[np.int64]:
    """Returns for every row with many labels the code of its rarest one, (N,), from 1; 0 where it has none."""
    import numpy as np

    counts = Counter(label for labels in rows for label in labels)
    order = {label: i + 1 for i, label in enumerate(sorted(counts, key=lambda label: (counts[label], label)))}
    return np.array([min((order[label] for label in labels), default=0) for labels in rows], dtype=np.int64)


def label_counts(dataset: Dataset, objective: Objective) -> dict[str, int]:
    """Returns how many rows have each label; what is no text is left to the objective to refuse."""
    if not objective.min_labels or not len(dataset) or not {*objective.columns} <= {*dataset.column_names}:
        return {}
    if "label" not in objective.columns:
        counts: Counter[str] = Counter()
        try:
            for table in arrow_batches(dataset):
                counts.update(label for labels in objective.labels_of(table.to_pydict()) for label in set(labels))
        except (TypeError, ValueError, AttributeError):
            return {}
        return dict(counts)
    pairs = _label_column(dataset).value_counts().to_pylist()
    return {pair["values"]: pair["counts"] for pair in pairs if isinstance(pair["values"], str)}


def _label_column(dataset: Dataset) -> pa.ChunkedArray:
    column: pa.ChunkedArray = dataset.data.column("label")
    return column if dataset._indices is None else column.take(dataset._indices.column(0))


def label_codes(dataset: Dataset, objective: Objective) -> npt.NDArray[np.int64]:
    """Returns a number for every row's label, or for the rarest where it has many, (N,); all equal without labels."""
    import numpy as np

    if "label" in dataset.column_names:
        # Arrow numbers the values of a column in the order of their first rows.
        encoded = _label_column(dataset).combine_chunks().dictionary_encode()
        codes: npt.NDArray[np.int64] = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return codes
    if not objective.min_labels:
        return np.zeros(len(dataset), dtype=np.int64)
    tables = (table.to_pydict() for table in arrow_batches(dataset))
    return rarest_labels([labels for rows in tables for labels in objective.labels_of(rows)])
