"""A run of two stages with two labels each on a BERT of one layer, trained by plain SGD, and who watches it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from typing_extensions import override

from cl_mlm.config.schema import Config, TrackingConfig, TrainingConfig
from cl_mlm.strategy import Strategy
from cl_mlm.training.cost import StageCost
from cl_mlm.training.loop import train_stage
from cl_mlm.training.run import Run

PLAIN = {
    "device": "cpu",
    "threads": 1,
    "epochs": 1,
    "batch_size": 4,
    "optimizer": "sgd",
    "momentum": 0.0,
    "learning_rate": 0.05,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
    "clip": None,
}


class Heard:
    """An observer that keeps everything but checkpoints, which go to `keep`."""

    def __init__(self, keep: Callable[[Any], None] | None = None) -> None:
        self.epochs, self.steps, self.keep = [], [], keep

    def epoch_done(self, epoch, values):
        self.epochs.append((epoch, dict(values)))

    def step_done(self, step, num_steps, epoch, rows, values):
        self.steps.append((step, num_steps, epoch, rows, dict(values)))

    def may_checkpoint(self, step, state):
        if self.keep is not None:
            self.keep(state())


class Watch(Strategy):
    """Keeps what the loop shows of every step; changes nothing."""

    def __init__(self) -> None:
        self.batches, self.losses, self.gradients, self.clipped, self.rates, self.types = [], [], [], [], [], []

    @override
    def loss_terms(self, run, batch, outputs):
        self.batches.append(batch.ids.tolist())
        self.losses.append(run.task_loss(outputs, batch).mean().item())
        self.types.append(outputs.logits.dtype)
        return {}

    @override
    def adjust_gradients(self, run):
        self.rates.append(run.learning_rate)
        self.gradients.append(_gradients(run))
        return {}

    @override
    def after_step(self, run):
        self.clipped.append(_gradients(run))


def _gradients(run):
    return {name: p.grad.clone() for name, p in run.trainable().items() if p.grad is not None}


@pytest.fixture
def watching() -> type[Watch]:
    """A strategy that watches the loop: `watching()`."""
    return Watch


@pytest.fixture
def make_run(run_of, word_stream, small_bert) -> Callable[..., Run]:
    """`make_run(*strategies, rows, dropout, log_every, limit)`; further settings are those of `training`."""

    def make(*strategies, rows=12, dropout=0.0, log_every=1, limit=None, **training):
        settings, tracking = TrainingConfig(**{**PLAIN, **training}), TrackingConfig(log_every=log_every)
        config = Config(training=settings, tracking=tracking, limit=limit)
        return run_of(config, word_stream(2, rows), lambda labels: small_bert(len(labels), dropout), strategies)

    return make


@pytest.fixture
def train() -> Callable[..., tuple[StageCost, Heard]]:
    """Trains a stage, the first by default; `keep` is given the state of every step."""

    def work(run, stage_index=0, keep=None):
        heard = Heard(keep)
        run.place.stage_index = stage_index
        return train_stage(run, heard), heard

    return work


@pytest.fixture
def weights_of() -> Callable[[torch.nn.Module], dict[str, torch.Tensor]]:
    return lambda model: {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
