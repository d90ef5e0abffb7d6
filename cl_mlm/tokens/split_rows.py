"""Encoded rows of a split, reached by row id; the rows of a stage or column are encoded when they are first needed.

Rows of short stages are encoded together with their neighbours': see `row_groups.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cl_mlm.stream import Stream, pack_row_ids, unpack_row_ids
from cl_mlm.tokens.row_groups import encode_group, row_groups

if TYPE_CHECKING:
    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.batch import Batch
    from cl_mlm.task import LabelSpace, Task, Tasks
    from cl_mlm.tokens.encoding import EncodedRows

MOST_OPEN = 500  # groups of rows that are mapped into memory at once; the system allows a process 65,530 mappings


class SplitRows:
    """Turns row ids of one split of a stream into batches.

    The owner of a row is its stage in `train`, its column in the other splits. Labels are read when a batch is made: in
    a task-incremental stream a row may be given the labels of its own owner only, and that mask is as wide as the
    labels seen by then.

    Args:
        stream: the stream.
        split: name of the split.
        tasks: of the stream; they give every row its objective and labels.
        tokenizer: the model's.
        max_length: tokens of a row at most.
    """

    def __init__(
        self, stream: Stream, split: str, tasks: Tasks, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> None:
        self._stream, self._split, self._owners = stream, split, stream.owners(split)
        self._tasks, self._tokenizer, self._max_length = tasks, tokenizer, max_length
        self._groups = row_groups(stream, split, tasks)
        sizes = np.array([len(owner.split(split)) for owner in self._owners], dtype=np.int64)
        self._group_of = np.repeat(np.arange(len(self._groups)), [len(group) for group in self._groups])
        starts = np.cumsum(sizes) - sizes  # of every owner among all rows, then within its group
        self._starts = starts - starts[[group.start for group in self._groups]][self._group_of]
        self._open: OrderedDict[int, EncodedRows] = OrderedDict()  # by group, the last used last

    def ids(self, owner: int) -> npt.NDArray[np.int64]:
        """Returns the ids of all rows of an owner, (N,); where its objective packs, of its blocks."""
        packs = self._task_of_owner(owner).objective.packs
        rows = self._encoded(int(self._group_of[owner])) if packs else self._owners[owner].split(self._split)
        return pack_row_ids(owner, np.arange(len(rows)))

    def lengths(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Returns the tokens of every row, (N,)."""
        groups, places = self._places(ids)
        lengths = np.zeros(len(ids), dtype=np.int32)
        for group in np.unique(groups).tolist():
            where = groups == group
            lengths[where] = self._encoded(group).lengths[places[where]]
        return lengths

    def inputs(self, ids: npt.NDArray[np.int64]) -> list[bytes]:
        """Returns the `input_ids` of every row as the bytes of an int32 array, (N,)."""
        groups, places = self._places(ids)
        pairs = zip(groups.tolist(), places.tolist(), strict=True)
        return [self._encoded(group).row(place)["input_ids"].astype(np.int32).tobytes() for group, place in pairs]

    def collate(self, ids: npt.NDArray[np.int64]) -> Batch:
        """Returns the rows `ids`, in their order and all of one task, as a batch on the CPU.

        Raises:
            ValueError: they are of several tasks.
        """
        owners, _ = unpack_row_ids(ids)
        task = self._only_task(owners)
        encoded: dict[str, list[object]] = {}
        groups, places = self._places(ids)
        for place, (group, position) in enumerate(zip(groups.tolist(), places.tolist(), strict=True)):
            row = self._encoded(group).row(position)
            # Pairs of texts have token types, single texts have none: a missing column counts as empty, and is padded.
            for name in [*row, *(name for name in encoded if name not in row)]:
                encoded.setdefault(name, [()] * place).append(row.get(name, ()))
        batch = task.objective.collate(encoded, torch.from_numpy(ids.copy()), self._tokenizer)
        batch = replace(batch, split=self._split, task=task.key)
        if self._stream.masks and task.labels.classes:
            return batch.with_allowed(self._allowed(owners, task.labels))
        return batch

    def raw(self, ids: npt.NDArray[np.int64], column: str) -> list[Any]:
        """Returns the values of a column of the stream, not encoded, for the rows `ids`, (N,)."""
        owners, positions = unpack_row_ids(ids)
        values: list[Any] = [None] * len(ids)
        for owner in np.unique(owners).tolist():
            where = np.flatnonzero(owners == owner)
            rows = self._owners[owner].split(self._split).with_format(None).select_columns([column])
            for place, value in zip(where.tolist(), rows[positions[where].tolist()][column], strict=True):
                values[place] = value
        return values

    def _allowed(self, owners: npt.NDArray[np.int64], labels: LabelSpace) -> torch.Tensor:
        """Returns the classes that every row may be given, those of its own owner, bool (R, C)."""
        allowed = torch.zeros(len(owners), labels.num_classes, dtype=torch.bool)
        for row, owner in enumerate(owners.tolist()):
            allowed[row, labels.allowed(self._owners[owner].labels)] = True
        return allowed

    def _only_task(self, owners: npt.NDArray[np.int64]) -> Task:
        """Returns the task of the rows of a batch; of no rows, the first task of the stream."""
        keys = self._tasks.keys_of(self._split)
        of_rows = {keys[owner] for owner in owners.tolist()}
        if len(of_rows) > 1:
            raise ValueError(f"ids: the rows of a batch must be of one task, got {', '.join(sorted(of_rows))}")
        return self._tasks.by_key[of_rows.pop()] if of_rows else next(iter(self._tasks))

    def _task_of_owner(self, owner: int) -> Task:
        return self._tasks.by_key[self._tasks.keys_of(self._split)[owner]]

    def _places(self, ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns the group of every row and its place among the rows of the group, (N,) each."""
        owners, positions = unpack_row_ids(ids)
        return self._group_of[owners], self._starts[owners] + positions

    def _encoded(self, group: int) -> EncodedRows:
        """Returns the encoded rows of a group, encoding them the first time."""
        rows = self._open.get(group)
        if rows is None:
            rows = self._open[group] = encode_group(
                self._stream, self._split, self._groups[group], self._tasks, self._tokenizer, self._max_length
            )
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(group)
        return rows
