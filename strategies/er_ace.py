"""Replay whose new rows are told apart from each other alone: the old classes are not pushed down by them.

Caccia et al. (2022), New Insights on Reducing Abrupt Representation Change in Online Continual Learning,
arXiv:2104.05025, equation 4. Differs from the paper: rows enter the buffer at the end of their stage, as in `replay`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from typing_extensions import override

from cl_mlm.mechanisms import Rehearsal

if TYPE_CHECKING:
    from cl_mlm.batch import Batch
    from cl_mlm.objective import Objective
    from cl_mlm.strategy import RunView, Setting


class ErAce(Rehearsal):
    """`replay`, with the loss of a step's own rows among the classes that occur in them; memory rows see all classes.

    Where one class alone occurs, the loss of the own rows is 0 in that step.

    Args:
        capacity: rows kept, over all stages.
        weight: of the memory rows' mean loss.
        rows: memory rows for each micro-batch of a step; null: `training.batch_size`.
        scope: whose classes the own rows are compared with: those of their `batch`, as in the paper, or of the `stage`.
    """

    def __init__(
        self,
        capacity: int = 200,
        weight: float = 1.0,
        rows: int | None = None,
        scope: Literal["batch", "stage"] = "batch",
    ) -> None:
        super().__init__(capacity, weight, rows)
        self.scope = scope

    @override
    def unfit(self, objective: Objective) -> list[str]:
        if objective.min_labels and not objective.is_binary:
            return []
        return [f"scope: needs rows with one label a site, which objective {objective.name} has not, got {self.scope}"]

    @override
    def refuse(self, setting: Setting) -> list[str]:
        if setting.num_tasks == 1 or "mix" not in setting.strategies:
            return []
        return [
            "scope: in a stream of several objectives mix brings rows of other heads into a step, got er_ace with mix"
        ]

    @override
    def allowed_classes(self, run: RunView, batch: Batch) -> torch.Tensor | None:
        if batch.origin != "stage" or not self.weight or not run.stage_index:
            return None
        num_classes = run.labels.num_classes
        present = run.objective.target_classes(batch, num_classes)
        if self.scope == "batch":
            return present.any(0, keepdim=True).expand(len(batch), -1)
        allowed = torch.zeros(len(batch), num_classes, dtype=torch.bool, device=batch.device)
        allowed[:, [*run.labels.shared, *run.labels.of(run.stage_index)]] = True
        return allowed | present
