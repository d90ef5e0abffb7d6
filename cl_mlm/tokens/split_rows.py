"""Encoded rows of a split, reached by row id; those of a stage or column are encoded when they are first asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.batch import Batch
from cl_mlm.stream import Stream, pack_row_ids, unpack_row_ids
from cl_mlm.task import LabelSpace, Task, Tasks
from cl_mlm.tokens.encoding import EncodedRows, encode_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from transformers import PreTrainedTokenizerBase


class SplitRows:
    """Row ids of one split of a stream -> batches.

    The rows of `train` belong to stages, those of other splits to columns: their owners. Labels are read as they are
    when a batch is made: in a task-incremental stream a row may be given the labels of its own owner only, and the mask
    is as wide as the labels seen so far.

    Args:
        stream: whose rows.
        split: which.
        tasks: of the stream; they give every row its objective and labels.
        tokenizer: the model's.
        max_length: tokens of a row at most.
    """

    def __init__(
        self, stream: Stream, split: str, tasks: Tasks, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> None:
        self._stream, self._split, self._owners = stream, split, stream.owners(split)
        self._tasks, self._tokenizer, self._max_length = tasks, tokenizer, max_length
        self._tables: dict[int, EncodedRows] = {}

    def ids(self, owner: int) -> npt.NDArray[np.int64]:
        """Returns the ids of all rows of a stage (`train`) or column, (N,): its encoded ones where they are packed."""
        import numpy as np

        packs = self._tasks.by_key[self._tasks.keys_of(self._split)[owner]].objective.packs
        rows = self._table(owner) if packs else self._owners[owner].split(self._split)
        return pack_row_ids(owner, np.arange(len(rows)))

    def lengths(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Returns the tokens of every row, (N,)."""
        import numpy as np

        owners, positions = unpack_row_ids(ids)
        lengths = np.zeros(len(ids), dtype=np.int32)
        for owner in np.unique(owners).tolist():
            where = owners == owner
            lengths[where] = self._table(owner).lengths[positions[where]]
        return lengths

    def collate(self, ids: npt.NDArray[np.int64]) -> Batch:
        """Returns the rows `ids`, in their order and all of one task, as a batch on the CPU.

        Raises:
            ValueError: they are of several tasks.
        """
        import torch

        owners, positions = unpack_row_ids(ids)
        task = self._task(owners)
        encoded: dict[str, list[object]] = {}
        for place, (owner, position) in enumerate(zip(owners.tolist(), positions.tolist(), strict=True)):
            row = self._table(owner).row(position)
            # Pairs have segments where single texts have none: an empty column is padded like any other.
            for name in [*row, *(name for name in encoded if name not in row)]:
                encoded.setdefault(name, [()] * place).append(row.get(name, ()))
        batch = task.objective.collate(encoded, torch.from_numpy(ids.copy()), self._tokenizer)
        batch = replace(batch, split=self._split, task=task.key)
        masks = self._stream.masks and task.labels.classes
        return batch.with_allowed(self._allowed(owners, task.labels)) if masks else batch

    def raw(self, ids: npt.NDArray[np.int64], column: str) -> list[Any]:
        """Returns what a column of the stream holds for the rows `ids`, (N,)."""
        import numpy as np

        owners, positions = unpack_row_ids(ids)
        values: list[Any] = [None] * len(ids)
        for owner in np.unique(owners).tolist():
            where = np.flatnonzero(owners == owner)
            rows = self._owners[owner].split(self._split).with_format(None).select_columns([column])
            for place, value in zip(where.tolist(), rows[positions[where].tolist()][column], strict=True):
                values[place] = value
        return values

    def _allowed(self, owners: npt.NDArray[np.int64], labels: LabelSpace) -> torch.Tensor:
        """Returns which classes every row may be given, bool (R, C): those of its own owner."""
        import torch

        allowed = torch.zeros(len(owners), labels.num_classes, dtype=torch.bool)
        for row, owner in enumerate(owners.tolist()):
            allowed[row, labels.allowed(self._owners[owner].labels)] = True
        return allowed

    def _task(self, owners: npt.NDArray[np.int64]) -> Task:
        keys = self._tasks.keys_of(self._split)
        found = {keys[owner] for owner in owners.tolist()}
        if len(found) > 1:
            raise ValueError(f"ids: the rows of a batch must be of one task, got {', '.join(sorted(found))}")
        return self._tasks.by_key[found.pop()] if found else next(iter(self._tasks))

    def _table(self, owner: int) -> EncodedRows:
        if owner not in self._tables:
            task = self._tasks.by_key[self._tasks.keys_of(self._split)[owner]]
            self._tables[owner] = encode_rows(
                self._owners[owner].split(self._split),
                task.objective,
                self._tokenizer,
                task.labels.index,
                self._max_length,
                f"{self._stream.fingerprint}/{owner}/{self._split}",
            )
        return self._tables[owner]
