"""A classification stream whose labels are written out."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.data.hygiene import clean
from cl_mlm.data.sampling import limit
from cl_mlm.data.text_form import as_text
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.experiment.preparation import prepare
from cl_mlm.stream import SPLITS

LABELS = ["cold", "hot", "loud", "quiet"]
DATA = Path(os.environ.get("CL_MLM_DATA", Path(__file__).parents[4] / "shared" / "data"))


def test_source_is_the_text_and_target_the_label(small_stream):
    made = as_text(small_stream)
    for before, after in zip(small_stream.stages, made.stages, strict=True):
        for split in SPLITS:
            assert after.split(split)["source"] == before.split(split)["text"]
            assert after.split(split)["target"] == before.split(split)["label"]


def test_every_stage_has_the_answers_of_all_and_no_labels(small_stream):
    made = as_text(small_stream)
    assert [stage.options for stage in made.stages] == [{"answers": LABELS}] * 2
    assert [(stage.objective, stage.labels) for stage in made.stages] == [("text_to_text", ())] * 2
    assert made.scenario == "domain_incremental"
    assert made.notes == ("as text: 4 labels are answers to be written",)


def test_rows_are_the_picked_ones_in_their_order(small_stream):
    first = small_stream.stages[0]
    picked = replace(small_stream, stages=(replace(first, train=first.train.select([5, 1, 3])),))
    assert as_text(picked).stages[0].train["source"] == [first.train["text"][i] for i in (5, 1, 3)]


def test_a_pair_is_two_lines_and_other_columns_stay(small_stream):
    rows = Dataset.from_dict({"text": ["a"], "text_pair": ["b"], "label": ["hot"], "domain": ["x"]})
    first = replace(small_stream.stages[0], train=rows, validation=rows, test=rows)
    (stage,) = as_text(replace(small_stream, stages=(first,))).stages
    assert stage.train[0] == {"label": "hot", "domain": "x", "source": "a\nb", "target": "hot"}


def test_a_stream_as_text_passes_the_gate_and_is_limited_by_label(small_stream):
    cleaned, _ = clean(as_text(small_stream), "error")
    assert sorted(limit(cleaned, 2).stages[0].train["target"]) == ["cold", "hot"]


def test_a_row_without_text_is_told_with_its_number(small_stream):
    first = small_stream.stages[0]
    train = Dataset.from_dict({"text": ["a", None], "text_pair": ["b", "c"], "label": ["hot", "cold"]})
    with pytest.raises(DataError, match="train: source must be a non-empty string, got None in row 1"):
        clean(as_text(replace(small_stream, stages=(replace(first, train=train),))), "error")


def test_a_row_with_a_label_of_no_stage_is_told(small_stream):
    first = small_stream.stages[0]
    train = Dataset.from_dict({"text": ["a"], "label": ["odd"]})
    with pytest.raises(DataError, match=r"target must be one of stream.options.answers, got 'odd' in row 0"):
        clean(as_text(replace(small_stream, stages=(replace(first, train=train),))), "error")


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"text": ["a"]}, "stage 'stage 0' train: needs the column label"),
        ({"text": [1], "label": ["hot"]}, "stage 'stage 0' train: column text must hold strings, got int64"),
    ],
)
def test_a_column_that_is_missing_or_no_text_is_named(small_stream, columns, fault):
    first = replace(small_stream.stages[0], train=Dataset.from_dict(columns))
    with pytest.raises(DataError) as caught:
        as_text(replace(small_stream, stages=(first,)))
    assert caught.value.problems == [fault]


def test_only_classification_can_be_written_out(small_stream):
    with pytest.raises(ConfigError, match=r"^stream.as_text: must be false for objective text_to_text, got true$"):
        as_text(as_text(small_stream))


def test_a_stream_that_confines_rows_to_their_stage_is_refused(small_stream):
    with pytest.raises(ConfigError, match=r"^stream.as_text: must be false where stream.scenario is task_incremental"):
        as_text(replace(small_stream, scenario="task_incremental"))


def test_a_config_asks_for_text_and_stages_left_out_bring_no_answers(fast):
    fast["stream"] |= {"as_text": True, "first_stages": 1}
    fast["model"] = {"name": "tiny-decoder"}
    prepared = prepare(load_config(fast))
    assert prepared.objective.answers == ["cold", "hot"]
    assert len(prepared.stream) == 1


def test_settings_without_text_stay_what_they_were(fast):
    plain = load_config(fast)
    fast["stream"]["as_text"] = False
    assert load_config(fast) == plain
    assert "as_text" not in plain.stream


def test_a_switch_that_is_neither_true_nor_false_is_refused(fast):
    fast["stream"]["as_text"] = "please"
    with pytest.raises(ConfigError, match=r"^stream.as_text: must be true or false, got 'please'$"):
        load_config(fast)


@pytest.mark.parametrize("kind", ["tiny-decoder", "tiny-encoder-decoder"])
def test_a_model_learns_to_write_labels_and_forgets_those_before(fast, kind):
    fast["stream"]["as_text"] = True
    fast["model"] = {"name": kind, "dropout": 0.0}
    fast["training"] |= {"epochs": 12, "learning_rate": 3e-3}
    run = cl_mlm.run(fast, progress=False)
    (first, ahead), (later, second) = run.summary["accuracy_matrix"]
    assert first > 0.9
    assert second > 0.9
    assert ahead < 0.3 > later
    assert (run.folder / "per_class.csv").is_file()


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "cl15_agnews").is_dir(), reason="the public data sets are not here")
def test_topics_of_news_are_answers(fast):
    fast["stream"] = {"name": "files", "path": str(DATA / "cl15_agnews"), "labels_per_stage": 2, "as_text": True}
    fast["stream"]["overlap"] = "drop"
    fast["model"] = {"name": "tiny-encoder-decoder"}
    prepared = prepare(load_config(fast))
    assert sorted(prepared.objective.answers) == ["Business", "Science or Technology", "Sports", "World"]
    assert sum(len(stage.test) for stage in prepared.stream.stages) == 1200


MIXED = {
    "classification": ({"text": ["cold wind"], "label": ["cold"]}, ("cold",), "cold wind", "cold"),
    "tagging": (
        {"tokens": [["old", "New", "York", "x"]], "tags": [["B-age", "B-city", "I-city", "O"]]},
        ("age", "city"),
        "old New York x",
        "age: old; city: New York",
    ),
    "multilabel": ({"text": ["a"], "text_pair": ["b"], "labels": [["y", "x"]]}, ("x", "y"), "a\nb", "x; y"),
    "relation": (
        {"tokens": [["Ann", "met", "Bo"]], "head": [[0, 1]], "tail": [[2, 3]], "label": ["met"]},
        ("met",),
        "[E1] Ann [/E1] met [E2] Bo [/E2]",
        "met",
    ),
    "question_answering": (
        {"context": ["It is red."], "question": ["which?"], "answers": [{"text": ["red"], "answer_start": [6]}]},
        (),
        "which?\nIt is red.",
        "red",
    ),
}


def mixed_stream(objectives):
    from cl_mlm.stream import Stage, Stream

    stages = []
    for name in objectives:
        columns, labels, *_ = MIXED[name]
        rows = Dataset.from_dict(columns)
        stages.append(Stage(name, rows, rows, rows, labels, objective=name, task=name))
    return Stream("mixed", tuple(stages))


def test_every_objective_with_a_form_as_text_is_written_out_and_named_by_a_prefix():
    written = as_text(mixed_stream(MIXED))
    for stage, (name, (_, labels, source, target)) in zip(written.stages, MIXED.items(), strict=True):
        assert stage.objective == "text_to_text"
        assert (stage.train["source"][:], stage.test["target"][:]) == ([source], [target])
        answers = {"answers": list(labels)} if name in ("classification", "relation") else {}
        assert stage.options == {**answers, "prefix": f"{name}: "}
        assert stage.labels == ()
    clean(written, "keep")


def test_a_stream_of_one_objective_has_no_prefix():
    (stage,) = as_text(mixed_stream(["tagging"])).stages
    assert stage.options == {}


def test_what_holds_nothing_is_written_as_none():
    stream = mixed_stream(["tagging", "multilabel"])
    tags, labels = stream.stages
    empty = Dataset.from_dict({"tokens": [["a", "b"]], "tags": [["O", "O"]]})
    none = Dataset.from_dict({"text": ["a"], "labels": [["x"]]}).map(lambda row: {"labels": row["labels"][:0]})
    written = as_text(replace(stream, stages=(replace(tags, test=empty), replace(labels, test=none))))
    assert [stage.test["target"][:] for stage in written.stages] == [["none"], ["none"]]


def test_rows_that_their_objective_refuses_are_told():
    stream = mixed_stream(["tagging"])
    bad = Dataset.from_dict({"tokens": [["a", "b"]], "tags": [["O"]]})
    with pytest.raises(DataError, match=r"stage 'tagging' train: tags must be as many as tokens"):
        as_text(replace(stream, stages=(replace(stream.stages[0], train=bad),)))


def test_numbers_cannot_be_written_out_beside_what_can():
    from cl_mlm.stream import Stage

    rows = Dataset.from_dict({"text": ["a"], "value": [1.0]})
    stream = mixed_stream(["tagging"])
    stages = (*stream.stages, Stage("n", rows, rows, rows, (), objective="regression"))
    with pytest.raises(ConfigError, match=r"^stream.as_text: must be false for objective regression, got true$"):
        as_text(replace(stream, stages=stages))
