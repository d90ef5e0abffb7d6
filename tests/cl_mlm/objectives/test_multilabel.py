import math
from types import SimpleNamespace

import pytest
import torch

from cl_mlm.batch import Outputs
from cl_mlm.errors import DataError
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.multilabel import Multilabel

OBJECTIVE = Multilabel()
CLASSES = ["wet", "cold", "loud"]
ROWS = {"text": ["a", "b b", "c"], "labels": [["loud", "wet"], [], ["cold", "far"]]}
LABELS = {"wet": 0, "cold": 1, "loud": 2, "far": 3}
LOGITS = [[1.0, -2.0, 0.5], [-1.0, 2.0, -0.1], [0.0, 3.0, -4.0]]
WANTED = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]  # `far` comes later
ALLOWED = [[True, True, False], [False, False, True], [True, True, True]]


def batch_of(allowed=None):
    tokenizer = letter_tokenizer()
    batch = OBJECTIVE.collate(OBJECTIVE.encode(ROWS, tokenizer, LABELS, 32), torch.arange(3), tokenizer)
    return batch if allowed is None else batch.with_allowed(torch.tensor(allowed))


def outputs_of(logits=LOGITS):
    return Outputs(torch.tensor(logits), lambda: torch.zeros(0))


def entropy(logit, wanted):
    p = 1 / (1 + math.exp(-logit))
    return -math.log(p if wanted else 1 - p)


def test_target_classes_are_the_known_labels_of_a_row():
    assert OBJECTIVE.target_classes(batch_of(), 3).int().tolist() == WANTED
    assert OBJECTIVE.target_classes(batch_of(), 1).int().tolist() == [w[:1] for w in WANTED]
    assert OBJECTIVE.target_classes(batch_of(), 4).int().tolist() == [[*w, int(i == 2)] for i, w in enumerate(WANTED)]


def test_loss_is_the_mean_binary_cross_entropy_over_the_classes():
    expected = [sum(map(entropy, z, y)) / 3 for z, y in zip(LOGITS, WANTED, strict=True)]
    assert OBJECTIVE.loss(outputs_of(), batch_of()).tolist() == pytest.approx(expected, rel=1e-6)


def test_loss_is_over_the_allowed_classes_only():
    expected = [
        sum(entropy(z, y) for z, y, a in zip(*row, strict=True) if a) / sum(row[2])
        for row in zip(LOGITS, WANTED, ALLOWED, strict=True)
    ]
    assert OBJECTIVE.loss(outputs_of(), batch_of(ALLOWED)).tolist() == pytest.approx(expected, rel=1e-6)


def test_classes_that_are_not_allowed_get_no_gradient():
    logits = torch.tensor(LOGITS, requires_grad=True)
    OBJECTIVE.loss(Outputs(logits, lambda: logits), batch_of(ALLOWED)).sum().backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == ALLOWED


def test_mean_loss_is_the_models_own(model_folder):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder("bert"), num_labels=3, problem_type=OBJECTIVE.problem_type
    ).eval()
    batch = batch_of()
    with torch.no_grad():
        found = model(**batch.inputs, labels=torch.tensor(WANTED).float())
    losses = OBJECTIVE.loss(Outputs(found.logits, lambda: found.logits), batch)
    assert float(losses.sum() / batch.count.sum()) == pytest.approx(float(found.loss), rel=1e-6)


def test_sites_ask_yes_or_no_of_every_class():
    sites = OBJECTIVE.sites(outputs_of(), batch_of())
    assert sites.row.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sites.about.tolist() == [0, 1, 2] * 3
    assert sites.target.tolist() == torch.tensor(WANTED).flatten().tolist()
    assert sites.logits.tolist() == [[0.0, z] for z in torch.tensor(LOGITS).flatten().tolist()]


def test_cross_entropy_of_the_sites_is_the_loss():
    for allowed in (None, ALLOWED):
        batch = batch_of(allowed)
        sites = OBJECTIVE.sites(outputs_of(), batch)
        losses = torch.nn.functional.cross_entropy(sites.logits, sites.target, reduction="none")
        total = torch.zeros(3).index_add(0, sites.row, losses)
        torch.testing.assert_close(total / torch.bincount(sites.row), OBJECTIVE.loss(outputs_of(), batch))


def test_sites_leave_out_classes_that_a_row_may_not_have():
    sites = OBJECTIVE.sites(outputs_of(), batch_of(ALLOWED))
    found = torch.stack([sites.row, sites.about], -1)
    assert found.tolist() == torch.tensor(ALLOWED).nonzero().tolist()


@pytest.mark.parametrize(
    ("threshold", "allowed", "expected"),
    [
        (0.5, None, [["loud", "wet"], ["cold"], ["cold", "wet"]]),  # logit 0 is probability 0.5
        (0.7, None, [["wet"], ["cold"], ["cold"]]),
        (0.5, ALLOWED, [["wet"], [], ["cold", "wet"]]),
    ],
)
def test_predicted_are_the_labels_that_reach_the_threshold_sorted(threshold, allowed, expected):
    run = SimpleNamespace(classes=CLASSES, forward=lambda _: outputs_of())
    assert Multilabel(threshold).predict(run, batch_of(allowed)).values == expected


PREDICTIONS = [["cold", "wet"], ["wet"], [], ["loud"]]
REFERENCES = [["wet"], ["cold", "wet"], ["loud"], ["loud"]]


def test_scores_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    found = OBJECTIVE.score(PREDICTIONS, REFERENCES, CLASSES)
    one, two = ([[int(c in row) for c in CLASSES] for row in rows] for rows in (REFERENCES, PREDICTIONS))
    assert found["score"] == found["micro_f1"] == pytest.approx(metrics.f1_score(one, two, average="micro"))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(one, two, average="macro"))
    assert found["exact_match"] == pytest.approx(metrics.accuracy_score(one, two))


def test_scores_worked_out_by_hand():
    # Right: wet twice, loud once; 4 predicted, 5 present. F1: wet 1, cold 0, loud 2/3.
    found = OBJECTIVE.score(PREDICTIONS, REFERENCES, CLASSES)
    assert found == pytest.approx({"score": 6 / 9, "micro_f1": 6 / 9, "macro_f1": 5 / 9, "exact_match": 0.25})


def test_labels_of_other_columns_do_not_count():
    found = OBJECTIVE.score([["cold", "loud"]], [["cold"]], ["cold", "wet"])
    assert found == {"score": 1.0, "micro_f1": 1.0, "macro_f1": 1.0, "exact_match": 1.0}


def test_a_label_that_the_model_does_not_know_counts_as_missed():
    assert OBJECTIVE.score([["cold"]], [["cold", "far"]], ["cold", "far"])["score"] == pytest.approx(2 / 3)


def test_where_nothing_is_to_be_found_a_false_alarm_is_wrong_and_silence_right():
    assert OBJECTIVE.score([[]], [[]], CLASSES)["score"] == 1
    assert set(OBJECTIVE.score([["wet"]], [[]], CLASSES).values()) == {0.0}


def test_per_label_counts_rows_and_quotients():
    wet, cold, loud = OBJECTIVE.per_label(PREDICTIONS, REFERENCES, CLASSES)
    assert wet == {"label": "wet", "precision": 1.0, "recall": 1.0, "f1": 1.0, "rows": 2}
    assert cold == {"label": "cold", "precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 1}
    assert loud == {"label": "loud", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2}


def test_references_and_labels_of_rows():
    assert OBJECTIVE.references(ROWS) == [["loud", "wet"], [], ["cold", "far"]]
    assert OBJECTIVE.labels_of(ROWS) == ROWS["labels"]


def test_sound_rows_have_no_faults():
    assert OBJECTIVE.validate(ROWS, "here") == []


@pytest.mark.parametrize("wrong", [None, "wet", [""], [None], ["wet", 3]])
def test_labels_that_are_no_list_of_texts_are_named_with_their_row(wrong):
    rows = {"text": ["a", "b"], "labels": [["wet"], wrong]}
    expected = f"here: labels must be a list of non-empty strings, got {wrong!r} in row 1 (1 such rows)"
    assert OBJECTIVE.validate(rows, "here") == [expected]


def test_a_label_named_twice_is_named_with_its_row():
    rows = {"text": ["a", "b"], "labels": [["wet", "wet"], []]}
    expected = "here: labels must be named once each, got ['wet', 'wet'] in row 0 (1 such rows)"
    assert OBJECTIVE.validate(rows, "here") == [expected]


def test_a_missing_column_is_named():
    assert OBJECTIVE.validate({"text": ["a"]}, "here") == ["here: needs the column labels"]


@pytest.mark.parametrize("threshold", [0, 1, -0.5, float("nan")])
def test_a_threshold_that_is_no_probability_is_named(threshold):
    assert Multilabel(threshold).faults(128) == [f"threshold: must be above 0 and below 1, got {threshold}"]


def test_a_stage_has_the_labels_of_its_rows():
    from datasets import Dataset

    from cl_mlm.data.staging import by_field

    rows = [
        {"text": f"{domain} {i} {split}", "labels": labels, "domain": domain}
        for split in ("train", "validation", "test")
        for domain, every in (("day", [["sun"], []]), ("night", [["star", "sun"], ["moon"]]))
        for i, labels in enumerate(every)
    ]
    splits = {s: Dataset.from_list([r for r in rows if r["text"].endswith(s)]) for s in ("train", "validation", "test")}
    stream = by_field(splits, "domain", name="sky", scenario="class_incremental", objective="multilabel")
    assert [stage.labels for stage in stream.stages] == [("sun",), ("moon", "star", "sun")]
    assert stream.labels == ("sun", "moon", "star")


def test_stages_by_label_are_refused_with_what_is_allowed(write_rows, tmp_path):
    from cl_mlm.errors import ConfigError
    from streams.files import files

    with pytest.raises(ConfigError, match="labels needs an objective with the column label, got multilabel"):
        files(path=str(write_rows(tmp_path / "data")), objective="multilabel", labels_per_stage=1)


def test_a_null_among_the_labels_is_refused_with_its_row():
    from datasets import Dataset

    from cl_mlm.data.hygiene import clean
    from cl_mlm.stream import Stage, Stream

    def rows(split, labels):
        return Dataset.from_dict({"text": [f"{split} one", f"{split} two"], "labels": [["a"], labels]})

    splits = {"train": rows("train", ["b", None]), "validation": rows("v", ["b"]), "test": rows("t", ["b"])}
    stage = Stage("s", **splits, labels=("a", "b"), objective="multilabel")
    with pytest.raises(DataError, match=r"labels must be a list of non-empty strings, got \['b', None\] in row 1"):
        clean(Stream("m", (stage,)), "error")
