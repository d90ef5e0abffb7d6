"""Gradient episodic memory: a step may raise the mean loss on no earlier stage's memory rows, to first order.

Lopez-Paz and Ranzato (2017), Gradient Episodic Memory for Continual Learning, arXiv:1706.08840, equation 11. Differs
from the paper: rows are drawn at random from the whole stage, at its end, and the margin is 0 by default, as its
constraint is written; the authors' code takes 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from cl_mlm.mechanisms import bytes_of_rows, gradient_of_rows, inner_product, nearest_allowed
from cl_mlm.randomness import numpy_generator
from cl_mlm.strategy import Need, RunView, Setting, Strategy

if TYPE_CHECKING:
    import numpy.typing as npt

    from cl_mlm.stream import Stage


class Gem(Strategy):
    """Where the gradient conflicts with that of an earlier stage's memory, the nearest that conflicts with none.

    Two conflict where their inner product is negative.

    The gradients of memory are taken anew in every step, at the present weights: a step costs as many more passes as
    there are earlier stages, and holds as many gradients while it lasts.

    Args:
        capacity: rows kept, divided evenly among the earlier stages.
        rows: of each earlier stage that a step reads; null: all that are kept.
        margin: γ of the authors' code; above 0 a conflicting step also lowers the losses on memory.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"old_rows"})
    projects: ClassVar[bool] = True
    bf16_weights: ClassVar[bool] = True

    def __init__(self, capacity: int = 200, rows: int | None = None, margin: float = 0.0) -> None:
        self.capacity = capacity
        self.rows = rows
        self.margin = margin
        self.kept: list[npt.NDArray[np.int64]] = []  # of every stage, in a random order of their own

    @override
    def validate(self) -> list[str]:
        faults = [] if self.capacity >= 1 else [f"capacity: must be at least 1, got {self.capacity}"]
        if self.rows is not None and self.rows < 1:
            faults.append(f"rows: must be at least 1 or null, got {self.rows}")
        return faults if self.margin >= 0 else [*faults, f"margin: must be at least 0, got {self.margin}"]

    @override
    def refuse(self, setting: Setting) -> list[str]:
        if setting.num_stages - 1 <= self.capacity:
            return []
        return [f"capacity: must be a row at least for each of {setting.num_stages - 1} stages, got {self.capacity}"]

    @override
    def adjust_gradients(self, run: RunView) -> Mapping[str, torch.Tensor]:
        references = [gradient_of_rows(run, self._drawn(run, j)) for j in range(len(self.kept)) if len(self.kept[j])]
        if not references:
            return {}
        parameters = [*run.trainable().values()]
        given = [p.grad for p in parameters]
        columns: list[Sequence[torch.Tensor | None]] = [*references, given]
        # On the device until all are there: the step waits for it once.
        products = torch.stack([torch.stack([inner_product(mine, other) for other in columns]) for mine in references])
        against = products.cpu().numpy()
        is_projected = bool((against[:, -1] < 0).any())
        if is_projected:
            for weight, reference in zip(nearest_allowed(against, self.margin).tolist(), references, strict=True):
                for parameter, toward in zip(parameters, reference, strict=True):
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    parameter.grad.add_(toward, alpha=weight)
        return {"gem": torch.tensor(float(is_projected), device=parameters[0].device)}

    def _drawn(self, run: RunView, stage_index: int) -> npt.NDArray[np.int64]:
        """Returns the rows of an earlier stage that this step reads."""
        kept = self.kept[stage_index]
        if self.rows is None or self.rows >= len(kept):
            return kept
        random = numpy_generator(run.seed, "gem", run.stage_index, run.step, stage_index)
        return random.choice(kept, size=self.rows, replace=False)

    @override
    def after_stage(self, run: RunView, stage: Stage) -> None:
        own = run.ids_of(run.stage_index)
        self.kept.append(numpy_generator(run.seed, "gem", "kept", run.stage_index).permutation(own))
        quota = self.capacity // len(self.kept)
        self.kept = [ids[:quota] for ids in self.kept]

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return self.arguments() if stage_index else None

    @override
    def state_numbers(self, num_trainable: int, num_stages: int) -> int | None:
        return 0

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kept = [np.asarray(ids, dtype=np.int64) for ids in state["kept"]]

    @override
    def buffer_bytes(self, run: RunView) -> int:
        return sum(bytes_of_rows(run, ids) for ids in self.kept)
