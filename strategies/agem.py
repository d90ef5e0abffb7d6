"""A-GEM: a step may not raise the mean loss on memory rows, to first order.

Chaudhry et al. (2019), Efficient Lifelong Learning with A-GEM, arXiv:1812.00420, equation 11. Differs from the paper:
rows enter the buffer at the end of their stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from typing_extensions import override

from cl_mlm.mechanisms import Reservoir, bytes_of_rows, gradient_of_rows, inner_product
from cl_mlm.randomness import numpy_generator
from cl_mlm.strategy import Need, RunView, Strategy

if TYPE_CHECKING:
    from cl_mlm.stream import Stage


class Agem(Strategy):
    """Where the gradient g has a negative inner product with that of memory rows, r, it becomes g − (g·r / r·r) r.

    g is what the optimiser would get: own rows, other strategies' memory and penalties. Products run over all trained
    parameters together, in double precision.

    Args:
        capacity: rows kept, over all stages: a uniform sample of all rows seen.
        rows: memory rows whose gradient a step is compared with; null: as many as the step's own.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"old_rows"})
    projects: ClassVar[bool] = True
    bf16_weights: ClassVar[bool] = True

    def __init__(self, capacity: int = 200, rows: int | None = None) -> None:
        self.capacity = capacity
        self.rows = rows
        self.buffer = Reservoir(capacity)

    @override
    def validate(self) -> list[str]:
        faults = [] if self.capacity >= 1 else [f"capacity: must be at least 1, got {self.capacity}"]
        if self.rows is not None and self.rows < 1:
            faults.append(f"rows: must be at least 1 or null, got {self.rows}")
        return faults

    @override
    def adjust_gradients(self, run: RunView) -> Mapping[str, torch.Tensor]:
        if not len(self.buffer):
            return {}
        random = numpy_generator(run.seed, "agem", run.stage_index, run.step)
        ids = self.buffer.sample(self.rows or run.batch_size * run.accumulation, random)
        reference = gradient_of_rows(run, ids)
        parameters = [*run.trainable().values()]
        products = [inner_product(other, reference) for other in ([p.grad for p in parameters], reference)]
        along, square = torch.stack(products).tolist()  # the step waits for the device once
        is_projected = along < 0
        if is_projected:
            factor = along / square
            for parameter, against in zip(parameters, reference, strict=True):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.sub_(against, alpha=factor)
        return {"agem": products[0].new_tensor(float(is_projected))}

    @override
    def after_stage(self, run: RunView, stage: Stage) -> None:
        if len(run.training_ids):
            random = numpy_generator(run.seed, "agem", "reservoir", run.stage_index)
            self.buffer.add(random.permutation(run.training_ids), random)

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return self.arguments() if stage_index else None

    @override
    def state_numbers(self, num_trainable: int, num_stages: int) -> int | None:
        return 0

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.buffer.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.buffer.load_state_dict(state)

    @override
    def buffer_bytes(self, run: RunView) -> int:
        return bytes_of_rows(run, self.buffer.ids)
