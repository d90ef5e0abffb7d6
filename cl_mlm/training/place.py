"""Where a run is: which stage, which step, and what it trains on there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cl_mlm.randomness import torch_generator

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch


@dataclass
class Place:
    """The counters of a run; the loop moves them on.

    Attributes:
        seed: of the run.
        last_trained: the last stage that this run has trained; -1: none.
        stage_index, epoch, step, micro_batch: counted from 0; `step` counts optimiser steps of the stage.
        num_micro_batches: of the present step.
        learning_rate: of the present step.
        logging: whether the values of this step are read; a value that is only logged may be left out otherwise.
        training_ids: rows that the stage trains on, (N,).
    """

    seed: int
    last_trained: int = -1
    stage_index: int = 0
    epoch: int = 0
    step: int = 0
    micro_batch: int = 0
    num_micro_batches: int = 1
    learning_rate: float = 0.0
    logging: bool = False
    training_ids: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def generator(self, purpose: str) -> torch.Generator:
        """Returns a CPU generator addressed by (seed, purpose, stage, epoch, step)."""
        return torch_generator(self.seed, purpose, self.stage_index, self.epoch, self.step)
