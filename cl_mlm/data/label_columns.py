"""Reads the labels of a data set's rows: how many rows have each, and which rows belong together."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cl_mlm.arrow import arrow_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from datasets import Dataset

    from cl_mlm.objective import Objective


def rarest_labels(rows: Sequence[Sequence[str]]) -> npt.NDArray[np.int64]:
    """Returns the code of every row's rarest label, (N,): 1 for the rarest of all; 0 for a row without labels."""
    import numpy as np

    counts = Counter(label for labels in rows for label in labels)
    by_rarity = sorted(counts, key=lambda label: (counts[label], label))
    rank = {label: i for i, label in enumerate(by_rarity, 1)}
    return np.array([min((rank[label] for label in labels), default=0) for labels in rows], dtype=np.int64)


def places(codes: npt.NDArray[np.int64], order: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
    """Returns the place of every row among those with its code, from 0, (N,).

    Args:
        codes: of the rows, (N,).
        order: the order in which rows are counted, each row once, (N,); None: as they lie.
    """
    import numpy as np

    counted = np.arange(len(codes)) if order is None else order
    by_code = counted[np.argsort(codes[counted], kind="stable")]
    sizes = np.unique(codes, return_counts=True)[1]
    place = np.empty(len(codes), dtype=np.int64)
    place[by_code] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place


def label_counts(dataset: Dataset, objective: Objective) -> dict[str, int]:
    """Returns how many rows have each label; empty where rows have no labels or are not sound.

    Faulty rows are not told here: the hygiene gate lets the objective check them.
    """
    if not objective.min_labels or not len(dataset) or not {*objective.columns} <= {*dataset.column_names}:
        return {}
    if "label" not in objective.columns:
        counts: Counter[str] = Counter()
        try:
            for table in arrow_batches(dataset):
                of_rows = objective.labels_of(table.to_pydict())
                counts.update(label for labels in of_rows for label in set(labels) if isinstance(label, str))
        except (TypeError, ValueError, AttributeError):
            return {}
        return dict(counts)
    pairs = _label_column(dataset).value_counts().to_pylist()
    return {pair["values"]: pair["counts"] for pair in pairs if isinstance(pair["values"], str)}


def _label_column(dataset: Dataset) -> pa.ChunkedArray:
    """Returns the column `label` as the data set shows it: through its indices mapping, where there is one."""
    column: pa.ChunkedArray = dataset.data.column("label")
    return column if dataset._indices is None else column.take(dataset._indices.column(0))


def label_codes(dataset: Dataset, objective: Objective) -> npt.NDArray[np.int64]:
    """Returns a code for every row's label, (N,); of many labels for the rarest; all 0 where rows have no label."""
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
