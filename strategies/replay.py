"""Experience replay: every step also sees rows of earlier stages.

Chaudhry et al. (2019), On Tiny Episodic Memories in Continual Learning, arXiv:1902.10486, algorithm 1 with reservoir
sampling. Differs from the paper: rows enter the buffer at the end of their stage, so that memory batches hold only
rows of earlier stages; several passes over a stage are allowed; the memory's mean loss has a weight of its own; up to
50 batches are drawn at once, without replacement, and dealt out by length, so that a memory batch pads little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from cl_mlm.mechanisms import Memory, bytes_of_rows
from cl_mlm.strategy import Need, RunView, Strategy

if TYPE_CHECKING:
    from cl_mlm.batch import Batch
    from cl_mlm.stream import Stage


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
