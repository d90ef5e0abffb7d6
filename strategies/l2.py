"""L2 towards the weights of the last stage: every weight is pulled back alike.

The penalty of elastic weight consolidation with every importance 1, which its paper compares it with: Kirkpatrick et
al. (2017), Overcoming catastrophic forgetting in neural networks, arXiv:1612.00796, figure 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from cl_mlm.mechanisms import Quadratic, factor_faults
from cl_mlm.strategy import RunView, Setting, Strategy

if TYPE_CHECKING:
    import torch

    from cl_mlm.stream import Stage


class L2(Strategy):
    """Adds the gradient of `weight / 2 * Σ (θ − θ*)²`, where θ* are the weights at the end of the last stage.

    Rows of a head that are new in a stage are free. Weights in bfloat16 are refused (`bf16_weights` is False): their
    rounding would lose the distances.

    Args:
        weight: λ.
    """

    def __init__(self, weight: float = 0.1) -> None:
        self.weight = weight
        self._quadratic = Quadratic()

    @override
    def validate(self) -> list[str]:
        return [] if self.weight >= 0 else [f"weight: must be at least 0, got {self.weight}"]

    @override
    def refuse(self, setting: Setting) -> list[str]:
        return factor_faults(setting)

    @override
    def adjust_gradients(self, run: RunView) -> Mapping[str, torch.Tensor]:
        pulls = self._quadratic.pull(run.trainable(), self.weight)
        if not pulls or not run.logging:
            return {}
        return {"l2": 0.5 * self.weight * self._quadratic.energy(pulls)}

    @override
    def after_stage(self, run: RunView, stage: Stage) -> None:
        self._quadratic.hold({name: p.detach().clone() for name, p in run.trainable().items()})

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return self.arguments() if stage_index else None

    @override
    def state_numbers(self, num_trainable: int, num_stages: int) -> int | None:
        return num_trainable

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"anchor": self._quadratic.anchor}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._quadratic.hold(state["anchor"])
