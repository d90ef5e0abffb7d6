"""Experience replay: every step also sees rows of earlier stages.

Chaudhry et al. (2019), On Tiny Episodic Memories in Continual Learning, arXiv:1902.10486, algorithm 1 with reservoir
sampling. Differs from the paper: rows enter the buffer at the end of their stage, so that memory batches hold only
earlier stages; several passes over a stage are allowed; the memory's mean loss has a weight of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from cl_mlm.buffer import Reservoir
from cl_mlm.objective import Batch
from cl_mlm.randomness import numpy_generator
from cl_mlm.strategy import Need, RunView, Strategy
from cl_mlm.stream import Stage, unpack_row_ids


class Replay(Strategy):
    """Adds `weight * mean loss` of memory rows to every step.

    Args:
        capacity: rows kept, over all stages.
        weight: of the memory rows' mean loss, beside the mean of the step's own rows.
        rows: memory rows of a micro-batch; null: `training.batch_size`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"old_rows"})

    def __init__(self, capacity: int = 200, weight: float = 1.0, rows: int | None = None) -> None:
        self.capacity = capacity
        self.weight = weight
        self.rows = rows
        self.buffer = Reservoir(capacity)

    @override
    def validate(self) -> list[str]:
        faults = [f"capacity: must be at least 1, got {self.capacity}"] * (self.capacity < 1)
        faults += [f"weight: must be at least 0, got {self.weight}"] * (not self.weight >= 0)
        faults += [f"rows: must be at least 1 or null, got {self.rows}"] * (self.rows is not None and self.rows < 1)
        return faults

    @override
    def memory(self, run: RunView, batch: Batch) -> Sequence[tuple[float, Batch]]:
        if not len(self.buffer):
            return ()
        random = numpy_generator(run.seed, "replay", run.stage_index, run.epoch, run.step, int(batch.ids[0]))
        ids = self.buffer.sample(self.rows or run.batch_size, random)
        return [(self.weight, run.rows(ids))]

    @override
    def after_stage(self, run: RunView, stage: Stage) -> None:
        random = numpy_generator(run.seed, "reservoir", run.stage_index)
        self.buffer.add(random.permutation(run.training_ids), random)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.buffer.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.buffer.load_state_dict(state)

    @override
    def buffer_bytes(self, run: RunView) -> int:
        stages, positions = unpack_row_ids(self.buffer.ids)
        text = 0
        for stage_index, position in zip(stages.tolist(), positions.tolist(), strict=True):
            row = run.stream.stages[stage_index].train[position]
            text += sum(len(row[name].encode()) for name in ("text", "text_pair") if row.get(name))
        return text + self.buffer.ids.nbytes
