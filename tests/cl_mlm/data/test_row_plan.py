"""Rows that lack a value, and faults that many lines have in common."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cl_mlm.data.file_faults import FileFaults, same_in_many
from cl_mlm.data.file_format import Reading
from cl_mlm.data.files import read_file, read_splits
from cl_mlm.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))


def read(path, missing="error", required=("text", "label")):
    dataset, notes = read_file(path, Reading(missing=missing), required)
    return dataset.to_list(), notes


def faults(path, **more):
    with pytest.raises(DataError) as caught:
        read(path, **more)
    return [problem.replace(str(path), "F") for problem in caught.value.problems]


def json_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GAPS = [{"text": "x", "label": gap} for gap in (None, "", "  ", math.nan)] + [{"text": "x"}]
GOOD = {"text": "y", "label": "a"}


def test_rows_with_gaps_are_refused_or_dropped_and_counted(tmp_path):
    path = json_file(tmp_path / "a.jsonl", [GOOD, *GAPS, GOOD])
    assert faults(path) == [
        "F: no label in 5 rows, first at lines 2, 3, 4; line 2: got None; missing: drop leaves such rows out"
    ]
    assert read(path, "drop") == ([GOOD, GOOD], ["5 rows without label dropped, first at lines 2, 3, 4"])


def test_whole_numbers_stay_whole_beside_dropped_gaps(tmp_path):
    path = json_file(tmp_path / "a.jsonl", [{"text": "x", "label": value} for value in (3, math.nan, 4)])
    assert [row["label"] for row in read(path, "drop")[0]] == ["3", "4"]


def test_gaps_of_tables_are_empty_fields_and_nan_is_a_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\nx,NaN\n,a\n" ",a\ny,\n,\nz,null\n')
    rows, notes = read(path, "drop")
    assert [row["label"] for row in rows] == ["NaN", "null"]
    assert notes == [
        "2 rows without text dropped, at lines 3, 4",
        "1 row without label dropped, at line 5",
        "1 row without text and label dropped, at line 6",
    ]


def test_gaps_of_parquet_are_nulls(tmp_path):
    pq.write_table(pa.table({"text": ["x", None, "z"], "label": ["a", "b", None]}), tmp_path / "a.parquet")
    rows, notes = read(tmp_path / "a.parquet", "drop")
    assert rows == [{"text": "x", "label": "a"}]
    assert notes == ["1 row without text dropped, at row 2", "1 row without label dropped, at row 3"]


def test_a_file_of_which_all_rows_are_dropped_has_none(tmp_path):
    found = faults(json_file(tmp_path / "a.jsonl", GAPS), missing="drop")
    assert found == ["F: no rows: 5 rows without label dropped, first at lines 1, 2, 3"]


def test_other_faults_are_no_gaps(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\nx,a\n,b\ntoo,many,fields\n")
    assert faults(path, missing="drop") == [
        "F:4: must have 2 fields as the header has, got 3; a field that holds ',' must be quoted"
    ]


def test_a_note_is_told_by_the_file_that_it_is_of(tmp_path):
    json_file(tmp_path / "train.jsonl", [GOOD, GAPS[0]])
    (tmp_path / "test.csv").write_text("text;label\nx;a\n")
    (tmp_path / "dev.csv").write_text("text;label\nx;a\n")
    notes = []
    read_splits(tmp_path, reading=Reading(missing="drop"), notes=notes)
    assert notes == [
        "train.jsonl: 1 row without label dropped, at line 2",
        "dev.csv, test.csv: columns are separated by ';'",
    ]


def test_one_kind_of_fault_is_one_line_with_the_number_and_the_first_lines(tmp_path):
    faults_of_file = FileFaults(tmp_path / "train.csv")
    for line in (3, 9, 14, *range(100, 409)):
        faults_of_file.add(line, "no label", ", got ''")
    faults_of_file.add(5, "no text")
    faults_of_file.add(None, "of the whole file")
    assert faults_of_file.problems() == [
        f"{tmp_path}/train.csv: no label in 312 rows, first at lines 3, 9, 14; line 3: got ''",
        f"{tmp_path}/train.csv:5: no text",
        f"{tmp_path}/train.csv: of the whole file",
    ]


def test_the_same_fault_of_many_files_is_told_once():
    problems = {f"data/{name}": [f"data/{name}:1: no column 'text'", f"data/{name}: odd {name}"] for name in "abcdefg"}
    assert same_in_many(problems) == [
        "data/a:1: no column 'text' (the same in 6 more: b, c, d, ...)",
        *(f"data/{name}: odd {name}" for name in "abcdefg"),
    ]


def test_the_splits_of_a_folder_tell_the_same_fault_once(tmp_path):
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.csv").write_text("utterance,intent\nx,a\n")
    with pytest.raises(DataError) as caught:
        read_splits(tmp_path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path}/train.csv:2: no column 'text' and no 'label'; columns: utterance, intent; ")
    assert problem.endswith("(the same in 2 more: dev.csv, test.csv)")


def test_blanks_of_one_column_are_one_kind_of_fault(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n,a\nx,\n ,a\n")
    assert faults(path) == [
        "F: no text in 2 rows, at lines 2, 4; line 2: got ''; missing: drop leaves such rows out",
        "F:3: no label, got ''; missing: drop leaves such rows out",
    ]


def test_the_same_fault_of_few_spans_is_one_line(tmp_path):
    path = json_file(tmp_path / "a.jsonl", [{"text": "x y", "head": [0, 1], "tail": [2, 99], "label": "a"}] * 3)
    (fault,) = faults(path, required=("tokens", "head", "tail", "label"))
    assert fault.startswith("F: spans do not fit in 3 rows, at lines 1, 2, 3; line 1: tail must have 0 <= start")


def test_rows_of_an_array_in_one_line_are_told_by_their_number(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([GOOD, GOOD, GAPS[0]]))
    assert faults(path) == ["F: row 3: no label, got None; missing: drop leaves such rows out"]
    path.write_text(json.dumps([GOOD, GOOD, *GAPS]))
    assert faults(path)[0].startswith("F: no label in 5 rows, first at rows 3, 4, 5; row 3: got None")
    path.write_text(json.dumps([GOOD, GOOD])[:-1] + "\n, 7x]")
    assert any("in line 2" in fault for fault in faults(path))
