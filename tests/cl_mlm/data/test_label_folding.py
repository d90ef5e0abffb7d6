"""Labels that look the same, for every objective that has labels: refused, or folded where the section says so."""

import json
from dataclasses import replace

import pytest
from datasets import Dataset

from cl_mlm.config.loading import load_config
from cl_mlm.data.hygiene import clean
from cl_mlm.data.label_folding import fold_labels
from cl_mlm.data.stream_building import build_stream
from cl_mlm.errors import DataError
from cl_mlm.stream import SPLITS, Stage, Stream

ODD = "red\u00a0"  # with a no-break space
SHOWN = r"'red' \(.* rows?\) and 'red\\xa0' \(1 row\); stream.labels=fold makes them one"


def classification(text, label):
    return {"text": text, "label": label}


def multilabel(text, label):
    return {"text": text, "labels": [label]}


def tagging(text, label):
    return {"tokens": [*text.split(), "x"], "tags": ["O"] * len(text.split()) + [f"B-{label}"]}


def relation(text, label):
    return {"tokens": text.split(), "head": [0, 1], "tail": [1, 2], "label": label}


MAKERS = [classification, multilabel, tagging, relation]


def rows_of(make, split, labels):
    return [make(f"{split} {label.strip()} number {i}", label) for i, label in enumerate(labels)]


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def write(request, tmp_path):
    """Writes a folder of rows with four labels; the last row of `odd_split` has another spelling of `red`."""

    def write_rows(odd_split):
        for split in SPLITS:
            labels = ["red", "blue", "green", "grey"] * 2 + ["red"]
            labels[-1] = ODD if split == odd_split else labels[-1]
            lines = [json.dumps(row) for row in rows_of(request.param, split, labels)]
            (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
        return {"name": "files", "path": str(tmp_path), "objective": request.param.__name__}

    return write_rows


def section_of(stream):
    return load_config({"stream": stream}).stream


@pytest.mark.parametrize("odd_split", SPLITS)
def test_another_spelling_is_refused_with_the_key_that_folds_it(write, odd_split):
    with pytest.raises(DataError, match=SHOWN) as caught:
        build_stream(section_of({**write(odd_split), "stages_by": "whole"}))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("odd_split", SPLITS)
def test_folding_gives_what_clean_files_give(write, odd_split):
    section = {**write(None), "stages_by": "whole"}
    wanted = build_stream(section_of(section))[0]
    folded = build_stream(section_of({**write(odd_split), "stages_by": "whole", "labels": "fold"}))[0]
    assert folded.labels == wanted.labels == ("blue", "green", "grey", "red")
    assert folded.fingerprint == wanted.fingerprint
    assert folded.notes == (*wanted.notes, r"labels folded: 'red\xa0' (1 row)")


@pytest.mark.parametrize("make", [classification, tagging, relation], ids=lambda make: make.__name__)
def test_stages_by_label_are_those_of_clean_files(make, tmp_path):
    kind = "types" if make is tagging else "labels"
    for name, odd in {"clean": "red", "odd": ODD}.items():
        (tmp_path / name).mkdir()
        for split in SPLITS:
            labels = ["red", "blue", "green", "grey"] * 2 + [odd]
            lines = [json.dumps(row) for row in rows_of(make, split, labels)]
            (tmp_path / name / f"{split}.jsonl").write_text("\n".join(lines))
    section = {"name": "files", "stages_by": kind, f"{kind}_per_stage": 2, "objective": make.__name__}
    wanted = build_stream(section_of({**section, "path": str(tmp_path / "clean")}))[0]
    odd = {**section, "path": str(tmp_path / "odd")}
    assert build_stream(section_of({**odd, "labels": "fold"}))[0].fingerprint == wanted.fingerprint
    with pytest.raises(DataError, match="must not look the same"):
        build_stream(section_of(odd))


def test_an_entity_whose_tags_are_spelled_in_two_ways_is_folded(tmp_path):
    for split in SPLITS:
        row = {"tokens": [split, "New", "York"], "tags": ["O", "B-city", "I-city "]}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row))
    section = {"name": "files", "path": str(tmp_path), "stages_by": "types", "types_per_stage": 1, "labels": "fold"}
    stream, _ = build_stream(section_of({**section, "objective": "tagging"}))
    assert stream.stages[0].train["tags"][0] == ["O", "B-city", "I-city"]
    whole = {**section, "stages_by": "whole", "types_per_stage": None, "objective": "tagging"}
    assert build_stream(section_of(whole))[0].labels == ("city",)


def stage_of(name, make, labels):
    splits = {split: Dataset.from_list(rows_of(make, f"{name} {split}", labels)) for split in SPLITS}
    return Stage(name, **splits, labels=tuple(labels), objective=make.__name__, task=make.__name__)


def test_two_labels_of_a_row_become_one():
    stage = replace(stage_of("one", multilabel, ["red", "blue"]), labels=("red", "red ", "blue"))
    both = Dataset.from_list([{"text": "x", "labels": ["red", "red "]}, {"text": "y", "labels": ["blue"]}])
    (folded,) = fold_labels(Stream("s", (replace(stage, train=both),))).stages
    assert (folded.labels, folded.train["labels"][:]) == (("red", "blue"), [["red"], ["blue"]])


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_stream_object_is_folded_where_its_stages_stay_apart(make):
    stages = (stage_of("one", make, ["red", ODD, "blue"]), stage_of("two", make, ["green", "grey"]))
    with pytest.raises(DataError, match="must not look the same"):
        build_stream({}, None, Stream("s", stages))
    stream, _ = build_stream({"labels": "fold"}, None, Stream("s", stages))
    assert [stage.labels for stage in stream.stages] == [("red", "blue"), ("green", "grey")]
    assert stream.notes == (r"labels folded: 'red\xa0' (3 rows)",)


def test_a_stream_object_whose_stages_would_share_a_label_is_refused():
    stages = (stage_of("one", classification, ["red", "blue"]), stage_of("two", classification, [ODD, "grey"]))
    with pytest.raises(
        DataError, match=r"fold must not join labels of two stages, got 'red' of stage 'one', 'red\\xa0'"
    ):
        build_stream({"labels": "fold"}, None, Stream("s", stages))
    shared = (stages[0], stage_of("two", classification, ["red", ODD, "grey"]))
    assert build_stream({"labels": "fold"}, None, Stream("s", shared))[0].stages[1].labels == ("red", "grey")


def test_sound_rows_stay_the_same_objects():
    stream = Stream("s", (stage_of("one", classification, ["red", "blue"]),))
    assert fold_labels(stream) == stream


def test_folding_reads_through_picked_rows_and_copies_no_text():
    rows = Dataset.from_list([classification(f"text {i}", label) for i, label in enumerate(["b", "red ", "b", "red"])])
    picked = rows.select([3, 1])
    stage = Stage("one", picked, rows.select([0]), rows.select([2]), ("red", "red ", "b"))
    train = fold_labels(Stream("s", (stage,))).stages[0].train
    assert (train["text"][:], train["label"][:]) == (["text 3", "text 1"], ["red", "red"])
    assert (
        train.data.column("text").chunk(0).buffers()[2].address
        == rows.data.column("text").chunk(0).buffers()[2].address
    )


def test_a_label_that_looks_like_the_rejected_one_becomes_it():
    rows = {split: Dataset.from_list(rows_of(classification, split, ["a", "b"])) for split in SPLITS}
    rows["test"] = Dataset.from_list(rows_of(classification, "test", ["a", "b", "oos "]))
    stream = Stream("s", (Stage("one", **rows, labels=("a", "b"), options={"reject": "oos"}),))
    folded, _ = clean(fold_labels(stream), "error")
    assert folded.stages[0].test["label"][:] == ["a", "b", "oos"]


def test_a_label_that_shows_nothing_is_not_folded_away():
    stream = Stream("s", (stage_of("one", classification, ["red", "\u200b"]),))
    with pytest.raises(DataError, match=r"must have a visible character, got '\\u200b' \(3 rows\)"):
        build_stream({"labels": "fold"}, None, stream)


def test_labels_are_compared_before_they_become_texts(tmp_path, write_labelled):
    path = write_labelled(tmp_path / "rows", "one")
    test = tmp_path / "rows" / "test.jsonl"
    test.write_text(test.read_text() + '\n{"text": "odd", "label": "a "}\n')
    section = {"name": "files", "path": path, "labels_per_stage": 2, "as_text": True}
    with pytest.raises(DataError, match="labels must not look the same"):
        build_stream(section_of(section))
    folded, _ = build_stream(section_of({**section, "labels": "fold"}))
    assert sorted(folded.stages[0].options["answers"]) == ["a", "b", "c", "d"]


def test_probes_are_folded_with_the_stream(tmp_path, write_labelled):
    path = write_labelled(tmp_path / "rows", "one")
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "test.jsonl").write_text('{"text": "odd", "label": "a "}\n')
    section = {"name": "files", "path": path, "labels_per_stage": 2, "probes": {"odd": str(tmp_path / "probe")}}
    with pytest.raises(DataError, match="labels must not look the same"):
        build_stream(section_of(section))
    assert build_stream(section_of({**section, "labels": "fold"}))[0].probes[0].labels == ("a",)


def test_the_key_is_left_out_where_it_is_not_set():
    plain = section_of({"name": "phrasebook"})
    assert section_of({"name": "phrasebook", "labels": "error", "unseen_labels": "error"}) == plain
    assert section_of({"name": "phrasebook", "labels": "fold", "unseen_labels": "drop"}) == {
        **plain,
        "labels": "fold",
        "unseen_labels": "drop",
    }
