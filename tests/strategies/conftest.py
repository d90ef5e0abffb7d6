"""A run of two or three small stages, without run folder and tracking; on `tiny`, or on a smaller BERT."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification
from typing_extensions import override

from cl_mlm.config.schema import Config, ModelConfig, TrackingConfig, TrainingConfig
from cl_mlm.models.backbone import Backbone
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification
from cl_mlm.storage.state_files import join_state, split_state
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stage, Stream
from cl_mlm.task import LabelSpace
from cl_mlm.training.evaluation import evaluate, known_columns
from cl_mlm.training.hardware import make_accelerator
from cl_mlm.training.loop import train_stage
from cl_mlm.training.run import Run

GROUPS = (("cold", "hot"), ("loud", "quiet"), ("near", "far"))
WORDS = {"cold": "ice", "hot": "sun", "loud": "drum", "quiet": "hush", "near": "here", "far": "there"}
PLAIN: dict[str, Any] = {
    "device": "cpu",
    "threads": 1,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 2e-3,
    "schedule": "constant",
    "warmup": 0.0,
}


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """One process has one precision and one number of threads: both are put back."""
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


def split_of(labels: tuple[str, ...], rows: int) -> Dataset:
    texts = [f"{WORDS[labels[i % 2]]} {'and so on ' * (i % 3)}{i}" for i in range(rows)]
    return Dataset.from_dict({"text": texts, "label": [labels[i % 2] for i in range(rows)]})


def stream_of(scenario: Any, num_stages: int, rows: int) -> Stream:
    stages = tuple(
        Stage(labels[0], split_of(labels, rows), split_of(labels, 4), split_of(labels, 6), labels)
        for labels in GROUPS[:num_stages]
    )
    return Stream("words", stages, scenario)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return letter_tokenizer()


def small_backbone(tokenizer: Any, num_labels: int, dropout: float) -> Backbone:
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        initializer_range=0.3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=num_labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Backbone(BertForSequenceClassification(settings), tokenizer)


@pytest.fixture
def make_run(tokenizer: Any) -> Callable[..., Run]:
    def make(
        *strategies: Strategy,
        model: str = "small",
        dropout: float = 0.0,
        scenario: str = "class_incremental",
        num_stages: int = 2,
        rows: int = 12,
        **training: Any,
    ) -> Run:
        stream = stream_of(scenario, num_stages, rows)
        config = Config(training=TrainingConfig(**(PLAIN | training)), tracking=TrackingConfig(log_every=1))
        labels = LabelSpace(stream)
        labels.begin(0, -1)
        if model == "tiny":
            backbone = load_backbone(ModelConfig("tiny", dropout=dropout), labels.seen, 0, 64)
        else:
            backbone = small_backbone(tokenizer, len(labels.seen), dropout)
        return Run(config, stream, strategies, backbone, Classification(), labels, make_accelerator(config))

    return make


class Trained:
    """What training gave: rows of the accuracy matrix, values logged at every step, rows trained on."""

    def __init__(self) -> None:
        self.matrix: list[list[float]] = []
        self.logged: list[dict[str, float]] = []
        self.examples = 0

    def epoch(self, epoch: int, values: Any) -> None:
        pass

    def training(self, step: int, num_steps: int, epoch: int, rows: int, values: Any) -> None:
        self.logged.append(dict(values))

    def keep(self, step: int, state: Any) -> None:
        pass


@pytest.fixture
def train() -> Callable[..., Trained]:
    """Trains and scores stages, all of them by default."""

    def work(run: Run, stages: Any = None) -> Trained:
        trained = Trained()
        for stage_index in range(len(run.stream)) if stages is None else stages:
            run.stage_index = stage_index
            trained.examples += train_stage(run, trained).train_examples
            trained.matrix.append(evaluate(run, "test", known_columns(run)).row(len(run.stream)))
        return trained

    return work


@pytest.fixture
def weights_of() -> Callable[[Run], dict[str, torch.Tensor]]:
    return lambda run: {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}


@pytest.fixture
def assert_same_run(make_run: Any, train: Any, weights_of: Any) -> Callable[..., Trained]:
    """Trains `tiny` on two stages with some strategies, and without any: the same bits; returns the first."""

    def compare(*strategies: Strategy, **settings: Any) -> Trained:
        given = {"model": "tiny", "dropout": 0.2, **settings}
        guarded, naive = make_run(*strategies, **given), make_run(**given)
        first, second = train(guarded), train(naive)
        assert repr(first.matrix) == repr(second.matrix)  # NaN equals NaN
        one, two = weights_of(guarded), weights_of(naive)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
        return first

    return compare


@pytest.fixture
def assert_goes_on(make_run: Any, train: Any, weights_of: Any) -> Callable[..., None]:
    """A strategy restored from its kept state after the first stage trains the second as it would have itself."""

    def compare(make: Callable[[], Strategy]) -> None:
        ended = []
        for restored in (False, True):
            strategy = make()
            run = make_run(strategy, dropout=0.2)
            train(run, [0])
            if restored:
                tensors: dict[str, torch.Tensor] = {}
                plain = json.loads(json.dumps(split_state(strategy.state_dict(), "", tensors)))
                strategy = make()
                strategy.load_state_dict(join_state(plain, tensors))
                run.strategies = (strategy,)
            train(run, [1])
            state: dict[str, torch.Tensor] = {}
            ended.append((split_state(strategy.state_dict(), "", state), {**weights_of(run), **state}))
        (first_plain, first), (second_plain, second) = ended
        assert first_plain == second_plain
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    return compare


class Watch(Strategy):
    """Keeps what the loop shows: the rows of every batch by origin, and gradients before clipping; changes nothing."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, str, list[int]]] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    @override
    def loss_terms(self, run: Any, batch: Any, outputs: Any) -> dict[str, torch.Tensor]:
        self.batches.append((run.stage_index, batch.origin, batch.ids.tolist()))
        return {}

    @override
    def adjust_gradients(self, run: Any) -> dict[str, torch.Tensor]:
        self.gradients.append({n: p.grad.clone() for n, p in run.trainable().items() if p.grad is not None})
        return {}


@pytest.fixture
def watch() -> Watch:
    return Watch()
