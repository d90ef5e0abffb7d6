import io
import math
import pickle
import subprocess
import sys
from collections import Counter

import pytest
import torch
from datasets import Dataset

from cl_mlm import DataError, Stage, Stream
from streams.avalanche import text_collate, to_avalanche

WORDS = ("red", "green", "blue", "left", "right", "up", "please", "now", "then", "a")
LABELS = (("red", "green"), ("left", "right"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small is many times slower on several threads of a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*special, *WORDS))}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def split(labels, num_rows):
    """Rows of differing length whose label is a word of the text."""
    fill = ("please", "now", "then a", "a a a", "")
    texts = [f"{fill[i % 5]} {labels[i % len(labels)]} {fill[(i // 2) % 5]}".strip() for i in range(num_rows)]
    return Dataset.from_dict({"text": texts, "label": [labels[i % len(labels)] for i in range(num_rows)]})


def make_stream(scenario="class_incremental"):
    labels = (LABELS[0], LABELS[0]) if scenario == "domain_incremental" else LABELS
    stages = (Stage(f"s{i}", split(own, 21), split(own, 6), split(own, 10), labels=own) for i, own in enumerate(labels))
    return Stream("toy", tuple(stages), scenario=scenario)


class Classifier(torch.nn.Module):
    """The wrapper of the module's docstring."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs):
        return self.encoder(**inputs).logits


class Recorder:
    """What Avalanche calls a plugin: keeps the loss and the rows of every training step."""

    def __init__(self):
        self.losses = []
        self.epochs = []

    def before_training_epoch(self, strategy, **kwargs):
        self.epochs.append([])

    def after_training_iteration(self, strategy, **kwargs):
        self.losses.append(float(strategy.loss.detach()))
        self.epochs[-1].extend(unpadded(strategy.mb_x))


def unpadded(inputs):
    """The token ids of every row, as far as the mask reaches."""
    return [
        tuple(ids[mask.bool()].tolist())
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]


def train(benchmark, tokenizer, plugins=(), epochs=12):
    """Trains Avalanche's Naive on both stages; returns it and what was recorded."""
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.logging import TextLogger
    from avalanche.training import Naive
    from avalanche.training.plugins import EvaluationPlugin
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,  # at BERT's 0.02 words look alike to so small a model: no second stage is learnt
    )
    model = Classifier(BertForSequenceClassification(config))
    recorder = Recorder()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=4,
        train_epochs=epochs,
        eval_mb_size=8,
        plugins=[recorder, *plugins],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[TextLogger(io.StringIO())]),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    return strategy, recorder


@pytest.fixture(scope="module")
def trained(tokenizer):
    return train(to_avalanche(make_stream(), tokenizer), tokenizer)


def accuracy(model, experience):
    loader = torch.utils.data.DataLoader(experience.dataset, batch_size=64, collate_fn=experience.dataset.collate_fn)
    ((inputs, targets, _),) = list(loader)
    with torch.no_grad():
        return float((model.eval()(inputs).argmax(-1) == targets).float().mean())


def test_avalanches_naive_learns_the_last_experience(trained, tokenizer):
    strategy, _ = trained
    last = to_avalanche(make_stream(), tokenizer).test_stream[1]
    assert accuracy(strategy.model, last) > 0.75  # chance is 0.5 among its own labels, 0.25 among all


def test_the_loss_falls_below_guessing_in_every_experience(trained):
    _, recorder = trained
    half = len(recorder.losses) // 2
    for losses in (recorder.losses[:half], recorder.losses[half:]):
        assert sum(losses[-6:]) / 6 < 0.5 * math.log(2)
        assert sum(losses[-6:]) < 0.5 * sum(losses[:6])


def test_every_row_arrives_once_an_epoch(trained, tokenizer):
    _, recorder = trained
    expected = [
        Counter(tuple(tokenizer(text)["input_ids"]) for text in stage.train["text"]) for stage in make_stream().stages
    ]
    assert len(recorder.epochs) == 24
    assert [Counter(rows) for rows in recorder.epochs] == [*[expected[0]] * 12, *[expected[1]] * 12]


def test_naive_evaluates_on_the_test_stream(tokenizer):
    benchmark = to_avalanche(make_stream(), tokenizer)
    strategy, _ = train(benchmark, tokenizer, epochs=1)
    found = {name[-6:]: value for name, value in strategy.eval(benchmark.test_stream).items()}
    assert found == {f"Exp00{i}": accuracy(strategy.model, benchmark.test_stream[i]) for i in range(2)}


@pytest.mark.parametrize("scenario", ["class_incremental", "task_incremental"])
def test_avalanches_replay_brings_old_rows_back(tokenizer, scenario):
    from avalanche.training.plugins import ReplayPlugin

    benchmark = to_avalanche(make_stream(scenario), tokenizer)
    _, recorder = train(benchmark, tokenizer, [ReplayPlugin(mem_size=8)], epochs=1)
    old = {tuple(tokenizer(text)["input_ids"]) for text in make_stream().stages[0].train["text"]}
    new = {tuple(tokenizer(text)["input_ids"]) for text in make_stream().stages[1].train["text"]}
    assert not old & new
    assert len(old & set(recorder.epochs[1])) > 1


@pytest.mark.parametrize("plugin", ["EWCPlugin", "LwFPlugin"])
def test_avalanches_regularisers_train(tokenizer, plugin):
    from avalanche.training import plugins

    arguments = {"EWCPlugin": {"ewc_lambda": 1.0}, "LwFPlugin": {"alpha": 1.0, "temperature": 2.0}}
    regulariser = getattr(plugins, plugin)(**arguments[plugin])
    _, recorder = train(to_avalanche(make_stream(), tokenizer), tokenizer, [regulariser], epochs=2)
    _, naive = train(to_avalanche(make_stream(), tokenizer), tokenizer, epochs=2)
    assert recorder.losses[:12] == naive.losses[:12]
    assert recorder.losses[-1] != naive.losses[-1]


@pytest.mark.parametrize(
    ("scenario", "task_labels", "classes", "seen"),
    [
        ("class_incremental", [0, 0], [{0, 1}, {2, 3}], [{0, 1}, {0, 1, 2, 3}]),
        ("task_incremental", [0, 1], [{0, 1}, {2, 3}], [{0, 1}, {0, 1, 2, 3}]),
        ("domain_incremental", [0, 0], [{0, 1}, {0, 1}], [{0, 1}, {0, 1}]),
    ],
)
@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_experiences_carry_classes_and_task_labels(tokenizer, scenario, task_labels, classes, seen, name):
    experiences = list(getattr(to_avalanche(make_stream(scenario), tokenizer), f"{name}_stream"))
    assert [experience.task_label for experience in experiences] == task_labels
    assert [experience.task_labels for experience in experiences] == [[label] for label in task_labels]
    assert [set(experience.classes_in_this_experience) for experience in experiences] == classes
    assert [set(experience.classes_seen_so_far) for experience in experiences] == seen
    assert [{row[2] for row in experience.dataset} for experience in experiences] == [{label} for label in task_labels]


def test_streams_hold_the_rows_of_their_splits(tokenizer):
    benchmark = to_avalanche(make_stream(), tokenizer)
    lengths = {name: [len(e.dataset) for e in experiences] for name, experiences in benchmark.streams.items()}
    assert lengths == {"train": [21, 21], "valid": [6, 6], "test": [10, 10]}


def test_a_row_is_token_ids_with_class_index_and_task_label(tokenizer):
    stream = make_stream("task_incremental")
    row = to_avalanche(stream, tokenizer).train_stream[1].dataset[0]
    text, label = stream.stages[1].train["text"][0], stream.stages[1].train["label"][0]
    assert row == [{"input_ids": tokenizer(text)["input_ids"]}, stream.labels.index(label), 1]


def test_rows_are_cut_to_max_length(tokenizer):
    rows = to_avalanche(make_stream(), tokenizer, max_length=3).train_stream[0].dataset
    assert {len(row[0]["input_ids"]) for row in rows} == {3}


def test_a_batch_is_padded_on_the_right_to_its_longest_row(tokenizer):
    rows = [[{"input_ids": [2, 5, 3]}, 0, 7], [{"input_ids": [2, 5, 6, 7, 3]}, 1, 8]]
    inputs, targets, task_labels = text_collate(tokenizer)(rows)
    assert inputs["input_ids"].tolist() == [[2, 5, 3, 0, 0], [2, 5, 6, 7, 3]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert (targets.tolist(), task_labels.tolist()) == ([0, 1], [7, 8])
    assert "token_type_ids" not in inputs


def test_pairs_and_single_texts_share_a_batch(tokenizer):
    rows = [[{"input_ids": [2, 5, 3]}, 0, 0], [{"input_ids": [2, 5, 3, 6, 3], "token_type_ids": [0, 0, 0, 1, 1]}, 1, 0]]
    inputs, _, _ = text_collate(tokenizer)(rows)
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]


def test_a_batch_moves_to_a_device_as_avalanche_moves_it(tokenizer):
    inputs = text_collate(tokenizer)([[{"input_ids": [2, 3]}, 0, 0]])[0].to("meta", non_blocking=True)
    assert inputs["input_ids"].device.type == "meta"


def test_rows_and_collate_can_be_pickled_for_worker_processes(tokenizer):
    dataset = to_avalanche(make_stream(), tokenizer).train_stream[0].dataset
    copy = pickle.loads(pickle.dumps(dataset))
    assert (
        copy.collate_fn([copy[0]])[0]["input_ids"].tolist() == dataset.collate_fn([dataset[0]])[0]["input_ids"].tolist()
    )


def test_another_objective_is_refused_by_stage(tokenizer):
    stage = Stage("tags", split(LABELS[0], 4), split(LABELS[0], 2), split(LABELS[0], 2), LABELS[0], objective="tagging")
    with pytest.raises(DataError, match=r"stage 'tags': .*classification, got tagging"):
        to_avalanche(Stream("toy", (stage,)), tokenizer)


def test_a_label_outside_the_stream_is_refused_by_stage_and_split(tokenizer):
    stage = Stage("s", split(("red", "odd"), 4), split(LABELS[0], 2), split(LABELS[0], 2), LABELS[0])
    with pytest.raises(DataError, match=r"stage 's' train: a label must be one of the stream's, got 'odd'"):
        to_avalanche(Stream("toy", (stage,)), tokenizer)


def test_importing_the_packages_loads_nothing_heavy():
    code = """
import sys
import cl_mlm, cl_mlm.data.hygiene, streams, strategies, streams.avalanche
heavy = ("avalanche", "transformers", "mlflow", "torchvision", "torch", "datasets", "pyarrow", "pandas", "matplotlib")
print([name for name in heavy if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
