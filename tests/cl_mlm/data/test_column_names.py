"""What is said of a column that is missing."""

import json

import pytest
import yaml

from cl_mlm.data.column_names import remedy, yaml_name
from cl_mlm.data.file_format import Reading
from cl_mlm.data.files import read_file
from cl_mlm.errors import DataError


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["utterance", "intent"], "{text: utterance, label: intent}"),
        (["intent", "sentence", "id"], "{text: sentence, label: intent}"),
        (["Text", "LABEL"], "{text: Text, label: LABEL}"),
        (["content", "category", "text_pair"], "{text: content, label: category}"),
        (["body", "class"], "{text: body, label: class}"),
        (["target", "query"], "{text: query, label: target}"),
        (["id", "remark", "class"], "{text: remark, label: class}"),  # the only column of texts that is left
        (["alpha", "beta"], "{text: <one of alpha, beta>, label: <one of alpha, beta>}"),
        (["alpha", "beta", "intent"], "{text: <one of alpha, beta>, label: intent}"),
        (["context", "next"], "{text: <one of context, next>, label: <one of context, next>}"),
        (["sentence", "no", "a: b"], '{text: sentence, label: <one of "no", "a: b">}'),
    ],
)
def test_the_remedy_names_real_columns_and_guesses_nothing_absurd(names, said):
    example = {name: "7" if name == "id" else "some words" for name in names}
    assert remedy(["text", "label"], {}, names, example) == f"set columns: {said}"


def test_what_is_given_already_stays_in_the_remedy():
    names = ["sentence", "intent", "domain"]
    example = dict.fromkeys(names, "words")
    given = {"text": "sentense", "label": "intent"}
    assert remedy(["text"], given, names, example, {"intent"}) == "set columns: {label: intent, text: sentence}"


@pytest.mark.parametrize(
    ("missing", "names", "said"),
    [
        (["tokens", "tags"], ["words", "ner_tags"], "{tokens: words, tags: ner_tags}"),
        (["source", "target"], ["article", "summary"], "{source: article, target: summary}"),
        (["context", "question"], ["passage", "query"], "{context: passage, question: query}"),
        (["tokens"], ["remark"], "{tokens: <one of remark>}"),  # a text is no list of words
    ],
)
def test_other_columns_have_names_of_their_own(missing, names, said):
    assert remedy(missing, {}, names, dict.fromkeys(names, "x y")) == f"set columns: {said}"


@pytest.mark.parametrize(
    "name", ["plain", "two words", "no", "a, b", "a: b", "#x", "", " x", "é", "1st", "it's", "{a}"]
)
def test_a_name_is_written_as_yaml_reads_it(name):
    assert yaml.safe_load(f"{{text: {yaml_name(name)}, label: x}}")["text"] == name


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_the_setting_that_is_proposed_reads_the_file(tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    rows = [{"id": i, "utterance": "hi there", "intent": "greet"} for i in range(4)]
    path = tmp_path / f"a{suffix}"
    path.write_text(json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    if suffix == ".csv":
        path.write_text("id,utterance,intent\n" + "1,hi there,greet\n" * 4)
    with pytest.raises(DataError) as caught:
        read_file(path, Reading(), ("text", "label"))
    (problem,) = caught.value.problems
    assert "no column 'text' and no 'label'; columns: id, utterance, intent; set columns: {text: " in problem
    columns = yaml.safe_load(problem.partition("set columns: ")[2].partition("}")[0] + "}")
    assert len(read_file(path, Reading(columns), ("text", "label"))[0]) == 4


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text:label\nx y:a\n", "one column only: 'text:label'; the separator is none of , ; tab |: set del"),
        ("a.csv", "red thing,red\nblue thing,blue\n", "a table needs a header, and the first line is 'red thing,red'"),
        ("a.json", '{"data": [{"text": "x", "label": "a"}]}', "one object with the rows under 'data': write"),
        (
            "a.json",
            '{"text": ["x"], "label": ["a"]}',
            "one object of columns ('text', 'label'): write one object",
        ),
    ],
)
def test_a_file_of_another_form_is_told_what_is_expected(tmp_path, monkeypatch, name, content, said):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_file(tmp_path / name, Reading(), ("text", "label"))
    assert said in str(caught.value)


@pytest.mark.parametrize("label", ["label", "rel"])
def test_a_text_with_spans_is_proposed_as_text_and_can_be_read_so(tmp_path, monkeypatch, label):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    path, required = tmp_path / "a.jsonl", ("tokens", "head", "tail", "label")
    path.write_text(json.dumps({"sent": "Anna met Bob", "e1": [0, 4], "e2": [9, 12], label: "a"}) + "\n")
    with pytest.raises(DataError) as caught:
        read_file(path, Reading(), required)
    columns = yaml.safe_load(str(caught.value).partition("set columns: ")[2])
    assert columns == {"text": "sent", "head": "e1", "tail": "e2"} | ({"label": "rel"} if label == "rel" else {})
    assert read_file(path, Reading(columns), required)[0][0]["tokens"] == ["Anna", "met", "Bob"]
