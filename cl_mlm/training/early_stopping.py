"""Early stopping: a stage ends when its validation score has not risen for `training.patience` epochs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cl_mlm.stream import unpack_row_ids
from cl_mlm.training.evaluation import evaluate
from cl_mlm.training.stage_state import changing_tensors, put_back

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cl_mlm.training.observers import Observer
    from cl_mlm.training.run import Run


class BestWeights:
    """The weights with the best mean score on the validation rows of the columns that are trained for."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.score = -math.inf
        self.waited = 0
        self.values: dict[str, torch.Tensor] = {}

    def should_stop(self, patience: int, observer: Observer) -> bool:
        """Scores the model; returns whether `patience` epochs have passed without a better score."""
        score = validation_score(self.run)
        observer.epoch_done(self.run.place.epoch, {"train/validation_score": score})
        if score > self.score:
            self.score, self.waited = score, 0
            with torch.no_grad():
                self.values = {name: t.detach().clone() for name, t in changing_tensors(self.run).items()}
        else:
            self.waited += 1
        return self.waited >= patience

    def restore(self) -> None:
        """Puts the best weights back, where an epoch was scored."""
        if self.values:
            put_back(self.run, self.values)

    def state_dict(self) -> dict[str, Any]:
        """Returns the best score, the epochs waited since, and the weights that gave it."""
        return {"score": repr(self.score), "waited": self.waited, "values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.score, self.waited = float(state["score"]), int(state["waited"])
        device = self.run.network.device
        self.values = {name: tensor.to(device) for name, tensor in state["values"].items()}


def columns_in_training(run: Run) -> list[int]:
    """Returns the indices of the columns that the stages of the training rows train for."""
    stages = {*np.unique(unpack_row_ids(run.place.training_ids)[0]).tolist()}
    return [j for j, column in enumerate(run.stream.columns) if not stages.isdisjoint(column.trained_in)]


def validation_score(run: Run) -> float:
    """Returns the mean score over the validation rows of the columns in training."""
    columns = columns_in_training(run)
    scores = evaluate(run, "validation", columns).scores
    return float(np.mean([scores[j]["score"] for j in columns]))
