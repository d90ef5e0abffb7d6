"""Encoded rows of a split, reached by row id; those of a stage or column are encoded when they are first asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.data.label_columns import LabelSpace
from cl_mlm.data.tasks import Task, Tasks
from cl_mlm.objective import Batch, Objective
from cl_mlm.stream import Stream, pack_row_ids, unpack_row_ids
from cl_mlm.tokens.encoding import EncodedRows, encode_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from transformers import PreTrainedTokenizerBase


class Rows:
    """Row ids of one split of a stream -> batches.

    The parts of a split are stages for `train`, else columns. Reads `labels` as they are when a batch is made: in a
    task-incremental stream a row may be given its own part's labels only, and the mask is as wide as the labels seen so
    far. `tasks` says whose objective and labels a row has where there are several; None: every row those given.
    """

    def __init__(
        self,
        stream: Stream,
        split: str,
        objective: Objective,
        tokenizer: PreTrainedTokenizerBase,
        labels: LabelSpace,
        max_length: int,
        tasks: Tasks | None = None,
    ) -> None:
        self._stream, self._split, self._parts = stream, split, stream.parts(split)
        self._tokenizer, self._tasks = tokenizer, tasks or Tasks.single(stream, objective, labels)
        self._max_length = max_length
        self._tables: dict[int, EncodedRows] = {}

    def ids(self, part: int) -> npt.NDArray[np.int64]:
        """Returns the ids of all rows of a stage (`train`) or column, (N,): its encoded ones where they are packed."""
        import numpy as np

        packs = self._tasks.by_key[self._tasks.keys_of(self._split)[part]].objective.packs
        rows = self._table(part) if packs else self._parts[part].split(self._split)
        return pack_row_ids(part, np.arange(len(rows)))

    def lengths(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Returns the tokens of every row, (N,)."""
        import numpy as np

        parts, positions = unpack_row_ids(ids)
        lengths = np.zeros(len(ids), dtype=np.int32)
        for part in np.unique(parts).tolist():
            where = parts == part
            lengths[where] = self._table(part).lengths[positions[where]]
        return lengths

    def collate(self, ids: npt.NDArray[np.int64]) -> Batch:
        """Returns the rows `ids`, in their order and all of one task, as a batch on the CPU.

        Raises:
            ValueError: they are of several tasks.
        """
        import torch

        parts, positions = unpack_row_ids(ids)
        task = self._task(parts)
        encoded: dict[str, list[object]] = {}
        for place, (part, position) in enumerate(zip(parts.tolist(), positions.tolist(), strict=True)):
            row = self._table(part).row(position)
            # Pairs have segments where single texts have none: an empty column is padded like any other.
            for name in [*row, *(name for name in encoded if name not in row)]:
                encoded.setdefault(name, [()] * place).append(row.get(name, ()))
        batch = task.objective.collate(encoded, torch.from_numpy(ids.copy()), self._tokenizer)
        batch = replace(batch, split=self._split, task=task.key)
        masks = self._stream.masks and task.labels.classes
        return batch.with_allowed(self._allowed(parts, task.labels)) if masks else batch

    def raw(self, ids: npt.NDArray[np.int64], column: str) -> list[Any]:
        """Returns what a column of the stream holds for the rows `ids`, (N,)."""
        import numpy as np

        parts, positions = unpack_row_ids(ids)
        values: list[Any] = [None] * len(ids)
        for part in np.unique(parts).tolist():
            where = np.flatnonzero(parts == part)
            rows = self._parts[part].split(self._split).with_format(None).select_columns([column])
            for place, value in zip(where.tolist(), rows[positions[where].tolist()][column], strict=True):
                values[place] = value
        return values

    def _allowed(self, parts: npt.NDArray[np.int64], labels: LabelSpace) -> torch.Tensor:
        """Returns which classes every row may be given, bool (R, C): those of its own part."""
        import torch

        allowed = torch.zeros(len(parts), labels.num_classes, dtype=torch.bool)
        for row, part in enumerate(parts.tolist()):
            allowed[row, labels.allowed(self._parts[part].labels)] = True
        return allowed

    def _task(self, parts: npt.NDArray[np.int64]) -> Task:
        keys = self._tasks.keys_of(self._split)
        found = {keys[part] for part in parts.tolist()}
        if len(found) > 1:
            raise ValueError(f"ids: the rows of a batch must be of one task, got {', '.join(sorted(found))}")
        return self._tasks.by_key[found.pop()] if found else next(iter(self._tasks))

    def _table(self, part: int) -> EncodedRows:
        if part not in self._tables:
            task = self._tasks.by_key[self._tasks.keys_of(self._split)[part]]
            self._tables[part] = encode_rows(
                self._parts[part].split(self._split),
                task.objective,
                self._tokenizer,
                task.labels.index,
                self._max_length,
                f"{self._stream.fingerprint}/{part}/{self._split}",
            )
        return self._tables[part]
