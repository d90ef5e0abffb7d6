"""Encoded rows of every stage, reached by row id; a stage is encoded when it is first asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.encoding import EncodedRows, encode_rows
from cl_mlm.labels import LabelSpace
from cl_mlm.objective import Batch, Objective
from cl_mlm.stream import Stream, pack_row_ids, unpack_row_ids

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from transformers import PreTrainedTokenizerBase


class Rows:
    """Row ids of one split of a stream -> batches.

    Reads `labels` as they are when a batch is made: in a task-incremental stream a row may be given its own stage's
    labels only, and the mask is as wide as the labels seen so far.
    """

    def __init__(
        self,
        stream: Stream,
        split: str,
        objective: Objective,
        tokenizer: PreTrainedTokenizerBase,
        labels: LabelSpace,
        max_length: int,
    ) -> None:
        self._stream, self._split = stream, split
        self._objective, self._tokenizer, self._labels = objective, tokenizer, labels
        self._max_length = max_length
        self._tables: dict[int, EncodedRows] = {}

    def ids(self, stage_index: int) -> npt.NDArray[np.int64]:
        """Returns the ids of all rows of a stage, (N,): of its encoded rows where the objective packs."""
        import numpy as np

        packs = self._objective.packs
        rows = self._table(stage_index) if packs else self._stream.stages[stage_index].split(self._split)
        return pack_row_ids(stage_index, np.arange(len(rows)))

    def lengths(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Returns the tokens of every row, (N,)."""
        import numpy as np

        stages, positions = unpack_row_ids(ids)
        lengths = np.zeros(len(ids), dtype=np.int32)
        for stage_index in np.unique(stages).tolist():
            where = stages == stage_index
            lengths[where] = self._table(stage_index).lengths[positions[where]]
        return lengths

    def collate(self, ids: npt.NDArray[np.int64]) -> Batch:
        """Returns the rows `ids`, in their order, as a batch on the CPU."""
        import torch

        stages, positions = unpack_row_ids(ids)
        encoded: dict[str, list[object]] = {}
        for stage_index, position in zip(stages.tolist(), positions.tolist(), strict=True):
            for name, value in self._table(stage_index).row(position).items():
                encoded.setdefault(name, []).append(value)
        batch = self._objective.collate(encoded, torch.from_numpy(ids.copy()), self._tokenizer)
        batch = replace(batch, split=self._split)
        masks = self._stream.scenario == "task_incremental" and self._labels.classes
        return batch.with_allowed(self._allowed(stages)) if masks else batch

    def raw(self, ids: npt.NDArray[np.int64], column: str) -> list[Any]:
        """Returns what a column of the stream holds for the rows `ids`, (N,)."""
        import numpy as np

        stages, positions = unpack_row_ids(ids)
        values: list[Any] = [None] * len(ids)
        for stage_index in np.unique(stages).tolist():
            where = np.flatnonzero(stages == stage_index)
            rows = self._stream.stages[stage_index].split(self._split).with_format(None).select_columns([column])
            for place, value in zip(where.tolist(), rows[positions[where].tolist()][column], strict=True):
                values[place] = value
        return values

    def _allowed(self, stages: npt.NDArray[np.int64]) -> torch.Tensor:
        import torch

        allowed = torch.zeros(len(stages), self._labels.num_classes, dtype=torch.bool)
        for row, stage_index in enumerate(stages.tolist()):
            allowed[row, self._labels.allowed(stage_index)] = True
        return allowed

    def _table(self, stage_index: int) -> EncodedRows:
        if stage_index not in self._tables:
            self._tables[stage_index] = encode_rows(
                self._stream.stages[stage_index].split(self._split),
                self._objective,
                self._tokenizer,
                self._labels.index,
                self._max_length,
                f"{self._stream.fingerprint}/{stage_index}/{self._split}",
            )
        return self._tables[stage_index]
