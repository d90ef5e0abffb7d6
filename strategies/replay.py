"""Experience replay: every step also sees rows of earlier stages.

Chaudhry et al. (2019), On Tiny Episodic Memories in Continual Learning, arXiv:1902.10486, algorithm 1 with reservoir
sampling. Differs from the paper: rows enter the buffer at the end of their stage, so that memory batches hold only
rows of earlier stages; several passes over a stage are allowed; the memory's mean loss has a weight of its own; up to
50 batches are drawn at once, without replacement, and dealt out by length, so that a memory batch pads little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import override

from cl_mlm.mechanisms import Reservoir
from cl_mlm.randomness import numpy_generator
from cl_mlm.strategy import Need, RunView, Strategy
from cl_mlm.stream import Stage, unpack_row_ids

if TYPE_CHECKING:
    import numpy.typing as npt

    from cl_mlm.batch import Batch

GROUP_BATCHES = 50
TOKEN_BYTES = 4


class Replay(Strategy):
    """Adds `weight * mean loss` of memory rows to every step.

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
        self.buffer = Reservoir(capacity)
        self._dealt: tuple[tuple[int, ...], list[npt.NDArray[np.int64]]] = ((), [])

    @override
    def validate(self) -> list[str]:
        faults = []
        if self.capacity < 1:
            faults.append(f"capacity: must be at least 1, got {self.capacity}")
        if not self.weight >= 0:
            faults.append(f"weight: must be at least 0, got {self.weight}")
        if self.rows is not None and self.rows < 1:
            faults.append(f"rows: must be at least 1 or null, got {self.rows}")
        return faults

    @override
    def memory(self, run: RunView, batch: Batch) -> Sequence[tuple[float, Batch]]:
        if not len(self.buffer) or run.micro_batch:
            return ()  # all memory rows of a step come at once, so that they are the same however the step is cut
        rows = self.rows or run.batch_size
        of_step = min(rows * run.accumulation, len(self.buffer))
        num_steps = min(GROUP_BATCHES, len(self.buffer) // of_step)
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
        weight = self.weight * run.num_micro_batches
        return [(weight * (len(part) / len(ids)), run.rows(part)) for part in parts]

    def _deal(self, run: RunView, rows: int, num_batches: int, address: tuple[int, ...]) -> list[npt.NDArray[np.int64]]:
        """Returns the memory rows of the next steps: different rows, sorted by length, cut, and then shuffled."""
        random = numpy_generator(run.seed, "replay", *address)
        drawn = self.buffer.sample(rows * num_batches, random)
        batches = np.split(drawn[np.argsort(run.lengths(drawn), kind="stable")], num_batches)
        return [batches[i] for i in random.permutation(num_batches)]

    @override
    def after_stage(self, run: RunView, stage: Stage) -> None:
        # Offered only now, so that a stage never replays its own rows.
        if not len(run.training_ids):
            return
        random = numpy_generator(run.seed, "reservoir", run.stage_index)
        self.buffer.add(random.permutation(run.training_ids), random)

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
        stages, positions = unpack_row_ids(self.buffer.ids)
        text = 0
        for stage_index in sorted({*stages.tolist()}):
            of_stage, objective = stages == stage_index, run.objective_of(stage_index)
            if objective.packs:  # a block is no row of the stream: it keeps its tokens alive, and no text
                text += int(run.lengths(self.buffer.ids[of_stage]).sum()) * TOKEN_BYTES
                continue
            for position in positions[of_stage].tolist():
                row = run.stream.stages[stage_index].train[position]
                text += sum(text_bytes(row[name]) for name in objective.text_columns if row.get(name))
        return text + self.buffer.ids.nbytes


def text_bytes(value: Any) -> int:
    """Returns the UTF-8 bytes of a text, or of all texts in a list or mapping; 0 for anything else."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping):
        return sum(map(text_bytes, value.values()))
    return sum(map(text_bytes, value)) if isinstance(value, Sequence) else 0
