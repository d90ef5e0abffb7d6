"""Rows that lack a value in a column that rows may have: the one that makes stages, a second text, answers."""

import json

import pytest
from datasets import Dataset

from cl_mlm.data import by_field
from cl_mlm.errors import DataError
from streams.files import files
from streams.hub import hub


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def json_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(gap, column="domain", number=30):
    """Returns rows of which every fifth has `gap` in a column."""
    own = {"domain": ("x", "y"), "text_pair": ("z", "z")}[column]
    return [
        {"text": f"{'pq'[i % 2]} {i}", "label": "pq"[i % 2], column: own[i // 2 % 2] if i % 5 else gap}
        for i in range(number)
    ]


@pytest.mark.parametrize(("name", "gap"), [("d.jsonl", None), ("d.jsonl", " "), ("d.csv", ""), ("d.csv", " ")])
@pytest.mark.parametrize("column", ["domain", "text_pair"])
def test_gaps_of_a_column_that_the_file_has_are_refused_or_dropped(tmp_path, name, gap, column):
    path = str(tmp_path / name)
    if name.endswith("csv"):
        lines = [f"text,label,{column}", *(",".join(row.values()) for row in rows(gap, column))]
        (tmp_path / name).write_text("\n".join(lines))
    else:
        json_file(tmp_path / name, rows(gap, column))
    cut = {"stages_by": "field", "field": "domain"} if column == "domain" else {"labels_per_stage": 1}
    first = "2, 7, 12" if name.endswith("csv") else "1, 6, 11"
    told = rf"{name}: no {column} in 6 rows, first at lines {first}; .*got .*; missing: drop leaves such rows out"
    with pytest.raises(DataError, match=told):
        files(path=path, **cut)
    stream = files(path=path, missing="drop", **cut)
    assert stream.notes[0] == f"{name}: 6 rows without {column} dropped, first at lines {first}"
    assert "" not in [stage.name.strip() for stage in stream.stages]
    assert sum(len(stage.train) + len(stage.validation) + len(stage.test) for stage in stream.stages) == 24


def test_every_file_of_a_folder_is_told(tmp_path):
    json_file(tmp_path / "train.jsonl", rows(None))
    json_file(tmp_path / "test.jsonl", rows(None, number=10))
    with pytest.raises(DataError) as caught:
        files(path=str(tmp_path), stages_by="field", field="domain")
    told = "".join(caught.value.problems)
    assert "train.jsonl: no domain in 6 rows" in told
    assert "test.jsonl: no domain in 2 rows, at lines 1, 6; line 1: got None; missing: drop" in told


def test_columns_that_nothing_reads_may_have_gaps(tmp_path):
    path = json_file(tmp_path / "d.jsonl", rows(None))
    assert len(files(path=path, labels_per_stage=1).stages) == 2


@pytest.mark.parametrize("gap", [{"text": [], "answer_start": []}, None])
def test_a_question_without_an_answer_lacks_a_value(tmp_path, gap):
    good = {"context": "a red c", "question": "which?", "answers": {"text": ["red"], "answer_start": [2]}}
    path = json_file(tmp_path / "d.jsonl", [*([good] * 10), {**good, "answers": gap}])
    given = {"path": path, "stages_by": "whole", "objective": "question_answering"}
    with pytest.raises(DataError, match=r"d.jsonl:11: no answers, got .*; missing: drop leaves such rows out"):
        files(**given)
    assert files(**given, missing="drop").notes[0] == "d.jsonl: 1 row without answers dropped, at line 11"


def test_a_row_without_words_lacks_a_value_and_one_without_labels_does_not(tmp_path):
    good = {"tokens": ["a", "b"], "tags": ["O", "B-x"]}
    path = json_file(tmp_path / "d.jsonl", [*([good] * 10), {"tokens": [], "tags": []}])
    with pytest.raises(DataError, match=r"d.jsonl:11: no tokens, got \[\]; missing: drop"):
        files(path=path, stages_by="whole", objective="tagging")
    many = json_file(tmp_path / "m.jsonl", [{"text": f"t {i}", "labels": ["a"][: i % 2]} for i in range(10)])
    assert files(path=many, stages_by="whole", objective="multilabel").notes[0].startswith("test carved")


def test_gaps_of_the_hub_are_dropped_or_refused(tmp_path):
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        Dataset.from_list(rows("")).to_parquet(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    given = {"dataset": str(tmp_path / "hub"), "revision": "main", "stages_by": "field", "field": "domain"}
    with pytest.raises(DataError, match="train and validation and test: must have a domain in every row, got blank"):
        hub(**given)
    stream = hub(**given, missing="drop")
    assert sorted(stage.name for stage in stream.stages) == ["x", "y"]
    assert stream.notes[0].startswith("train: 6 rows without text or label or domain dropped")


def test_a_stage_has_no_blank_name():
    splits = {split: Dataset.from_list(rows("")) for split in ("train", "validation", "test")}
    with pytest.raises(DataError, match="must have a domain in every row, got blank ones"):
        by_field(splits, "domain", name="s")


def test_notes_name_the_file_of_a_stage_once(tmp_path):
    (tmp_path / "a.csv").write_text("text;label\n" + "".join(f"{'pq'[i % 2]} {i};{'pq'[i % 2]}\n" for i in range(20)))
    notes = files(path=str(tmp_path), stages_by="files", stages=[{"path": "a.csv"}]).notes
    assert notes[0] == "a.csv: columns are separated by ';'"
