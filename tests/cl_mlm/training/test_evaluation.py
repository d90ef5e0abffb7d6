from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from torch import nn
from typing_extensions import override

from cl_mlm.batch import Outputs
from cl_mlm.config.schema import Config, EvaluationConfig, TrainingConfig
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification
from cl_mlm.scores.labels import macro_f1, per_class
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stage, Stream, pack_row_ids
from cl_mlm.task import LabelSpace, Tasks
from cl_mlm.training.evaluation import Evaluated, evaluate, known_columns
from cl_mlm.training.hardware import make_accelerator
from cl_mlm.training.run import Run

TOKENIZER = letter_tokenizer()
# A text's letters name its label; the model below gives each class the number of its letter in the text.
LETTERS = "abcd"


class Counter(nn.Module):
    """Stands in for a backbone: logit c of a row is how often letter c stands in it."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.device = torch.device("cpu")
        self.sizes = []

    def forward(self, batch):
        self.sizes.append(tuple(batch.inputs["input_ids"].shape))
        ids = TOKENIZER.convert_tokens_to_ids(list(LETTERS))
        counts = torch.stack([(batch.inputs["input_ids"] == i).sum(1) for i in ids], 1).float()
        return Outputs(self.frozen(self.dropout(counts[:, : self.num_classes])) + self.anchor, lambda: counts)


def split_of(*rows):
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})


FIRST = split_of(("a a b", "a"), ("b b", "b"), ("b a a a", "b"), ("a", "a"))
SECOND = split_of(("c c a", "c"), ("a d", "d"), ("d d", "d"))


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path))
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


def run_of(*strategies, seen=2, batch_size=256, scenario="class_incremental", groups=("ab", "cd")):
    stages = tuple(
        Stage(f"stage {i}", split, split, split, tuple(labels))
        for i, (split, labels) in enumerate(zip((FIRST, SECOND), groups, strict=True))
    )
    stream = Stream("letters", stages, scenario)
    labels = LabelSpace(stream)
    labels.begin(seen - 1, -1)
    training = TrainingConfig(device="cpu", threads=1)
    config = Config(training=training, evaluation=EvaluationConfig(batch_size=batch_size))
    model = Counter(len(labels.seen))
    backbone = SimpleNamespace(model=model, tokenizer=TOKENIZER, forward=model.forward, kind="sequence")
    return Run(config, stream, strategies, backbone, Classification(), labels, make_accelerator(config))


def test_predictions_and_references_are_in_the_order_of_the_ids():
    found = evaluate(run_of(), "test", [0, 1])
    assert found.ids.tolist() == [*pack_row_ids(0, range(4)).tolist(), *pack_row_ids(1, range(3)).tolist()]
    assert found.references == list("abbacdd")
    assert found.predictions == list("abaacad")


def test_a_score_is_the_accuracy_over_a_whole_column():
    scores = evaluate(run_of(), "test", [0, 1]).scores
    assert {j: score["score"] for j, score in scores.items()} == {0: 3 / 4, 1: 2 / 3}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_the_size_of_batches_changes_nothing(batch_size):
    whole, parts = evaluate(run_of(), "test", [0, 1]), evaluate(run_of(batch_size=batch_size), "test", [0, 1])
    assert whole.scores == parts.scores
    assert np.array_equal(whole.ids, parts.ids)
    assert (whole.predictions, whole.references) == (parts.predictions, parts.references)
    np.testing.assert_allclose(parts.probability, whole.probability, rtol=1e-6)


def test_one_pass_over_all_columns_comes_in_order_of_length():
    run = run_of(batch_size=3)
    evaluate(run, "test", [0, 1])
    assert run.model.sizes == [(3, 6), (3, 4), (1, 3)]


def test_probabilities_are_those_of_the_choice_and_of_the_reference():
    found = evaluate(run_of(), "test", [1])
    first = np.exp([1.0, 0.0, 2.0, 0.0]) / np.exp([1.0, 0.0, 2.0, 0.0]).sum()  # "c c a"
    second = np.exp([1.0, 0.0, 0.0, 1.0]) / np.exp([1.0, 0.0, 0.0, 1.0]).sum()  # "a d"
    assert found.probability[:2] == pytest.approx([first[2], second[0]], rel=1e-5)
    assert found.reference_probability[:2] == pytest.approx([first[2], second[3]], rel=1e-5)


def test_a_task_incremental_row_is_predicted_among_its_own_stages_labels():
    found = evaluate(run_of(scenario="task_incremental"), "test", [1])
    assert found.predictions == list("cdd")
    assert found.scores[1]["score"] == 1.0


def test_a_column_with_one_label_known_is_scored_among_what_is_known():
    run = run_of(seen=1, scenario="task_incremental", groups=("abc", "cd"))
    assert known_columns(run) == [0, 1]
    assert evaluate(run, "test", [1]).scores[1]["score"] == 1 / 3


def test_modes_of_all_modules_are_restored():
    run = run_of()
    evaluate(run, "test", [0])
    modes = (run.model.training, run.model.dropout.training, run.model.frozen.training)
    assert modes == (True, True, False)


def test_dropout_is_off_while_scoring():
    """With half of the counts dropped and the rest doubled, two passes would differ."""
    torch.manual_seed(0)
    run = run_of()
    first, second = evaluate(run, "test", [0, 1]), evaluate(run, "test", [0, 1])
    assert np.array_equal(first.probability, second.probability)


def test_modes_are_restored_after_an_error():
    run = run_of()
    run.backbone.forward = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluate(run, "test", [0])
    assert run.model.dropout.training


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


def test_strategies_are_around_the_pass_and_hear_the_columns_names():
    swap = Swap()
    evaluate(run_of(swap), "test", [0, 1])
    assert swap.calls == [("in", ("stage 0", "stage 1"), 0), ("out", ("stage 0", "stage 1"), 1)]


def test_strategies_are_left_after_an_error():
    swap = Swap()
    run = run_of(swap)
    run.backbone.forward = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluate(run, "test", [0])
    assert [name for name, *_ in swap.calls] == ["in", "out"]


def test_no_gradients_are_kept():
    run, seen = run_of(), []
    forward = run.backbone.forward
    run.backbone.forward = lambda batch: seen.append(forward(batch)) or seen[-1]
    evaluate(run, "test", [0])
    assert not seen[0].logits.requires_grad


def test_the_row_of_the_matrix_is_nan_where_a_column_was_not_evaluated():
    row = evaluate(run_of(), "test", [1]).row(3)
    assert row[1] == 2 / 3
    assert np.isnan([row[0], row[2]]).all()


def test_no_columns_are_no_rows():
    found = evaluate(run_of(), "test", [])
    assert (len(found.ids), found.scores) == (0, {})


@pytest.mark.parametrize(
    ("seen", "groups", "known"), [(1, ("ab", "cd"), [0]), (2, ("ab", "cd"), [0, 1]), (1, ("ab", "ab"), [0, 1])]
)
def test_columns_are_known_when_one_of_their_labels_is(seen, groups, known):
    stages = tuple(Stage(str(i), FIRST, FIRST, FIRST, tuple(labels)) for i, labels in enumerate(groups))
    stream = Stream("s", stages)
    labels = LabelSpace(stream)
    labels.begin(seen - 1, -1)
    tasks = Tasks.single(stream, Classification(), labels)
    assert known_columns(SimpleNamespace(tasks=tasks, stream=stream)) == known


def test_per_class_numbers_by_hand():
    """a: 2 of 3 predicted are right, 2 of 3 present are found; b: 1 of 2 and 1 of 1."""
    rows = per_class(["a", "a", "a", "b", "b"], ["a", "a", "b", "a", "b"], ["a", "b"])
    a, b = rows
    assert a == {"label": "a", "precision": 2 / 3, "recall": 2 / 3, "f1": pytest.approx(2 / 3), "rows": 3}
    assert b == {"label": "b", "precision": 1 / 2, "recall": 1 / 2, "f1": pytest.approx(1 / 2), "rows": 2}


def test_per_class_quotients_by_zero_are_none():
    never_predicted, absent, neither = per_class(["b", "b"], ["a", "a"], ["a", "b", "c"])
    assert never_predicted == {"label": "a", "precision": None, "recall": 0.0, "f1": 0.0, "rows": 2}
    assert absent == {"label": "b", "precision": 0.0, "recall": None, "f1": 0.0, "rows": 0}
    assert neither == {"label": "c", "precision": None, "recall": None, "f1": None, "rows": 0}


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    (row,) = per_class(["a", "a", "a", "a", "b"], ["a", "b", "b", "b", "a"], ["a"])
    assert (row["precision"], row["recall"]) == (1 / 4, 1 / 2)
    assert row["f1"] == pytest.approx(2 / (4 + 2))


def test_macro_f1_is_the_mean_over_the_labels_that_occur():
    """a: 2 of 4 and 2 of 3 (F1 4/7); b: 1 of 1 and 1 of 2 (2/3); c, present once, is never predicted (0)."""
    found = macro_f1(["a", "a", "a", "a", "b"], ["a", "a", "b", "c", "b"])
    assert found == pytest.approx((2 * 2 / (4 + 2) + 2 * 1 / (1 + 2) + 0) / 3)


def test_evaluated_is_frozen():
    found = evaluate(run_of(), "test", [0])
    assert isinstance(found, Evaluated)
    with pytest.raises(AttributeError):
        found.scores = {}
