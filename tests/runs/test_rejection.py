"""Rows that belong to no class: told from the others by how sure the model is."""

from types import SimpleNamespace

import pytest
import torch

import cl_mlm
from cl_mlm.batch import Batch, Outputs
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification

OBJECTIVE = Classification(reject="oos", reject_below=0.6)
P = [[0.7, 0.3], [0.5, 0.5], [0.35, 0.65]]


def predicted(objective, allowed=None):
    logits = torch.tensor(P).log()
    run = SimpleNamespace(classes=["a", "b"], forward=lambda _: Outputs(logits, lambda: logits))
    mask = None if allowed is None else torch.tensor(allowed)
    return objective.predict(run, Batch({}, torch.tensor([0, 5, 1]), torch.arange(3), torch.ones(3), allowed=mask))


def test_a_row_of_which_the_model_is_not_sure_is_rejected():
    found = predicted(OBJECTIVE)
    assert found.values == ["a", "oos", "b"]
    assert found.probability.tolist() == pytest.approx([0.7, 0.5, 0.65])
    assert found.reference_probability.tolist() == pytest.approx([0.7, 0, 0.65])


def test_a_row_that_may_have_one_class_only_is_never_rejected():
    assert predicted(OBJECTIVE, [[True, False]] * 3).values == ["a", "a", "a"]


def test_without_a_label_to_reject_with_every_row_has_a_class():
    assert "oos" not in predicted(Classification(reject_below=0.99)).values


def test_scores_tell_rows_in_scope_from_others():
    found = OBJECTIVE.score(["a", "oos", "oos", "b"], ["a", "b", "oos", "oos"], ["a", "b"])
    assert found["score"] == found["accuracy"] == 0.5
    assert found["in_scope_accuracy"] == 0.5
    assert found["rejection_recall"] == 0.5


def test_a_score_without_such_rows_is_left_out():
    assert "rejection_recall" not in OBJECTIVE.score(["a"], ["a"], ["a"])
    assert "in_scope_accuracy" not in OBJECTIVE.score(["a"], ["oos"], ["a"])
    assert set(Classification().score(["a"], ["a"], ["a"])) == {"score", "accuracy", "macro_f1"}


def test_a_rejected_row_has_a_target_beyond_all_classes():
    rows = {"text": ["x", "y"], "label": ["oos", "b"]}
    assert OBJECTIVE.encode(rows, letter_tokenizer(), {"a": 0, "b": 1}, 16)["target"] == [2, 1]


def test_a_label_that_is_neither_known_nor_rejected_is_no_target():
    with pytest.raises(KeyError):
        OBJECTIVE.encode({"text": ["x"], "label": ["c"]}, letter_tokenizer(), {"a": 0}, 16)


@pytest.mark.parametrize("below", [0, 1, 1.5, float("nan")])
def test_a_bound_that_is_no_probability_is_named(below):
    assert Classification("oos", below).faults(128) == [f"reject_below: must be above 0 and below 1, got {below}"]


def test_an_empty_label_to_reject_with_is_named():
    assert Classification("").faults(128) == ["reject: must be a label or null, got an empty one"]


def strange(split, number):
    return [{"text": f"zebra {i} {split}", "label": "oos"} for i in range(number)]


@pytest.fixture
def layer(fast, write_rows, tmp_path):
    from copy import deepcopy

    def make(train=0, reject="oos"):
        import json

        folder = write_rows(tmp_path / "data")
        for split, number in {"train": train, "validation": 3, "test": 5}.items():
            with (folder / f"{split}.jsonl").open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in strange(split, number))
        made = deepcopy(fast)
        made["stream"] |= {"path": str(folder), "options": {"reject": reject}}
        made["training"]["epochs"] = 1
        return made

    return make


def test_a_stream_deals_rejected_rows_to_its_stages_and_scores_them(layer):
    import json

    import pyarrow.parquet as pq

    result = cl_mlm.run(layer(), progress=False)
    labels = [json.loads(line) for line in (result.folder / "journal.jsonl").read_text().splitlines()]
    logged = {name for line in labels if line["kind"] == "metrics" for name in line["values"]}
    assert {"test/in_scope_accuracy", "test/rejection_recall"} <= logged
    kept = pq.read_table(result.folder / "predictions" / "1.parquet").to_pydict()
    rejected = [c for c, r in zip(kept["column"], kept["reference"], strict=True) if r == "oos"]
    assert sorted(rejected) == ["labels-01"] * 3 + ["labels-02"] * 2
    from transformers import AutoConfig

    names = AutoConfig.from_pretrained(result.folder / "stages" / "001" / "model").label2id
    assert sorted(names) == ["cold", "hot", "loud", "quiet"]


def test_a_rejected_label_among_training_rows_is_refused(layer):
    with pytest.raises(cl_mlm.DataError, match=r"train: a label must be one of the stage's, got 'oos' in 2 rows"):
        cl_mlm.run(layer(train=4), progress=False)


def test_stages_by_folder_leave_the_rejected_label_out():
    from datasets import Dataset

    from cl_mlm.data.hygiene import clean
    from cl_mlm.data.staging import by_source

    splits = {
        split: Dataset.from_list([{"text": f"{label} {split}", "label": label} for label in labels])
        for split, labels in {"train": "ab", "validation": ["a", "oos"], "test": ["b", "oos"]}.items()
    }
    stream = by_source({"one": splits}, name="scope", options={"reject": "oos"})
    assert stream.labels == ("a", "b")
    clean(stream, "error")
