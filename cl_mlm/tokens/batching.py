"""Decides which rows share a batch: length-grouped batches for training, length-sorted ones for evaluation.

Training batches are addressed by (seed, stage, epoch): the same address always gives the same batches. A batch is what
one optimiser step trains on; cut into micro-batches it needs less memory and keeps its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cl_mlm.randomness import numpy_generator

if TYPE_CHECKING:
    import numpy.typing as npt

GROUP_BATCHES = 50


def training_batches(
    lengths: npt.NDArray[np.int32],
    batch_size: int,
    seed: int,
    stage_index: int,
    epoch: int,
    tasks: npt.NDArray[np.int64] | None = None,
) -> list[npt.NDArray[np.int64]]:
    """Returns the batches of one epoch: positions in `lengths`, each exactly once.

    The rows are shuffled and cut into groups of 50 batches. Within a group they are sorted by length, so that a batch
    pads little; then the batches are shuffled. The last batch of an epoch may be short; it is kept.

    Args:
        lengths: tokens of every row, (N,).
        batch_size: rows of a batch: all those of an optimiser step.
        seed: of the run.
        stage_index: part of the address.
        epoch: part of the address.
        tasks: the task of every row, (N,). A batch holds rows of one task only, so each task is batched by itself, and
            the batches of all tasks are shuffled together. None: all rows are of one task.
    """
    codes = [] if tasks is None else np.unique(tasks).tolist()
    if tasks is None or len(codes) < 2:
        return _grouped(lengths, batch_size, numpy_generator(seed, "order", stage_index, epoch))
    batches: list[npt.NDArray[np.int64]] = []
    for code in codes:
        positions = np.flatnonzero(tasks == code)
        random = numpy_generator(seed, "order", stage_index, epoch, "task", code)
        batches += [positions[batch] for batch in _grouped(lengths[positions], batch_size, random)]
    random = numpy_generator(seed, "order of tasks", stage_index, epoch)
    return [batches[i] for i in random.permutation(len(batches))]


def _grouped(
    lengths: npt.NDArray[np.int32], batch_size: int, random: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Returns length-grouped batches of rows of one task; see `training_batches`."""
    order = random.permutation(len(lengths))
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(order), GROUP_BATCHES * batch_size):
        group = order[start : start + GROUP_BATCHES * batch_size]
        group = group[np.argsort(lengths[group], kind="stable")]
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def cut_batch(batch: npt.NDArray[np.int64], rows: int) -> list[npt.NDArray[np.int64]]:
    """Returns a batch cut into micro-batches of `rows` rows; the last one may be short.

    The batch is sorted by length, so a micro-batch pads less than the whole.
    """
    return [batch[start : start + rows] for start in range(0, len(batch), rows)]


def sorted_batches(lengths: npt.NDArray[np.int32], batch_size: int) -> list[npt.NDArray[np.int64]]:
    """Returns batches in order of length, the longest first: the first batch then needs the most memory."""
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
