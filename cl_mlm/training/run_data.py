"""The rows of a run: encoded, collated and on the device, reached by their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cl_mlm.stream import SPLITS, Stream, unpack_row_ids
from cl_mlm.tokens.batching import sorted_batches
from cl_mlm.tokens.split_rows import SplitRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from cl_mlm.batch import Batch
    from cl_mlm.models.backbone import Backbone
    from cl_mlm.task import Tasks


class RunData:
    """Row ids -> batches, for every split of a stream.

    Args:
        stream: whose rows.
        tasks: of the stream.
        backbone: gives the tokenizer, and the device that batches go to.
        max_length: tokens of a row at most.

    Attributes:
        splits: the encoded rows of every split, by its name.
    """

    def __init__(self, stream: Stream, tasks: Tasks, backbone: Backbone, max_length: int) -> None:
        self._tasks, self._backbone = tasks, backbone
        self.splits = {split: SplitRows(stream, split, tasks, backbone.tokenizer, max_length) for split in SPLITS}
        self._counts = np.full(len(stream), -1, dtype=np.int64)  # of training rows by stage; -1: not yet counted

    def ids(self, owner: int, split: str = "train") -> npt.NDArray[np.int64]:
        """Returns the ids of all rows of a stage (`train`) or column, (N,)."""
        return self.splits[split].ids(owner)

    def counts(self, stages: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the number of training rows that each of these stages has, the shape of `stages`."""
        counts: npt.NDArray[np.int64] = self._counts[stages]
        if (counts < 0).any():
            for stage in np.unique(stages).tolist():
                self._counts[stage] = len(self.ids(stage))
            counts = self._counts[stages]
        return counts

    def lengths(self, ids: npt.NDArray[np.int64], split: str = "train") -> npt.NDArray[np.int32]:
        """Returns the tokens of rows, (N,)."""
        return self.splits[split].lengths(ids)

    def rows(self, ids: npt.NDArray[np.int64], split: str = "train") -> Batch:
        """Returns rows of one task as a batch on the device."""
        return self.splits[split].collate(ids).to(self._backbone.model.device)

    def batches(
        self, ids: npt.NDArray[np.int64], batch_size: int, split: str = "train"
    ) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
        """Yields `(positions in ids, batch)`, task by task in order of length, the longest first."""
        rows = self.splits[split]
        for of_task in self._tasks.split(ids, split):
            for within in sorted_batches(rows.lengths(ids[of_task]), batch_size):
                positions = of_task[within]
                yield positions, self.rows(ids[positions], split)

    def asked(
        self, ids: npt.NDArray[np.int64], batch_size: int, split: str
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Batch]]:
        """Yields `(positions in ids, which row of the batch answers each, batch)` for predictions, as `batches` does.

        Of an objective that `answers_inputs`, rows whose input is the same are one row of a batch, whatever their
        columns, and the length is that of the input.
        """
        rows = self.splits[split]
        for of_task in self._tasks.split(ids, split):
            task = self._tasks.by_key[self._tasks.keys_of(split)[unpack_row_ids(ids[of_task[:1]])[0][0]]]
            if not task.objective.answers_inputs:
                for within in sorted_batches(rows.lengths(ids[of_task]), batch_size):
                    positions = of_task[within]
                    yield positions, np.arange(len(positions)), self.rows(ids[positions], split)
                continue
            alike: dict[bytes, list[int]] = {}
            for position, tokens in zip(of_task.tolist(), rows.inputs(ids[of_task]), strict=True):
                alike.setdefault(tokens, []).append(position)
            groups = [*alike.values()]
            for within in sorted_batches(np.fromiter(map(len, alike), dtype=np.int32), batch_size):
                chosen = [groups[i] for i in within.tolist()]
                answered_by = np.repeat(np.arange(len(chosen)), [*map(len, chosen)])
                batch = self.rows(ids[[group[0] for group in chosen]], split)
                yield np.array([i for group in chosen for i in group]), answered_by, batch

    def by_task(self, ids: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Returns training row ids grouped by their task, each group in the old order: a batch holds rows of one."""
        return [ids[of_task] for of_task in self._tasks.split(ids)]

    def raw(self, batch: Batch, column: str) -> list[Any]:
        """Returns what a column of the stream holds for every row of the batch, (R,)."""
        return self.splits[batch.split].raw(batch.ids.numpy(), column)
