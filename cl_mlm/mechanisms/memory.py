"""Memory rows for every step: a reservoir of earlier rows, dealt out by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import override

from cl_mlm.mechanisms.buffers import Reservoir
from cl_mlm.randomness import numpy_generator
from cl_mlm.strategy import Need, RunView, Strategy
from cl_mlm.stream import unpack_row_ids

if TYPE_CHECKING:
    import numpy.typing as npt

    from cl_mlm.batch import Batch
    from cl_mlm.stream import Stage

GROUP_BATCHES = 50
TOKEN_BYTES = 4


class Memory(Reservoir):
    """A reservoir that says which of its rows each step brings back.

    Up to 50 batches are drawn at once, without replacement, and dealt out by length, so that they pad little.

    Args:
        capacity: rows kept.
        rows: memory rows for each micro-batch of a step; None: as many as the micro-batch has at most.
    """

    def __init__(self, capacity: int, rows: int | None) -> None:
        super().__init__(capacity)
        self._rows = rows
        self._dealt: tuple[tuple[int, ...], list[npt.NDArray[np.int64]]] = ((), [])

    def faults(self) -> list[str]:
        """Returns faults of the arguments, `argument: rule, got value`."""
        faults = [] if self.capacity >= 1 else [f"capacity: must be at least 1, got {self.capacity}"]
        if self._rows is not None and self._rows < 1:
            faults.append(f"rows: must be at least 1 or null, got {self._rows}")
        return faults

    def batches(self, run: RunView, weight: float) -> list[tuple[float, Batch]]:
        """Returns what the hook `memory` is to return: all memory rows of a step at once, `weight` times their mean."""
        if not len(self) or run.micro_batch:
            return []  # all memory rows of a step come at once, so that they are the same however the step is cut
        rows = self._rows or run.batch_size
        of_step = min(rows * run.accumulation, len(self))
        num_steps = min(GROUP_BATCHES, len(self) // of_step)
        group, place = divmod(run.step, num_steps)
        address = (run.stage_index, group, run.micro_batch)
        if self._dealt[0] != address:
            self._dealt = (address, self._deal(run, of_step, num_steps, address))
        ids = self._dealt[1][place]
        parts = [
            of_task[first : first + rows] for of_task in run.by_task(ids) for first in range(0, len(of_task), rows)
        ]
        # A batch holds rows of one task. Each counts by its share of the rows, so that the sum is one mean over all
        # rows; the step divides by the number of its micro-batches.
        weight = weight * run.num_micro_batches
        return [(weight * (len(part) / len(ids)), run.rows(part)) for part in parts]

    def _deal(self, run: RunView, rows: int, num_batches: int, address: tuple[int, ...]) -> list[npt.NDArray[np.int64]]:
        """Returns the memory rows of the next steps: different rows, sorted by length, cut, and then shuffled."""
        random = numpy_generator(run.seed, "replay", *address)
        drawn = self.sample(rows * num_batches, random)
        batches = np.split(drawn[np.argsort(run.lengths(drawn), kind="stable")], num_batches)
        return [batches[i] for i in random.permutation(num_batches)]

    def offer(self, run: RunView) -> None:
        """Offers the rows that a stage was trained on, at its end: so no stage replays its own rows."""
        if len(run.training_ids):
            random = numpy_generator(run.seed, "reservoir", run.stage_index)
            self.add(random.permutation(run.training_ids), random)


class Rehearsal(Strategy):
    """A strategy that brings rows of earlier stages back in every step; subclasses say what else becomes of a step.

    Args:
        capacity: rows kept, over all stages.
        weight: of the memory rows' mean loss, beside the mean loss of the step's own rows.
        rows: memory rows for each micro-batch of a step; null: `training.batch_size`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"old_rows"})
    bf16_weights: ClassVar[bool] = True

    def __init__(self, capacity: int = 200, weight: float = 1.0, rows: int | None = None) -> None:
        self.capacity = capacity
        self.weight = weight
        self.rows = rows
        self.buffer = Memory(capacity, rows)

    @override
    def validate(self) -> list[str]:
        return self.buffer.faults() + ([] if self.weight >= 0 else [f"weight: must be at least 0, got {self.weight}"])

    @override
    def memory(self, run: RunView, batch: Batch) -> Sequence[tuple[float, Batch]]:
        return self.buffer.batches(run, self.weight)

    @override
    def after_stage(self, run: RunView, stage: Stage) -> None:
        self.buffer.offer(run)

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return self.arguments() if stage_index else None

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.buffer.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.buffer.load_state_dict(state)

    @override
    def state_numbers(self, num_trainable: int, num_stages: int) -> int | None:
        return 0  # row ids, which `buffer_bytes` counts

    @override
    def buffer_bytes(self, run: RunView) -> int:
        return bytes_of_rows(run, self.buffer.ids)


def bytes_of_rows(run: RunView, ids: npt.NDArray[np.int64]) -> int:
    """Returns the bytes of the names of kept rows, and of the text that they keep alive."""
    stages, positions = unpack_row_ids(ids)
    text = 0
    for stage_index in sorted({*stages.tolist()}):
        of_stage, objective = stages == stage_index, run.objective_of(stage_index)
        if objective.packs:  # a block is no row of the stream: it keeps its tokens alive, and no text
            text += int(run.lengths(ids[of_stage]).sum()) * TOKEN_BYTES
            continue
        for position in positions[of_stage].tolist():
            row = run.stream.stages[stage_index].train[position]
            text += sum(text_bytes(row[name]) for name in objective.text_columns if row.get(name))
    return text + ids.nbytes


def text_bytes(value: Any) -> int:
    """Returns the UTF-8 bytes of a text, or of all texts in a list or mapping; 0 for anything else."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping):
        return sum(map(text_bytes, value.values()))
    return sum(map(text_bytes, value)) if isinstance(value, Sequence) else 0
