"""Separators, encodings, line ends, long fields and NUL bytes of text files."""

import csv
import gzip
import json
import threading

import pytest

from cl_mlm.data.file_format import Reading
from cl_mlm.data.files import read_file
from cl_mlm.errors import DataError

ROWS = [{"text": "how, are you", "label": "greet"}, {"text": "say; no", "label": "äöü"}, {"text": "1,5", "label": "n"}]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(separator, rows=ROWS, end="\n"):
    quoted = [separator.join(f'"{value}"' for value in row.values()) for row in rows]
    return end.join([separator.join(rows[0]), *quoted]) + end


def read(path, required=("text", "label"), **reading):
    dataset, notes = read_file(path, Reading(**reading), required)
    return dataset.to_list(), notes


def faults(path, required=("text", "label"), **reading):
    with pytest.raises(DataError) as caught:
        read_file(path, Reading(**reading), required)
    return [problem.replace(str(path), "F") for problem in caught.value.problems]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_separator_is_told_from_the_first_lines_and_noted_where_it_is_not_the_usual_one(tmp_path, suffix, separator):
    rows, notes = read(written(tmp_path / f"a{suffix}", table(separator)))
    assert rows == ROWS
    is_usual = (suffix == ".csv") == (separator == ",") and separator in ",\t"
    assert notes == (
        [] if is_usual else [f"columns are separated by {'tabs' if separator == chr(9) else repr(separator)}"]
    )


@pytest.mark.parametrize(
    "content",
    [
        "text;label;score\nhi;greet;1,5\nwell, well;other;2,75\n",  # decimal commas
        "id;text;label\n1;a|b;x\n2;c|d;y\n",
        'text;label\n"a;b, c";x\n"d\n;e";y\n',
    ],
)
def test_separators_inside_of_fields_do_not_mislead(tmp_path, content):
    rows, notes = read(written(tmp_path / "a.csv", content))
    assert [sorted({"text", "label"} - row.keys()) for row in rows] == [[], []]
    assert notes == ["columns are separated by ';'"]


def test_a_table_of_one_column_is_read_whatever_its_texts_hold(tmp_path):
    path = written(tmp_path / "a.csv", 'text\n"one; two"\n"three| four"\n')
    assert read(path, required=("text",)) == ([{"text": "one; two"}, {"text": "three| four"}], [])


def test_a_given_delimiter_overrides_what_the_lines_say(tmp_path):
    path = written(tmp_path / "a.csv", "text,label\nhi,greet\n")
    assert faults(path, delimiter=";") == [
        "F:2: stream.delimiter ';' splits nothing: one column only, 'text,label'; the file seems to use ','"
    ]
    hash_marks = written(tmp_path / "b.csv", "text#label\nhi#greet\n")
    assert read(hash_marks, delimiter="#") == ([{"text": "hi", "label": "greet"}], [])
    assert read(written(tmp_path / "c.csv", "text\tlabel\nhi\tgreet\n"), delimiter="\\t")[0][0]["label"] == "greet"


def test_a_first_line_that_excel_writes_names_the_separator(tmp_path):
    path = written(tmp_path / "a.csv", "sep=^\r\ntext^label\r\nhi^greet\r\n^\r\n")
    assert faults(path)[0].startswith("F:4: no text, got ''")
    path = written(tmp_path / "b.csv", "\ufeffsep=;\r\ntext;label\r\nhi;greet\r\n")
    assert read(path) == ([{"text": "hi", "label": "greet"}], ["columns are separated by ';'"])
    assert read(path, delimiter=";") == ([{"text": "hi", "label": "greet"}], [])


def test_another_delimiter_or_encoding_is_another_table_of_the_cache(tmp_path):
    path = written(tmp_path / "a.csv", "text,label,a;b\nhi,\xe4,1;2\n".encode("latin-1"))
    assert read(path, encoding="latin-1")[0][0]["label"] == "ä"
    assert read(path, encoding="cp437")[0][0]["label"] == "Σ"


def test_a_header_that_does_not_fit_shows_the_first_line(tmp_path):
    (found,) = faults(written(tmp_path / "a.csv", "hello there\nhow do you do\n"))
    assert found.endswith("the first line is 'hello there'")
    (found,) = faults(written(tmp_path / "a.txt", "hello there\nhow do you do\n"))
    assert "holds texts alone" in found
    assert found.endswith("the first line is 'hello there'")


@pytest.mark.parametrize("given", [";;", "", '"', "\n"])
def test_a_delimiter_that_cannot_separate_is_refused(given):
    assert Reading(delimiter=given).faults()[0].startswith("stream.delimiter: must be one character, such as ';'")


@pytest.mark.parametrize("given", ["utf8x", "hex", "rot13"])
def test_an_encoding_that_python_does_not_know_as_text_is_refused(given):
    assert Reading(encoding=given).faults("stream.stages[1]")[0].startswith("stream.stages[1].encoding: must be a text")


CONTENTS = {
    "a.csv": table(","),
    "a.tsv": table("\t"),
    "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    "a.json": json.dumps(ROWS, ensure_ascii=False, indent=1),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8", "utf-8-sig"])
def test_every_text_format_is_read_in_a_given_encoding(tmp_path, name, encoding):
    assert read(written(tmp_path / name, CONTENTS[name].encode(encoding)), encoding=encoding)[0] == ROWS


def test_texts_are_read_in_a_given_encoding(tmp_path):
    path = written(tmp_path / "a.txt", "größer\nkälter\n".encode("utf-16"))
    assert read(path, required=("text",), encoding="utf-16")[0] == [{"text": "größer"}, {"text": "kälter"}]


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_wide_encoding_is_one_line_with_the_setting(tmp_path, name, encoding):
    found = faults(written(tmp_path / name, CONTENTS[name].encode(encoding)))
    assert found == [f"F: is not UTF-8 but {encoding[:6].upper()}: set encoding: {encoding}"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_many_lines_of_latin_1_are_one_line_with_the_place_and_the_setting(tmp_path, name):
    rows = [{"text": f"größer {i}", "label": "a"} for i in range(60)]
    contents = {"a.csv": table(",", rows), "a.tsv": table("\t", rows), "a.json": json.dumps(rows, ensure_ascii=False)}
    contents["a.jsonl"] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (found,) = faults(written(tmp_path / name, contents[name].encode("latin-1")))
    places = "rows 1, 2, 3; row 1" if name == "a.json" else "lines "  # an array may be one line
    assert found.startswith(f"F: not UTF-8 in 60 rows, first at {places}")
    assert "byte 0xf6 at position" in found
    assert "gr\ufffd\ufffder 0" in found
    assert found.endswith("for a file of Windows or Latin-1: encoding: cp1252 or latin-1")


def test_a_wrong_encoding_is_told_without_reading_nonsense(tmp_path):
    plain = written(tmp_path / "a.csv", "text,label\nhi,a\n")
    assert faults(plain, encoding="utf-16") == [
        "F: is not utf-16: it has no zero bytes; leave encoding out, or name another"
    ]
    marked = written(tmp_path / "b.csv", b"\xef\xbb\xbftext,label\nhi,a\n")
    assert faults(marked, encoding="cp1252") == [
        "F: is UTF-8, as its byte order mark says: leave encoding out, got cp1252"
    ]
    (found,) = faults(written(tmp_path / "c.csv", b"text,label\nhi\x81,a\n"), encoding="cp1252")
    assert found == "F:2: not cp1252: byte 0x81 at position 3, in 'hi\ufffd,a'"
    other_order = written(tmp_path / "e.csv", "text,label\nhi,a\n".encode("utf-16-be"))
    assert faults(other_order, encoding="utf-16") == [
        "F: has its bytes in the order of utf-16-be: set encoding: utf-16-be"
    ]
    odd = "text,label\nhi,a\n".encode("utf-16") + b"\x00"
    assert faults(written(tmp_path / "d.csv", odd), encoding="utf-16")[0].startswith("F:3: not utf-16: ")


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_every_line_end_is_read(tmp_path, end, suffix):
    content = CONTENTS[f"a{suffix}"].replace("\n", end)
    assert read(written(tmp_path / f"a{suffix}", content))[0] == ROWS


def test_texts_end_at_every_line_end(tmp_path):
    path = written(tmp_path / "a.txt", "one\rtwo\r\nthree\nfour")
    assert [row["text"] for row in read(path, required=("text",))[0]] == ["one", "two", "three", "four"]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_a_line_number_is_right_behind_a_quoted_field_of_many_lines(tmp_path, end):
    path = written(tmp_path / "a.csv", end.join(["text,label", '"one', "two", 'three",a', "x,", "y,b", "z"]) + end)
    assert faults(path) == [
        "F:5: no label, got ''; missing: drop leaves such rows out",
        "F:7: must have 2 fields as the header has, got 1",
    ]
    whole = written(tmp_path / "b.csv", end.join(["text,label", '"one', 'two",a']) + end)
    assert read(whole)[0] == [{"text": f"one{end}two", "label": "a"}]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_a_field_of_any_length_is_read_and_the_limit_of_others_stays(tmp_path, suffix):
    rows = [{"text": "word " * 60_000, "label": "a"}, {"text": "short", "label": "b"}]
    content = json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    if suffix in (".csv", ".tsv"):
        content = table("," if suffix == ".csv" else "\t", rows)
    before = csv.field_size_limit()
    assert read(written(tmp_path / f"a{suffix}", content))[0] == rows
    assert csv.field_size_limit() == before


def test_long_fields_are_read_by_many_threads_at_once(tmp_path):
    paths = [
        written(tmp_path / f"{i}.csv", table(",", [{"text": f"{i}" * 150_000, "label": "a"}] * 3)) for i in range(4)
    ]
    found = {}
    threads = [threading.Thread(target=lambda p=p: found.update({p: len(read(p)[0])})) for p in paths]
    before = csv.field_size_limit()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(paths, 3)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\nx\0y,a\n"),
        ("a.tsv", "text\tlabel\nx\0y\ta\n"),
        ("a.jsonl", '\n{"text": "x\0", "label": "a"}\n'),
    ],
)
def test_a_nul_byte_is_a_plain_fault(tmp_path, name, content):
    (found,) = faults(written(tmp_path / name, content))
    assert found.startswith("F:2: must hold no NUL byte, got one at position")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.xlsx", "F: is a spreadsheet: export it as CSV"),
        ("a.csv.gz", "F: is packed: unpack it first"),
        ("a.csv", "F: is a zip, Excel, gzip or Parquet file under the name of a text file: export or unpack it"),
    ],
)
def test_what_is_no_text_is_told_with_the_way_out(tmp_path, name, said):
    assert faults(written(tmp_path / name, gzip.compress(b"text,label\nx,a\n"))) == [said]


def test_blanks_around_the_names_of_a_header_do_not_matter(tmp_path):
    path = written(tmp_path / "a.csv", b"\xef\xbb\xbf text , label,id\nx,a,1\n")
    assert read(path)[0] == [{"text": "x", "label": "a", "id": "1"}]
    assert read(path, columns={"text": " text "})[0] == [{"text": "x", "label": "a", "id": "1"}]
