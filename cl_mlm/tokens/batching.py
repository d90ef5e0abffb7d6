"""Which rows go together: length-grouped batches, addressed by (seed, stage, epoch), and sorted ones for evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.randomness import numpy_generator

if TYPE_CHECKING:
    import numpy as np
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
    """Returns the batches of one epoch: positions in `lengths`, every one exactly once.

    A permutation is cut in groups of 50 batches; within a group rows are sorted by length, so that a batch pads little,
    and the batches are shuffled. The short last batch of an epoch is kept. Where the rows are of several `tasks`, (N,),
    that is done for each of them, for a batch holds rows of one, and all their batches are shuffled.
    """
    import numpy as np

    found = [] if tasks is None else np.unique(tasks).tolist()
    if tasks is None or len(found) < 2:
        return _grouped(lengths, batch_size, numpy_generator(seed, "order", stage_index, epoch))
    batches: list[npt.NDArray[np.int64]] = []
    for task in found:
        own = np.flatnonzero(tasks == task)
        random = numpy_generator(seed, "order", stage_index, epoch, "task", task)
        batches += [own[batch] for batch in _grouped(lengths[own], batch_size, random)]
    random = numpy_generator(seed, "order of tasks", stage_index, epoch)
    return [batches[i] for i in random.permutation(len(batches))]


def _grouped(
    lengths: npt.NDArray[np.int32], batch_size: int, random: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    import numpy as np

    order = random.permutation(len(lengths))
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(order), GROUP_BATCHES * batch_size):
        group = order[start : start + GROUP_BATCHES * batch_size]
        group = group[np.argsort(lengths[group], kind="stable")]
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def sorted_batches(lengths: npt.NDArray[np.int32], batch_size: int) -> list[npt.NDArray[np.int64]]:
    """Returns batches in order of length, the longest first, so that memory is taken once."""
    import numpy as np

    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
