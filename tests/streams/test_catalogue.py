"""Rules of the catalogue: the rows of every data set on the hub, in the shape that it has there, become ours."""

import re
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from cl_mlm.config.components import make_objective
from cl_mlm.stream import SPLITS
from streams._catalogue import SOURCES
from streams._rows import take
from streams._sequences import SEQUENCES
from streams._sources import Limits, Source, load_splits

STRING = Value("string")
NLI = ["entailment", "neutral", "contradiction"]
CB = ["entailment", "contradiction", "neutral"]
TRUTH = ["False", "True"]


def pair(first, second, names):
    return {first: STRING, second: STRING, "label": ClassLabel(names=names)}


def single(column, names):
    return {column: STRING, "label": ClassLabel(names=names)}


SPAN = {"text": STRING, "type": STRING, "indices": List(List(Value("int64")))}
STAR_NAMES = ["1 star", "2 star", "3 stars", "4 stars", "5 stars"]
MULTI30K = {"en": STRING, "de": STRING}
SUMMARIES = {"dialogue": STRING, "summary": STRING}

# Name: the hub's columns, a row of the hub, and that row as ours.
EXAMPLES = {
    "banking77": (single("text", ["age_limit", "atm_support"]), ["a", 1], {"text": "a", "label": "atm_support"}),
    "hwu64": ({"text": STRING, "label": STRING}, ["a", "alarm_set"], {"text": "a", "label": "alarm_set"}),
    "atis_intent": (
        {"text": STRING, "intent": STRING, "slots": STRING},
        ["to boston", "flight", "O B-toloc.city_name"],
        {"text": "to boston", "label": "flight"},
    ),
    "atis_slots": (
        {"text": STRING, "intent": STRING, "slots": STRING},
        ["to boston", "flight", "O B-toloc.city_name"],
        {"tokens": ["to", "boston"], "tags": ["O", "B-toloc.city_name"]},
    ),
    "fewnerd": (
        {"tokens": List(STRING), "fine_ner_tags": List(ClassLabel(names=["O", "art-film", "art-music"]))},
        [["a", "b", "c", "d", "e"], [1, 1, 2, 0, 1]],
        {"tokens": ["a", "b", "c", "d", "e"], "tags": ["B-art-film", "I-art-film", "B-art-music", "O", "B-art-film"]},
    ),
    "fewrel": (
        {"relation": STRING, "tokens": List(STRING), "head": SPAN, "tail": SPAN, "names": List(STRING)},
        [
            "P17",
            ["Oslo", "in", "the", "North"],
            {"text": "oslo", "type": "Q1", "indices": [[0]]},
            {"text": "the north", "type": "Q2", "indices": [[2, 3], [0]]},
            ["country", "sovereign state"],
        ],
        {"tokens": ["Oslo", "in", "the", "North"], "label": "country", "head": [0, 1], "tail": [2, 4]},
    ),
    "cl15_agnews": (
        single("text", ["World", "Sports", "Business", "Sci/Tech"]),
        ["a", 3],
        {"text": "a", "label": "Science or Technology"},
    ),
    "cl15_yahoo": (
        {
            "topic": ClassLabel(names=["Society & Culture", "Health"]),
            "question_title": STRING,
            "question_content": STRING,
            "best_answer": STRING,
        },
        [1, "a", "", "c"],
        {"text": "a\nc", "label": "Health"},
    ),
    "cl15_dbpedia": (
        {"label": ClassLabel(names=["Company", "EducationalInstitution"]), "title": STRING, "content": STRING},
        [1, "a", "b"],
        {"text": "a\nb", "label": "Educational Institution"},
    ),
    "cl15_yelp": (single("text", STAR_NAMES), ["a", 0], {"text": "a", "label": "very negative"}),
    "cl15_imdb": (single("text", ["neg", "pos"]), ["a", 1], {"text": "a", "label": "Good"}),
    "cl15_sst2": (single("sentence", ["negative", "positive"]), ["a", 0], {"text": "a", "label": "Bad"}),
    "cl15_mnli": (
        pair("premise", "hypothesis", NLI),
        ["a", "b", 2],
        {"text": "a", "text_pair": "b", "label": "contradiction"},
    ),
    "cl15_qqp": (
        pair("question1", "question2", ["not_duplicate", "duplicate"]),
        ["a", "b", 1],
        {"text": "a", "text_pair": "b", "label": "True"},
    ),
    "cl15_boolq": (
        pair("question", "passage", TRUTH),
        ["a", "b", 0],
        {"text": "a", "text_pair": "b", "label": "False"},
    ),
    "cl15_cb": (
        pair("premise", "hypothesis", CB),
        ["a", "b", 1],
        {"text": "a", "text_pair": "b", "label": "contradiction"},
    ),
    "cl15_rte": (
        pair("premise", "hypothesis", ["entailment", "not_entailment"]),
        ["a", "b", 1],
        {"text": "a", "text_pair": "b", "label": "contradiction"},
    ),
    "cl15_copa": (
        {
            "premise": STRING,
            "choice1": STRING,
            "choice2": STRING,
            "question": STRING,
            "label": ClassLabel(names=["choice1", "choice2"]),
        },
        ["a", "b", "c", "effect", 1],
        {"text": "a What is the effect?", "text_pair": "A: b\nB: c", "label": "B"},
    ),
    "cl15_multirc": (
        {"paragraph": STRING, "question": STRING, "answer": STRING, "label": ClassLabel(names=TRUTH)},
        ["a", "b", "c", 1],
        {"text": "a", "text_pair": "question: b\ncandidate answer: c", "label": "True"},
    ),
    "cl15_wic": (
        {"word": STRING, "sentence1": STRING, "sentence2": STRING, "label": ClassLabel(names=TRUTH)},
        ["a", "b", "c", 1],
        {"text": "word: a\nb", "text_pair": "c", "label": "True"},
    ),
    "multi30k_en_de": (MULTI30K, ["a", "b"], {"source": "a", "target": "b"}),
    "multi30k_de_en": (MULTI30K, ["a", "b"], {"source": "b", "target": "a"}),
    "samsum": (SUMMARIES, ["a", "b"], {"source": "a", "target": "b"}),
    "dialogsum": (SUMMARIES, ["a", "b"], {"source": "a", "target": "b"}),
    "xsum": ({"document": STRING, "summary": STRING}, ["a", "b"], {"source": "a", "target": "b"}),
    "sst2": (single("sentence", ["negative", "positive"]), ["a", 0], {"text": "a", "label": "negative"}),
    "chnsenticorp": ({"text": STRING, "label": Value("int64")}, ["a", 1], {"text": "a", "label": "positive"}),
}


@pytest.mark.parametrize("name", sorted(name for name, source in SOURCES.items() if source.hub))
def test_rows_of_the_hub_become_ours(monkeypatch, name):
    columns, given, expected = EXAMPLES[name]
    source = SOURCES[name]
    rows = Dataset.from_dict(
        {column: [value] * 20 for column, value in zip(columns, given, strict=True)}, Features(columns)
    )
    parts = {part for names in source.splits.values() for part in names.split("+")}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: DatasetDict(dict.fromkeys(sorted(parts), rows)))
    objective = make_objective(source.objective, {})
    splits, _ = load_splits(name, source, None, objective, Limits({}, {}))
    for split in SPLITS:
        assert splits[split][0] == expected
        assert objective.validate(splits[split].to_dict(), split) == []


def test_every_example_is_of_a_data_set_on_the_hub():
    assert sorted(EXAMPLES) == sorted(name for name, source in SOURCES.items() if source.hub)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_revision_is_a_whole_commit_or_a_branch_or_not_given(name):
    source = SOURCES[name]
    assert source.revision is None or re.fullmatch(r"[0-9a-f]{40}|refs/convert/parquet", source.revision)
    assert source.hub is not None or source.revision is None
    assert source.licence
    assert source.origin


def test_the_entry_shown_in_the_docs_is_the_real_one():
    text = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
    (block,) = re.findall(r'```python\n("banking77": .*?)```', text, re.DOTALL)
    shown = eval("{" + block + "}", {"Source": Source, "take": take})["banking77"]
    assert replace(shown, rows=None) == replace(SOURCES["banking77"], rows=None)


@pytest.mark.parametrize("name", sorted(SEQUENCES))
def test_every_order_of_a_sequence_names_the_same_sets_of_the_catalogue(name):
    found = SEQUENCES[name]
    first, *others = found.orders.values()
    assert all(sorted(order) == sorted(first) for order in others)
    assert all(found.prefix + stage in SOURCES for stage in first)


def test_the_published_numbers_of_tasks():
    sizes = {name: len(next(iter(found.orders.values()))) for name, found in SEQUENCES.items()}
    assert sizes == {"standard4": 4, "long15": 15, "trace": 8}
