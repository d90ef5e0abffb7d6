"""A moving average of the weights: what is scored and delivered is the mean of the recent past.

Polyak and Juditsky (1992), Acceleration of Stochastic Approximation by Averaging; as a guard against forgetting it is
the stable model of Arani et al. (2022), arXiv:2201.12604.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

from cl_mlm.mechanisms import leading
from cl_mlm.strategy import RunView, Setting, Strategy

if TYPE_CHECKING:
    Tensors = dict[str, torch.Tensor]


class Ema(Strategy):
    """After each step θ̄ becomes a θ̄ + (1 − a) θ with a = min(decay, (n + 1) / (n + 10)); n steps of the run are done.

    Training goes on from θ; θ̄ is scored, and a stage's folder holds both. Rows of a head that are new in a stage begin
    with their present values. Weights in bfloat16 are refused (`bf16_weights` is False): 1 − decay is below their
    resolution.

    Args:
        decay: a, once enough steps are done; with fewer than a thousand steps in the run 0.99 forgets soon enough.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.average: Tensors = {}
        self.steps = 0

    @override
    def validate(self) -> list[str]:
        return [] if 0 <= self.decay < 1 else [f"decay: must be at least 0 and below 1, got {self.decay}"]

    @override
    def refuse(self, setting: Setting) -> list[str]:
        if setting.patience is None:
            return []
        return [
            "decay: training.patience must be null, for the average goes on when the best weights are put back, got "
            f"{setting.patience}"
        ]

    @override
    def after_step(self, run: RunView) -> None:
        factor = min(self.decay, (self.steps + 1) / (self.steps + 10))
        self.steps += 1
        values = {name: p.detach() for name, p in run.trainable().items()}
        for name, value in values.items():
            old = self.average.get(name)
            if old is None or old.shape != value.shape:
                self.average[name] = value.clone()
                if old is not None:
                    leading(old, self.average[name]).copy_(old)
        torch._foreach_lerp_([self.average[name] for name in values], [*values.values()], 1.0 - factor)

    @override
    def evaluation(self, run: RunView, columns: Sequence[str]) -> AbstractContextManager[None]:
        held = {name: value for name, value in self.average.items() if name in run.trainable()}
        return run.swapped(held) if held else nullcontext()

    @override
    def state_numbers(self, num_trainable: int, num_stages: int) -> int | None:
        return num_trainable

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "steps": self.steps}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average, self.steps = dict(state["average"]), int(state["steps"])
