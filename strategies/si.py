"""Synaptic intelligence: weights along whose path the loss fell are pulled back to the values they had.

Zenke, Poole and Ganguli (2017), Continual Learning Through Synaptic Intelligence, arXiv:1703.04200, equations 3 to 5.
As in the authors' code the gradient is that of the loss without any penalty, and negative importances count as 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

from cl_mlm.mechanisms import Quadratic, factor_faults, leading
from cl_mlm.strategy import RunView, Setting, Strategy

if TYPE_CHECKING:
    from cl_mlm.stream import Stage

    Tensors = dict[str, torch.Tensor]


class Si(Strategy):
    """Adds the gradient of `weight * Σ Ω (θ − θ*)²`, where θ* are the weights at the end of the last stage.

    In each step ω falls by the gradient of the loss times what the optimiser really did to the weight. At the end of a
    stage Ω gains ω / ((θ − θ_start)² + damping), is cut at 0, and ω begins anew. With `training.patience` ω also holds
    the steps after the best epoch.

    Weights in bfloat16 are refused (`bf16_weights` is False): their rounding would lose the steps.

    Args:
        weight: c of the paper, which has no ½ before it. With Adam the importances are small: 10 to 10,000 are usual.
        damping: ξ of the paper.
    """

    def __init__(self, weight: float = 1.0, damping: float = 0.1) -> None:
        self.weight = weight
        self.damping = damping
        self.path: Tensors = {}  # ω
        self._quadratic = Quadratic()
        self._start: Tensors = {}
        self._step: tuple[Tensors, Tensors] = ({}, {})

    @override
    def validate(self) -> list[str]:
        faults = [] if self.weight >= 0 else [f"weight: must be at least 0, got {self.weight}"]
        return faults if self.damping > 0 else [*faults, f"damping: must be above 0, got {self.damping}"]

    @override
    def refuse(self, setting: Setting) -> list[str]:
        return factor_faults(setting)

    @override
    def before_stage(self, run: RunView, stage: Stage) -> None:
        self._start = {name: p.detach().clone() for name, p in run.trainable().items()}
        self.path = {name: torch.zeros_like(value) for name, value in self._start.items()}

    @override
    def observe_gradients(self, run: RunView) -> None:
        given = {name: p for name, p in run.trainable().items() if p.grad is not None}
        gradients = {name: p.grad.detach().clone() for name, p in given.items() if p.grad is not None}
        self._step = gradients, {name: p.detach().clone() for name, p in given.items()}

    @override
    def adjust_gradients(self, run: RunView) -> Mapping[str, torch.Tensor]:
        pulls = self._quadratic.pull(run.trainable(), 2.0 * self.weight)
        if not pulls or not run.logging:
            return {}
        return {"si": self.weight * self._quadratic.energy(pulls)}

    @override
    def after_step(self, run: RunView) -> None:
        gradients, before = self._step
        self._step = {}, {}
        if not gradients:
            return
        trainable = run.trainable()
        with torch.no_grad():
            moved = torch._foreach_sub([trainable[name].detach() for name in gradients], [*before.values()])
            torch._foreach_addcmul_([self.path[name] for name in gradients], moved, [*gradients.values()], value=-1.0)

    @override
    def after_stage(self, run: RunView, stage: Stage) -> None:
        values = {name: p.detach().clone() for name, p in run.trainable().items()}
        importance: Tensors = {}
        for name, value in values.items():
            gained = self.path[name] / ((value - self._start[name]).square() + self.damping)
            if name in self._quadratic.precision:
                old = self._quadratic.precision[name]
                leading(old, gained).add_(old)
            importance[name] = gained.clamp_(min=0)
        self._quadratic.replace(importance, values, 0.0)
        self.path, self._start = {}, {}

    @override
    def state_numbers(self, num_trainable: int, num_stages: int) -> int | None:
        return 3 * num_trainable  # importance, anchor, and the path within a stage

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"importance": self._quadratic.precision, "anchor": self._quadratic.anchor, "path": self.path}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._quadratic.replace(state["importance"], state["anchor"], 0.0)
        self.path = dict(state["path"])
