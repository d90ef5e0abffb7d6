"""Texts with character spans become words with word spans, to the character."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_mlm.config import make_objective
from cl_mlm.data.char_spans import SpanFault, relation_row, tagging_row
from cl_mlm.data.file_format import Reading
from cl_mlm.data.files import read_file
from cl_mlm.errors import DataError
from cl_mlm.scores.bio import entities


def relation(text, head, tail):
    return relation_row({"text": text, "head": head, "tail": tail, "label": "r"})


def spans(row):
    return [" ".join(row["tokens"][start:end]) for start, end in (row["head"], row["tail"])]


@pytest.mark.parametrize(
    ("text", "head", "tail", "tokens", "named"),
    [
        ("Anna met Bob.", [0, 4], [9, 12], ["Anna", "met", "Bob", "."], ["Anna", "Bob"]),
        ("New York-based firm", [4, 8], [15, 19], ["New", "York", "-based", "firm"], ["York", "firm"]),
        ("a  b\tc", [0, 4], [5, 6], ["a", "b", "c"], ["a b", "c"]),
        ("  x y ", [0, 4], [3, 6], ["x", "y"], ["x", "y"]),  # blanks at the edges are left out
        ("one two", [0, 7], [4, 7], ["one", "two"], ["one two", "two"]),  # relations may overlap
        ("same", [0, 4], [0, 4], ["same"], ["same", "same"]),
        ("😀 met 👩‍💻!", [0, 1], [6, 9], ["😀", "met", "👩‍💻", "!"], ["😀", "👩‍💻"]),
        ("cafe\u0301, The\u0301", [0, 5], [7, 11], ["cafe\u0301", ",", "The\u0301"], ["cafe\u0301", "The\u0301"]),
        ("ab", [0, 1], [1, 2], ["a", "b"], ["a", "b"]),
        ("北京在中国", [0, 2], [3, 5], ["北京", "在", "中国"], ["北京", "中国"]),
    ],
)
def test_a_relation_covers_whole_words(text, head, tail, tokens, named):
    row = relation(text, head, tail)
    assert (row["tokens"], spans(row), row["label"]) == (tokens, named, "r")
    assert "text" not in row
    assert make_objective("relation", {}).validate({name: [value] for name, value in row.items()}, "r") == []


TEXTS = st.text(alphabet="ab ,.\t\n😀é中", min_size=1, max_size=20)


@given(TEXTS, st.lists(st.integers(0, 20), min_size=4, max_size=4))
def test_any_span_of_a_text_is_found_again(text, places):
    a, b, c, d = (min(place, len(text)) for place in places)
    head, tail = sorted((a, b)), sorted((c, d))
    try:
        row = relation(text, head, tail)
    except SpanFault:
        assert not text[head[0] : head[1]].strip() or not text[tail[0] : tail[1]].strip()
        return
    for name, (start, end) in (("head", head), ("tail", tail)):
        words = row["tokens"][row[name][0] : row[name][1]]
        assert "".join(words) == "".join(text[start:end].split())


@given(TEXTS, st.lists(st.tuples(st.integers(0, 20), st.sampled_from("xy")), max_size=6))
def test_entities_are_found_again(text, cuts):
    places = sorted({min(place, len(text)) for place, _ in cuts})
    given_spans = [[a, b, "x"] for a, b in zip(places[::2], places[1::2], strict=False) if text[a:b].strip()]
    row = tagging_row({"text": text, "entities": given_spans})
    found = ["".join(row["tokens"][start:end]) for _, start, end in entities(row["tags"])]
    assert found == ["".join(text[a:b].split()) for a, b, _ in given_spans]
    assert "".join(row["tokens"]) == "".join(text.split())


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ([2, 9], r"head must have 0 <= start < end <= number of characters, got \[2, 9\] for a text of 6"),
        ([3, 3], "0 <= start < end"),
        ([-1, 2], "0 <= start < end"),
        ([1], r"head must be \[start, end\) in characters, got \[1\]"),
        ([0, 1.5], "in characters"),
        ([True, 2], "in characters"),
        ("x", "in characters, got 'x'"),
        (None, "in characters, got None"),
        ([4, 5], "head must hold more than blanks"),
        ([0, 1], r"must not part a character from what belongs to it, got \[0, 1\], which does at 1 in"),
        ([3, 6], "must not part a character"),
    ],
)
def test_a_span_that_does_not_fit_is_refused(head, said):
    with pytest.raises(SpanFault, match=said):
        relation("e\u0301👍\U0001f3fd x", head, [5, 6])


def test_words_of_tagged_texts_do_not_depend_on_the_entities():
    text = "Anna's café, in São-Paulo (2nd) नमस्ते 北京"
    words = ["Anna", "'", "s", "café", ",", "in", "São", "-", "Paulo", "(", "2nd", ")", "नमस्ते", "北", "京"]
    assert tagging_row({"text": text, "entities": []})["tokens"] == words
    row = tagging_row({"text": text, "entities": [[16, 25, "LOC"], {"start": 0, "end": 4, "label": "PER"}]})
    assert row["tokens"] == words
    assert row["tags"] == ["B-PER", *["O"] * 5, "B-LOC", "I-LOC", "I-LOC", *["O"] * 6]


@pytest.mark.parametrize(
    ("given_entities", "said"),
    [
        ([[0, 3, "a"], [2, 4, "b"]], "entities must not overlap, got 'a' up to 3 and 'b' from 2"),
        ([[0, 3]], r"entities must be a list of \[start, end, type\], got \[0, 3\]"),
        ([[0, 3, " "]], "entities must be a list"),
        ([[0, 99, "a"]], "an entity must have 0 <= start < end <= number of characters"),
        ("no list", "entities must be a list"),
    ],
)
def test_entities_that_do_not_fit_are_refused(given_entities, said):
    with pytest.raises(SpanFault, match=said):
        tagging_row({"text": "one two", "entities": given_entities})


def test_files_with_spans_are_read_and_faults_name_the_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    rows = [{"sentence": "Anna met Bob.", "head": [0, 4], "tail": [9, 12], "label": 1}] * 2
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = Reading({"text": "sentence"})
    columns = ("tokens", "head", "tail", "label")
    found = {"tokens": ["Anna", "met", "Bob", "."], "head": [0, 1], "tail": [2, 3], "label": "1"}
    assert read_file(path, reading, columns)[0].to_list() == [found] * 2
    path.write_text("".join(json.dumps({**row, "tail": [9, 99]}) + "\n" for row in rows * 3))
    with pytest.raises(DataError) as caught:
        read_file(path, reading, columns)
    assert caught.value.problems == [
        f"{path}: spans do not fit in 6 rows, first at lines 1, 2, 3; line 1: tail must have 0 <= start < end <= "
        "number of characters, got [9, 99] for a text of 13"
    ]


def test_a_table_holds_spans_as_text(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.csv"
    path.write_text('text;head;tail;label\nAnna met Bob.;[0, 4];"[9, 12]";knows\n')
    row = read_file(path, Reading(), ("tokens", "head", "tail", "label"))[0][0]
    assert (row["head"], row["tail"]) == ([0, 1], [2, 3])
    path.write_text('text;entities\nAnna met Bob.;"[[0, 4, ""per""]]"\n')
    assert read_file(path, Reading(), ("tokens", "tags"))[0][0]["tags"] == ["B-per", "O", "O", "O"]


def test_rows_that_have_words_are_left_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    row = {"text": "Anna met Bob", "tokens": ["Anna", "met", "Bob"], "head": [0, 1], "tail": [2, 3], "label": "r"}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    assert read_file(tmp_path / "a.json", Reading(), ("tokens", "head", "tail", "label"))[0].to_list() == [row]
