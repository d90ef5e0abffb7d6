import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from cl_mlm.data.file_faults import STOP_AFTER
from cl_mlm.data.file_rows import BLOCK_ROWS
from cl_mlm.data.files import find_folder, read_splits, read_table
from cl_mlm.errors import ConfigError, DataError

ROWS = [{"text": "how are you", "label": "greet"}, {"text": 'a "quoted", thing\nover lines', "label": "é"}]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CL_MLM_CACHE", str(folder))
    monkeypatch.delenv("CL_MLM_DATA", raising=False)
    return folder


def write(path, *lines):
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def json_file(path, rows):
    return write(path, *(json.dumps(row) for row in rows))


def faults(path, **options):
    with pytest.raises(DataError) as caught:
        read_table(path, **options)
    return [problem.replace(str(path), "F") for problem in caught.value.problems]


def parquet_file(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def csv_file(path, rows):
    delimiter = "\t" if path.suffix == ".tsv" else ","
    quoted = [delimiter.join('"' + row[name].replace('"', '""') + '"' for name in row) for row in rows]
    return write(path, delimiter.join(rows[0]), *quoted)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.jsonl", json_file),
        ("a.json", json_file),
        ("a.csv", csv_file),
        ("a.tsv", csv_file),
        ("a.parquet", parquet_file),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, name, make):
    assert read_table(make(tmp_path / name, ROWS)).to_list() == ROWS


def test_a_table_is_memory_mapped_from_the_cache(tmp_path, cache):
    dataset = read_table(json_file(tmp_path / "a.jsonl", ROWS))
    assert [Path(file["filename"]).is_relative_to(cache) for file in dataset.cache_files] == [True]


def test_a_file_is_converted_once(tmp_path, cache):
    path = json_file(tmp_path / "a.jsonl", ROWS)
    read_table(path)
    before = [entry.stat().st_mtime_ns for entry in cache.rglob("*.arrow")]
    read_table(path)
    assert [entry.stat().st_mtime_ns for entry in cache.rglob("*.arrow")] == before
    assert len(before) == 1


def test_a_changed_file_is_read_anew_even_with_the_old_clock(tmp_path):
    path = json_file(tmp_path / "a.jsonl", [{"text": "old", "label": "a"}])
    stamp = path.stat().st_mtime_ns
    read_table(path)
    json_file(path, [{"text": "new", "label": "a"}])
    os.utime(path, ns=(stamp, stamp))
    assert read_table(path)["text"][:] == ["new"]


def test_a_faulty_file_leaves_nothing_in_the_cache(tmp_path, cache):
    faults(write(tmp_path / "a.jsonl", "{"))
    assert list(cache.rglob("*.arrow")) == []


def test_labels_that_are_whole_numbers_become_strings(tmp_path):
    assert read_table(json_file(tmp_path / "a.jsonl", [{"text": "x", "label": 3}]))["label"][:] == ["3"]


def test_class_names_stored_in_parquet_are_the_labels(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features).to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")["label"][:] == ["yes", "no"]


def test_csv_columns_are_strings_as_written(tmp_path):
    dataset = read_table(write(tmp_path / "a.csv", "text,label,extra", "x,01,1.50"))
    assert dataset[0] == {"text": "x", "label": "01", "extra": "1.50"}


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    assert read_table(write(tmp_path / "a.csv", b"\xef\xbb\xbftext,label", "x,y")).column_names == ["text", "label"]
    assert len(read_table(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "x", "label": "y"}'))) == 1


def test_columns_are_renamed_and_others_kept(tmp_path):
    path = json_file(tmp_path / "a.jsonl", [{"sentence": "s", "text": "old", "intent": "i", "id": 5}])
    dataset = read_table(path, columns={"text": "sentence", "label": "intent"})
    assert dataset[0] == {"text": "s", "label": "i", "id": 5}


def test_columns_may_change_places(tmp_path):
    path = json_file(tmp_path / "a.jsonl", [{"text": "1", "text_pair": "2", "label": "a"}])
    dataset = read_table(path, columns={"text": "text_pair", "text_pair": "text"})
    assert (dataset[0]["text"], dataset[0]["text_pair"]) == ("2", "1")


def test_other_columns_may_be_required(tmp_path):
    rows = [{"tokens": ["a", "b"], "tags": ["O", "B-x"]}, {"tokens": ["c"], "tags": ["O"]}]
    path = json_file(tmp_path / "a.jsonl", rows)
    assert read_table(path, required=("tokens", "tags")).to_list() == rows


def test_a_column_that_begins_late_keeps_its_type(tmp_path):
    rows = [{"text": "x", "label": "a"}] * BLOCK_ROWS + [{"text": "x", "label": "a", "score": 1}]
    dataset = read_table(json_file(tmp_path / "a.jsonl", [*rows, {"text": "x", "label": "a", "score": 0.5}]))
    assert dataset["score"][-3:] == [None, 1.0, 0.5]


def test_blank_lines_between_json_rows_are_skipped(tmp_path):
    assert len(read_table(write(tmp_path / "a.jsonl", "", '{"text": "x", "label": "a"}', "  "))) == 1


def test_a_missing_file_a_folder_and_an_unknown_ending_are_told_apart(tmp_path):
    assert faults(tmp_path / "a.jsonl") == ["F: no such file"]
    assert faults(tmp_path) == ["F: is a folder, not a file"]
    endings = ".jsonl, .json, .csv, .tsv, .parquet, .txt"
    assert faults(write(tmp_path / "a.xml", "x")) == [f"F: must end in {endings}, got '.xml'"]


def test_every_line_of_a_text_file_that_is_not_blank_is_a_row(tmp_path):
    path = write(
        tmp_path / "a.txt", b'\xef\xbb\xbffirst, "quoted"', "", " \t", "  indented\r", "split\u2028not\x0bhere"
    )
    expected = ['first, "quoted"', "  indented", "split\u2028not\x0bhere"]
    assert read_table(path, required=("text",)).to_dict() == {"text": expected}


def test_a_text_file_is_refused_where_more_than_text_is_asked_for(tmp_path):
    problem = "F: holds texts alone; must have the columns text, label, as other formats can; the first line is 'x'"
    assert faults(write(tmp_path / "a.txt", "x")) == [problem]


def test_a_text_file_names_the_line_that_is_no_utf_8(tmp_path):
    (found,) = faults(write(tmp_path / "a.txt", "x", b"a\xffb"), required=("text",))
    assert found.startswith("F:2: not UTF-8: byte 0xff at position 2, in 'a\ufffdb'; for a file of Windows")


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_a_text_file_without_texts_is_refused(tmp_path, lines):
    assert faults(write(tmp_path / "a.txt", *lines), required=("text",)) == ["F: no rows"]


@pytest.mark.parametrize(
    ("name", "lines"), [("a.jsonl", []), ("b.jsonl", [" "]), ("a.csv", ["text,label"]), ("b.csv", [])]
)
def test_a_file_without_rows_is_refused(tmp_path, name, lines):
    assert faults(write(tmp_path / name, *lines)) == ["F: no rows"]


def test_parquet_without_rows_is_refused(tmp_path):
    pq.write_table(
        pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}), tmp_path / "a.parquet"
    )
    assert faults(tmp_path / "a.parquet") == ["F: no rows"]


def test_every_fault_of_json_lines_is_named_with_its_line_at_once(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        '{"text": "x", "label": "a"}',
        '{"text": "x", "label": "a"',
        "[1, 2]",
        '{"text": "x"}',
        '{"text": " ", "label": "a"}',
        '{"text": "x", "label": null}',
        '{"text": 5, "label": "a"}',
        b'{"text": "\xe9", "label": "a"}',
        '{"text": "\\ud800", "label": "a"}',
    )
    hint = "for a file of Windows or Latin-1: encoding: cp1252 or latin-1"
    assert faults(path) == [
        "F:2: not valid JSON: Expecting ',' delimiter at column 27",
        "F:3: must be a JSON object, got list",
        "F: no label in 2 rows, at lines 4, 6; missing: drop leaves such rows out",
        "F:5: no text, got ' '; missing: drop leaves such rows out",
        "F:7: column 'text' must be string as in line 1, got int64 5",
        f'F:8: not UTF-8: byte 0xe9 at position 11, in \'{{"text": "\ufffd", "label\'; {hint}',
        "F:9: not valid text: half a surrogate pair",
    ]


def test_equal_faults_are_summed_up_and_a_hopeless_file_is_not_read_to_its_end(tmp_path):
    found = faults(write(tmp_path / "a.jsonl", *["{]"] * (STOP_AFTER + 5)))
    assert found == [
        "F: not valid JSON in 10,000 rows, first at lines 1, 2, 3; line 1: Expecting property name enclosed in double "
        "quotes at column 2",
        "F: stopped after 10,000 faults",
    ]


def test_mixed_types_in_a_later_block_name_the_first_line_of_the_type(tmp_path):
    rows = [{"text": "x", "label": None if i == 0 else i} for i in range(1, BLOCK_ROWS + 5)]
    rows[BLOCK_ROWS + 1]["label"] = "late"
    found = faults(json_file(tmp_path / "a.jsonl", rows))
    assert found == [f"F:{BLOCK_ROWS + 2}: column 'label' must be int64 as in line 1, got string 'late'"]


def test_the_first_line_of_a_type_is_one_with_a_value(tmp_path):
    rows = [{"text": "x", "label": "a", "n": value} for value in (None, None, 7, "s")]
    assert faults(json_file(tmp_path / "a.jsonl", rows)) == [
        "F:4: column 'n' must be int64 as in line 3, got string 's'"
    ]


def test_a_number_too_large_for_a_table_is_named(tmp_path):
    found = faults(json_file(tmp_path / "a.jsonl", [{"text": "x", "label": "a", "n": 2**70}]))
    assert [line.split(",")[0].startswith("F:1: column 'n': ") for line in found] == [True]


@pytest.mark.parametrize(("label", "found"), [(1.5, "double"), (True, "bool"), (["a"], "list<item: string>")])
def test_a_label_must_be_a_string_or_a_whole_number(tmp_path, label, found):
    path = json_file(tmp_path / "a.jsonl", [{"text": "x", "label": label}])
    assert faults(path) == [f"F:1: column 'label' must hold string or int64, got {found}"]


def test_a_text_must_be_a_string(tmp_path):
    path = json_file(tmp_path / "a.jsonl", [{"text": 1, "label": "a", "text_pair": 2}])
    assert faults(path) == [
        "F:1: column 'text' must hold string, got int64",
        "F:1: column 'text_pair' must hold string, got int64",
    ]


@pytest.mark.parametrize(("name", "make"), [("a.jsonl", json_file), ("a.csv", csv_file), ("a.parquet", parquet_file)])
def test_a_column_that_no_row_has_is_one_fault_with_the_remedy(tmp_path, name, make):
    found = faults(make(tmp_path / name, [{"text": "x", "labels": "a"}] * 30))
    assert len(found) == 1
    assert ": no column 'label'; columns: text, labels; set columns: {label: labels}" in found[0]


def test_a_renamed_column_that_is_missing_is_named_as_in_the_file(tmp_path):
    found = faults(json_file(tmp_path / "a.jsonl", ROWS), columns={"text": "sentence"})
    assert found == ["F:1: no column 'sentence'; columns: text, label; set columns: {text: text}"]


def test_csv_faults_name_the_line_on_which_the_row_begins(tmp_path):
    path = write(tmp_path / "a.csv", "text,label", '"two', 'lines",a', "x,y,z", "only", ",a", "", b"\xff,a")
    assert [line.partition(", in ")[0] for line in faults(path)] == [
        "F:4: must have 2 fields as the header has, got 3; a field that holds ',' must be quoted",
        "F:5: must have 2 fields as the header has, got 1",
        "F:6: no text, got ''; missing: drop leaves such rows out",
        "F:8: not UTF-8: byte 0xff at position 1",
    ]


def test_a_stray_quotation_mark_in_tsv_does_not_swallow_rows_silently(tmp_path):
    path = write(tmp_path / "a.tsv", "text\tlabel", '"open\ta', "x\ta", '"close\ta', "y\tb")
    found = faults(path)
    assert len(found) == 1
    assert found[0].startswith("F:2: not valid TSV: ")


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    assert "F:1: must name every column once, got 'text' twice" in faults(
        write(tmp_path / "a.csv", "text,text,label", "x,y,z")
    )


def test_parquet_faults_name_the_row(tmp_path):
    path = parquet_file(tmp_path / "a.parquet", [{"text": "x", "label": "a"}, {"text": None, "label": "a"}])
    assert faults(path) == ["F:2: no text, got None; missing: drop leaves such rows out"]


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    found = faults(write(tmp_path / "a.parquet", "text,label"))
    assert found[0].startswith("F:1: not valid Parquet: ")


def test_splits_are_found_by_name_in_any_format(tmp_path):
    json_file(tmp_path / "train.jsonl", ROWS)
    csv_file(tmp_path / "dev.csv", ROWS[:1])
    parquet_file(tmp_path / "test.parquet", ROWS)
    splits = read_splits(tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {"train": 2, "validation": 1, "test": 2}


def test_a_missing_validation_file_is_no_fault(tmp_path):
    json_file(tmp_path / "train.jsonl", ROWS)
    json_file(tmp_path / "test.jsonl", ROWS)
    assert list(read_splits(tmp_path)) == ["train", "test"]


def test_faults_of_all_splits_come_together(tmp_path):
    write(tmp_path / "train.jsonl", "{]")
    json_file(tmp_path / "valid.jsonl", ROWS)
    json_file(tmp_path / "dev.jsonl", ROWS)
    with pytest.raises(DataError) as caught:
        read_splits(tmp_path)
    first, second, third = caught.value.problems
    assert first.startswith(f"{tmp_path}/train.jsonl:1: not valid JSON")
    assert second == f"{tmp_path}: must have one validation file, got valid.jsonl, dev.jsonl"
    assert third.startswith(f"{tmp_path}: must have a test file")


def test_a_folder_is_found_as_given_or_in_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "data" / "mine").mkdir(parents=True)
    monkeypatch.setenv("CL_MLM_DATA", str(tmp_path / "data"))
    assert find_folder("mine") == tmp_path / "data" / "mine"
    assert find_folder(str(tmp_path / "data" / "mine")) == tmp_path / "data" / "mine"


def test_a_folder_that_is_nowhere_is_named_with_the_places():
    with pytest.raises(
        ConfigError, match=r"^stream.path: must be a folder, got 'nowhere'; looked in .*CL_MLM_DATA is not"
    ):
        find_folder("nowhere")


# The child reads a small file first, so that what importing and warming up cost is in both measurements.
MEASURE = """
import sys, threading
from pathlib import Path
from cl_mlm.data.files import read_table

def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10

def peak(path):
    done, top = threading.Event(), [anonymous()]
    def watch():
        while not done.wait(0.005):
            top[0] = max(top[0], anonymous())
    watcher = threading.Thread(target=watch)
    watcher.start()
    dataset = read_table(Path(path))
    rows = sum(len(batch["text"]) for batch in dataset.iter(1000))
    done.set()
    watcher.join()
    return top[0], rows

small, few = peak(sys.argv[1])
large, many = peak(sys.argv[2])
print(small, large, few, many)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
@pytest.mark.parametrize("megabytes", [16, pytest.param(150, marks=pytest.mark.slow)])
def test_a_large_file_costs_no_more_memory_than_a_small_one(tmp_path, megabytes):
    line = json.dumps({"text": "some words that are repeated " * 8, "label": "a"}) + "\n"
    for name, size in (("small", 1), ("large", megabytes)):
        (tmp_path / f"{name}.jsonl").write_text(line * ((size << 20) // len(line)))
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("small", "large")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    small, large, few, many = map(int, done.stdout.split())
    assert many > 10 * few
    assert large - small < 8 << 20


@pytest.mark.parametrize("values", [[1.0, True], [True, 2], [None, 0.5, False]])
def test_a_truth_value_among_numbers_is_refused_with_its_line(tmp_path, values):
    rows = [{"text": "x", "label": "a", "value": value} for value in values]
    found = faults(json_file(tmp_path / "a.jsonl", rows))
    assert any(f":{len(values)}: column 'value' must be" in line for line in found)
