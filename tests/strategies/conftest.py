"""A run of two or three small stages, without run folder and tracking; on `tiny`, or on a smaller BERT."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import pytest
import torch
from typing_extensions import override

from cl_mlm.batch import Batch, Outputs
from cl_mlm.config.schema import Config, ModelConfig, TrackingConfig, TrainingConfig
from cl_mlm.models.backbone import Backbone
from cl_mlm.models.loading import load_backbone
from cl_mlm.objectives.classification import Classification
from cl_mlm.storage.state_files import join_state, split_state
from cl_mlm.strategy import RunView, Strategy
from cl_mlm.stream import Stream
from cl_mlm.training.evaluation import evaluate, scorable_columns
from cl_mlm.training.loop import train_stage
from cl_mlm.training.run import Run

Weights = dict[str, torch.Tensor]

PLAIN: dict[str, Any] = {
    "device": "cpu",
    "threads": 1,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 2e-3,
    "schedule": "constant",
    "warmup": 0.0,
}


class MakeRun(Protocol):
    """Makes a run; `rows` of training a stage, further settings are those of `training`."""

    def __call__(
        self,
        *strategies: Strategy,
        model: str = "small",
        dropout: float = 0.0,
        scenario: str = "class_incremental",
        num_stages: int = 2,
        rows: int = 12,
        **training: Any,
    ) -> Run: ...


class Trained:
    """What training gave: rows of the accuracy matrix, values logged at every step, rows trained on."""

    def __init__(self) -> None:
        self.matrix: list[list[float]] = []
        self.logged: list[dict[str, float]] = []
        self.examples = 0

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        pass

    def step_done(self, step: int, num_steps: int, epoch: int, rows: int, values: Mapping[str, float]) -> None:
        self.logged.append(dict(values))

    def may_checkpoint(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        pass


class Train(Protocol):
    """Trains and scores stages, all of them by default."""

    def __call__(self, run: Run, stages: Iterable[int] | None = None) -> Trained: ...


class Watch(Strategy):
    """Keeps what the loop shows: the rows of every batch by origin, and gradients before clipping; changes nothing."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, str, list[int]]] = []
        self.gradients: list[Weights] = []

    @override
    def loss_terms(self, run: RunView, batch: Batch, outputs: Outputs) -> Weights:
        self.batches.append((run.stage_index, batch.origin, batch.ids.tolist()))
        return {}

    @override
    def adjust_gradients(self, run: RunView) -> Weights:
        self.gradients.append({n: p.grad.clone() for n, p in run.trainable().items() if p.grad is not None})
        return {}


@pytest.fixture(autouse=True)
def every_test_has_a_fresh_process(fresh_process: Callable[[], None]) -> None:
    """Every test of this folder makes runs."""


@pytest.fixture
def make_run(
    run_of: Callable[..., Run], word_stream: Callable[..., Stream], small_bert: Callable[..., Backbone]
) -> MakeRun:
    def make(
        *strategies: Strategy,
        model: str = "small",
        dropout: float = 0.0,
        scenario: str = "class_incremental",
        num_stages: int = 2,
        rows: int = 12,
        **training: Any,
    ) -> Run:
        def make_backbone(labels: Sequence[str]) -> Backbone:
            if model == "tiny":
                return load_backbone(ModelConfig("tiny", dropout=dropout), labels, 0, 64, Classification())
            return small_bert(len(labels), dropout)

        config = Config(training=TrainingConfig(**(PLAIN | training)), tracking=TrackingConfig(log_every=1))
        return run_of(config, word_stream(num_stages, rows, scenario), make_backbone, strategies)

    return make


@pytest.fixture
def train() -> Train:
    def work(run: Run, stages: Iterable[int] | None = None) -> Trained:
        trained = Trained()
        for stage_index in range(len(run.stream)) if stages is None else stages:
            run.place.stage_index = stage_index
            trained.examples += train_stage(run, trained).train_examples
            columns = scorable_columns(run.stream, run.tasks)
            trained.matrix.append(evaluate(run, "test", columns).row(len(run.stream)))
        return trained

    return work


@pytest.fixture
def weights_of() -> Callable[[Run], Weights]:
    return lambda run: {name: parameter.detach().clone() for name, parameter in run.network.model.named_parameters()}


@pytest.fixture
def assert_same_run(make_run: MakeRun, train: Train, weights_of: Callable[[Run], Weights]) -> Callable[..., Trained]:
    """Trains `tiny` on two stages with some strategies, and without any: the same bits; returns the first."""

    def compare(*strategies: Strategy, **settings: Any) -> Trained:
        given: dict[str, Any] = {"model": "tiny", "dropout": 0.2, **settings}
        guarded, naive = make_run(*strategies, **given), make_run(**given)
        first, second = train(guarded), train(naive)
        assert repr(first.matrix) == repr(second.matrix)  # NaN equals NaN
        one, two = weights_of(guarded), weights_of(naive)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
        return first

    return compare


@pytest.fixture
def assert_goes_on(
    make_run: MakeRun, train: Train, weights_of: Callable[[Run], Weights]
) -> Callable[[Callable[[], Strategy]], None]:
    """A strategy restored from its kept state after the first stage trains the second as it would have itself."""

    def compare(make: Callable[[], Strategy]) -> None:
        ended = []
        for restored in (False, True):
            strategy = make()
            run = make_run(strategy, dropout=0.2)
            train(run, [0])
            if restored:
                tensors: Weights = {}
                plain = json.loads(json.dumps(split_state(strategy.state_dict(), "", tensors)))
                strategy = make()
                strategy.load_state_dict(join_state(plain, tensors))
                run.strategies = (strategy,)
            train(run, [1])
            state: Weights = {}
            ended.append((split_state(strategy.state_dict(), "", state), {**weights_of(run), **state}))
        (first_plain, first), (second_plain, second) = ended
        assert first_plain == second_plain
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    return compare


@pytest.fixture
def watch() -> Watch:
    return Watch()
