from contextlib import contextmanager

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from typing_extensions import override

from cl_mlm.batch import Outputs
from cl_mlm.config.schema import Config, EvaluationConfig, TrainingConfig
from cl_mlm.data.tasks import tasks_of
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stage, Stream, pack_row_ids
from cl_mlm.training.evaluation import Evaluated, evaluate, scorable_columns

TOKENIZER = letter_tokenizer()
# A text's letters name its label; the model below gives each class the number of its letter in the text.
LETTERS = "abcd"


class Counter(nn.Module):
    """Stands in for a backbone: logit c of a row is how often letter c stands in it."""

    tokenizer, kind, is_shared = TOKENIZER, "sequence", False

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.device = torch.device("cpu")
        self.sizes = []

    @property
    def model(self):
        return self

    def forward(self, batch):
        self.sizes.append(tuple(batch.inputs["input_ids"].shape))
        ids = TOKENIZER.convert_tokens_to_ids(list(LETTERS))
        counts = torch.stack([(batch.inputs["input_ids"] == i).sum(1) for i in ids], 1).float()
        return Outputs(self.frozen(self.dropout(counts[:, : self.num_classes])) + self.anchor, lambda: counts)


def split_of(*rows):
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})


FIRST = split_of(("a a b", "a"), ("b b", "b"), ("b a a a", "b"), ("a", "a"))
SECOND = split_of(("c c a", "c"), ("a d", "d"), ("d d", "d"))


@pytest.fixture
def counting_run(run_of, tmp_path, monkeypatch):
    """A run of two stages on a `Counter` that knows the labels of the first `seen`."""
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path))

    def make(*strategies, seen=2, batch_size=256, scenario="class_incremental", groups=("ab", "cd")):
        stages = tuple(
            Stage(f"stage {i}", split, split, split, tuple(labels))
            for i, (split, labels) in enumerate(zip((FIRST, SECOND), groups, strict=True))
        )
        stream = Stream("letters", stages, scenario)
        training = TrainingConfig(device="cpu", threads=1)
        config = Config(training=training, evaluation=EvaluationConfig(batch_size=batch_size))
        return run_of(config, stream, lambda labels: Counter(len(labels)), strategies, last_stage=seen - 1)

    return make


def test_predictions_and_references_are_in_the_order_of_the_ids(counting_run):
    found = evaluate(counting_run(), "test", [0, 1])
    assert found.ids.tolist() == [*pack_row_ids(0, range(4)).tolist(), *pack_row_ids(1, range(3)).tolist()]
    assert found.references == list("abbacdd")
    assert found.predictions == list("abaacad")


def test_a_score_is_the_accuracy_over_a_whole_column(counting_run):
    scores = evaluate(counting_run(), "test", [0, 1]).scores
    assert {j: score["score"] for j, score in scores.items()} == {0: 3 / 4, 1: 2 / 3}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_the_size_of_batches_changes_nothing(batch_size, counting_run):
    whole, parts = (
        evaluate(counting_run(), "test", [0, 1]),
        evaluate(counting_run(batch_size=batch_size), "test", [0, 1]),
    )
    assert whole.scores == parts.scores
    assert np.array_equal(whole.ids, parts.ids)
    assert (whole.predictions, whole.references) == (parts.predictions, parts.references)
    np.testing.assert_allclose(parts.probability, whole.probability, rtol=1e-6)


def test_one_pass_over_all_columns_comes_in_order_of_length(counting_run):
    run = counting_run(batch_size=3)
    evaluate(run, "test", [0, 1])
    assert run.network.model.sizes == [(3, 6), (3, 4), (1, 3)]


def test_probabilities_are_those_of_the_choice_and_of_the_reference(counting_run):
    found = evaluate(counting_run(), "test", [1])
    first = np.exp([1.0, 0.0, 2.0, 0.0]) / np.exp([1.0, 0.0, 2.0, 0.0]).sum()  # "c c a"
    second = np.exp([1.0, 0.0, 0.0, 1.0]) / np.exp([1.0, 0.0, 0.0, 1.0]).sum()  # "a d"
    assert found.probability[:2] == pytest.approx([first[2], second[0]], rel=1e-5)
    assert found.reference_probability[:2] == pytest.approx([first[2], second[3]], rel=1e-5)


def test_a_task_incremental_row_is_predicted_among_its_own_stages_labels(counting_run):
    found = evaluate(counting_run(scenario="task_incremental"), "test", [1])
    assert found.predictions == list("cdd")
    assert found.scores[1]["score"] == 1.0


def test_a_column_with_one_label_known_is_scored_among_what_is_known(counting_run):
    run = counting_run(seen=1, scenario="task_incremental", groups=("abc", "cd"))
    assert scorable_columns(run.stream, run.tasks) == [0, 1]
    assert evaluate(run, "test", [1]).scores[1]["score"] == 1 / 3


def test_modes_of_all_modules_are_restored(counting_run):
    run = counting_run()
    evaluate(run, "test", [0])
    model = run.network.model
    modes = (model.training, model.dropout.training, model.frozen.training)
    assert modes == (True, True, False)


def test_dropout_is_off_while_scoring(counting_run):
    """With half of the counts dropped and the rest doubled, two passes would differ."""
    torch.manual_seed(0)
    run = counting_run()
    first, second = evaluate(run, "test", [0, 1]), evaluate(run, "test", [0, 1])
    assert np.array_equal(first.probability, second.probability)


def test_modes_are_restored_after_an_error(counting_run):
    run = counting_run()
    run.network.backbone.forward = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluate(run, "test", [0])
    assert run.network.model.dropout.training


class Swap(Strategy):
    def __init__(self):
        self.calls = []

    @override
    @contextmanager
    def evaluation(self, run, columns):
        self.calls.append(("in", tuple(columns), len(run.model.sizes)))
        try:
            yield
        finally:
            self.calls.append(("out", tuple(columns), len(run.model.sizes)))


def test_strategies_are_around_the_pass_and_hear_the_columns_names(counting_run):
    swap = Swap()
    evaluate(counting_run(swap), "test", [0, 1])
    assert swap.calls == [("in", ("stage 0", "stage 1"), 0), ("out", ("stage 0", "stage 1"), 1)]


def test_strategies_are_left_after_an_error(counting_run):
    swap = Swap()
    run = counting_run(swap)
    run.network.backbone.forward = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluate(run, "test", [0])
    assert [name for name, *_ in swap.calls] == ["in", "out"]


def test_no_gradients_are_kept(counting_run):
    run, seen = counting_run(), []
    forward = run.network.backbone.forward
    run.network.backbone.forward = lambda batch: seen.append(forward(batch)) or seen[-1]
    evaluate(run, "test", [0])
    assert not seen[0].logits.requires_grad


def test_the_row_of_the_matrix_is_nan_where_a_column_was_not_evaluated(counting_run):
    row = evaluate(counting_run(), "test", [1]).row(3)
    assert row[1] == 2 / 3
    assert np.isnan([row[0], row[2]]).all()


def test_no_columns_are_no_rows(counting_run):
    found = evaluate(counting_run(), "test", [])
    assert (len(found.ids), found.scores) == (0, {})


@pytest.mark.parametrize(
    ("seen", "groups", "known"), [(1, ("ab", "cd"), [0]), (2, ("ab", "cd"), [0, 1]), (1, ("ab", "ab"), [0, 1])]
)
def test_columns_are_known_when_one_of_their_labels_is(seen, groups, known):
    stages = tuple(Stage(str(i), FIRST, FIRST, FIRST, tuple(labels)) for i, labels in enumerate(groups))
    stream = Stream("s", stages)
    tasks = tasks_of(stream)
    tasks.count_labels(seen - 1, -1)
    assert scorable_columns(stream, tasks) == known


def test_evaluated_is_frozen(counting_run):
    found = evaluate(counting_run(), "test", [0])
    assert isinstance(found, Evaluated)
    with pytest.raises(AttributeError):
        found.scores = {}
