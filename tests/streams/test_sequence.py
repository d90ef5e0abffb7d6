"""Rules of a stream whose stages are data sets, on small stand-ins and on the real sets that are here."""

import json
import os
from pathlib import Path

import pytest

from cl_mlm.config.components import make_stream
from cl_mlm.data.hygiene import clean
from cl_mlm.data.stream_building import make_base
from cl_mlm.data.text_form import as_text
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS
from streams.sequence import sequence

DATA = Path(os.environ.get("CL_MLM_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
STARS = ("very negative", "negative", "neutral")
SETS = {
    "cl15_dbpedia": ("Album", "Film"),
    "cl15_amazon": STARS,
    "cl15_agnews": ("Sports", "World"),
    "cl15_yelp": STARS,
    "sst2": ("negative", "positive"),
    "chnsenticorp_htl": ("negative", "positive"),
}


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """Small sets in the data folder; Yahoo is not among them, and the hub is out of reach."""
    for name, labels in SETS.items():
        write(tmp_path / name, [{"text": f"{name} {{}} {x} {i}", "label": x} for x in labels for i in range(3)])
    write(tmp_path / "multi30k_en_de", [{"source": f"dog {{}} {i}", "target": f"Hund {{}} {i}"} for i in range(3)])

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    monkeypatch.setenv("CL_MLM_DATA", str(tmp_path))
    return tmp_path


def write(folder, rows):
    folder.mkdir()
    for split in SPLITS:
        lines = [json.dumps({k: v.replace("{}", split) for k, v in row.items()}) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (None, ["dbpedia", "amazon", "agnews"]),
        (2, ["dbpedia", "amazon", "agnews"]),
        (3, ["amazon", "agnews", "dbpedia"]),
    ],
)
def test_stages_are_in_the_published_order_and_what_is_left_out_is_said(order, expected):
    stream = sequence(sets="standard4", published_order=order, without=["yahoo"])
    assert [stage.name for stage in stream.stages] == expected
    assert stream.notes[0] == "left out: yahoo"
    assert stream.scenario == "class_incremental"


def test_a_set_that_is_not_here_is_told_with_the_way_round():
    with pytest.raises(
        DataError,
        match=r"yahoo_answers_topics at 6652.*HF_HUB_OFFLINE is set.*cl15_yahoo.*stream.without=\[yahoo\]",
    ):
        sequence(sets="standard4")


def test_labels_of_one_name_are_one_label():
    stream = sequence(sets=["cl15_amazon", "cl15_yelp"])
    assert stream.labels == tuple(sorted(STARS))


def test_stages_may_have_labels_of_their_own():
    stream = sequence(sets=["cl15_amazon", "cl15_yelp"], shared_labels=False, scenario="task_incremental")
    assert [len(stage.labels) for stage in stream.stages] == [3, 3]
    assert len(stream.labels) == 6
    second = stream.stages[1]
    assert second.labels[0] == "cl15_yelp: negative"
    for split in SPLITS:
        assert set(second.split(split)["label"]) == set(second.labels)
    assert clean(stream, "error")[0].labels == stream.labels


def test_shared_labels_are_the_words_that_a_model_writes():
    stream = as_text(sequence(sets=["cl15_amazon", "cl15_yelp"]))
    assert stream.stages[0].options["answers"] == sorted(STARS)


def test_one_task_in_two_languages():
    stream = sequence(sets=["sst2", "chnsenticorp"], scenario="domain_incremental")
    assert [stage.language for stage in stream.stages] == ["en", "zh"]
    assert clean(stream, "error")[0].labels == ("negative", "positive")


def test_the_way_back_is_the_same_rows_turned_round():
    there, back = sequence(sets=["multi30k_en_de", "multi30k_de_en"]).stages
    assert there.objective == "text_to_text"
    assert there.train["source"][:] == back.train["target"][:]
    assert there.train["target"][:] == back.train["source"][:]


def test_texts_of_classification_sets_are_domains_to_pretrain_on():
    stream = sequence(sets=["cl15_agnews", "cl15_dbpedia"], objective="language_modelling")
    assert [(stage.domain, stage.labels) for stage in stream.stages] == [("news", ()), ("encyclopaedia", ())]
    assert stream.scenario == "domain_incremental"
    clean(stream, "error")


def test_a_folder_of_folders_is_read_instead(tmp_path, monkeypatch):
    monkeypatch.delenv("CL_MLM_DATA")
    stream = make_stream("sequence", {"sets": ["sst2", "chnsenticorp"], "path": str(tmp_path)})
    assert len(stream) == 2
    with pytest.raises(DataError, match=r"cl15_yahoo: .* must hold a folder cl15_yahoo"):
        sequence(sets=["cl15_yahoo"], path=str(tmp_path))


def test_the_key_order_gives_any_other_order():
    section = {"name": "sequence", "sets": "standard4", "without": ["yahoo"], "order": ["agnews", "dbpedia", "amazon"]}
    assert [stage.name for stage in make_base(section).stages] == section["order"]


def test_trace_is_read_from_the_folders_of_its_authors(tmp_path):
    (tmp_path / "archive").mkdir()
    write(tmp_path / "archive" / "FOMC", [{"prompt": f"{{}} {i}", "answer": "A"} for i in range(3)])
    others = ["c-stance", "meetingbank", "py150", "scienceqa", "numglue-cm", "numglue-ds", "20minuten"]
    (stage,) = sequence(sets="trace", without=others, path=str(tmp_path / "archive")).stages
    assert (stage.name, stage.train[0]) == ("fomc", {"source": "train 0", "target": "A"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sets": "standard5"}, "stream.sets: no sequence is called 'standard5' .did you mean 'standard4'"),
        ({"sets": "standard4", "published_order": 4}, "stream.published_order: standard4 has order 1, 2, 3, got 4"),
        ({"sets": "standard4", "without": ["yaho"]}, "stream.without: no stage is called 'yaho' .did you mean 'yahoo'"),
        ({"sets": ["sst3"]}, "stream.sets: no data set is called 'sst3'"),
        ({"sets": ["sst2", "sst2"]}, "stream.sets: must name each set once, got 'sst2' twice"),
        ({"sets": ["sst2"], "published_order": 1}, "stream.published_order: must be null where stream.sets is a list"),
        ({"sets": []}, "stream.sets: must leave at least one stage, got none"),
        ({"sets": ["sst2"], "without": ["sst2"]}, "stream.sets: must leave at least one stage, got none"),
        (
            {"sets": ["sst2", "multi30k_en_de"]},
            "must have one objective, or stream.objective must be set, got sst2 is classification, multi30k_en_de is t",
        ),
        (
            {"sets": ["sst2", "chnsenticorp"], "scenario": "domain_incremental", "shared_labels": False},
            "stream.shared_labels: must be true for objective classification in scenario domain_incremental",
        ),
        (
            {"sets": ["multi30k_en_de"], "shared_labels": False},
            "stream.shared_labels: must be true for objective text_to_text",
        ),
        ({"sets": ["sst2"], "path": "nowhere"}, "stream.path: must be a folder, got 'nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        sequence(**given)


def test_faults_of_all_sets_are_told_at_once(data):
    for name in ("sst2", "cl15_agnews"):
        (data / name / "test.jsonl").write_text("{}\n")
    with pytest.raises(DataError) as caught:
        sequence(sets=["sst2", "cl15_agnews"])
    assert {fault.rpartition("without=")[2] for fault in caught.value.problems} == {"[sst2]", "[cl15_agnews]"}


REAL = {
    "standard4": ({"sets": "standard4", "published_order": 3, "without": ["yahoo"]}, [5, 4, 14], 23),
    "english_chinese": ({"sets": ["sst2", "chnsenticorp"], "scenario": "domain_incremental"}, [2, 2], 2),
    "translation": ({"sets": ["multi30k_en_de", "multi30k_de_en"]}, [0, 0], 0),
    "summarisation": ({"sets": ["dialogsum"]}, [0], 0),
}


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "cl15_agnews").is_dir(), reason="the public data sets are not here")
@pytest.mark.parametrize("name", REAL)
def test_the_real_sets_follow_each_other_as_their_configs_say(monkeypatch, name):
    given, labels, distinct = REAL[name]
    monkeypatch.setenv("CL_MLM_DATA", str(DATA))
    stream, _ = clean(sequence(**given), "drop")
    assert [len(stage.labels) for stage in stream.stages] == labels
    assert len(stream.labels) == distinct


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "cl15_agnews").is_dir(), reason="the public data sets are not here")
def test_fourteen_real_sets_of_the_long_benchmark_are_here(monkeypatch):
    monkeypatch.setenv("CL_MLM_DATA", str(DATA))
    stream, _ = clean(sequence(sets="long15", published_order=6, without=["yahoo"]), "drop")
    assert len(stream) == 14
    # 3 of inference, 2 of truth, A and B, 5 of stars with one word of inference among them, 2 of quality, 14, 4.
    assert len(stream.labels) == 31
    given = {"without": ["yahoo"], "scenario": "task_incremental"}
    assert len(sequence(sets="long15", shared_labels=False, **given).labels) == 50
