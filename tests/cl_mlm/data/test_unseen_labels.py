"""Labels without training rows, and labels that are trained and never scored, for every objective that has labels."""

from dataclasses import replace

import pytest
from datasets import Dataset

from cl_mlm.data.hygiene import clean
from cl_mlm.data.stream_building import build_stream
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS, Column, Stage, Stream
from tests.cl_mlm.data.test_label_folding import MAKERS, classification, multilabel, tagging

LABELS = {"train": "ab", "validation": "abc", "test": "abcc"}
REMEDY = "stream.unseen_labels=drop leaves such rows out"


def rows_of(make, where, labels):
    return Dataset.from_list([make(f"{where} {label} {i}", label) for i, label in enumerate(labels)])


def stage_of(make, name="one", **labels):
    labels = LABELS | labels
    splits = {split: rows_of(make, f"{name} {split}", labels[split]) for split in SPLITS}
    own = tuple(sorted(set("".join(labels.values()))))
    return Stage(name, **splits, labels=own, objective=make.__name__, task=make.__name__)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_label_without_training_rows_is_refused_with_the_key(make):
    with pytest.raises(DataError) as caught:
        clean(Stream("s", (stage_of(make),)), "error")
    assert caught.value.problems == [
        f"stage 'one' validation: train has no row of 'c', validation has 1; {REMEDY}",
        f"stage 'one' test: train has no row of 'c', test has 2; {REMEDY}",
    ]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_drop_leaves_out_its_rows_and_the_label(make):
    wanted = stage_of(make, validation="ab", test="ab")
    stream, _ = clean(Stream("s", (stage_of(make),)), "error", "drop")
    assert stream.fingerprint == Stream("s", (wanted,)).fingerprint
    assert stream.notes == ("labels without training rows: 1 validation and 2 test rows dropped, with 'c' (3 rows)",)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_label_that_dropped_overlap_has_emptied_is_left_out_too(make):
    stage = stage_of(make, train="abc", validation="ab", test="ab")
    stage = replace(stage, test=Dataset.from_list([*stage.test, stage.train[2]]))
    with pytest.raises(DataError, match=r"test, after stream.overlap=drop: train has no row of 'c', test has 1"):
        clean(Stream("s", (stage,)), "drop")
    stream, counts = clean(Stream("s", (stage,)), "drop", "drop")
    assert (counts["dropped_train"], stream.labels) == (1, ("a", "b"))
    assert [len(stream.stages[0].split(split)) for split in SPLITS] == [2, 2, 2]


def test_a_row_with_a_trained_label_beside_goes_as_a_whole():
    stage = stage_of(multilabel, validation="ab", test="ab")
    test = Dataset.from_list([{"text": "both", "labels": ["a", "c"]}, {"text": "one", "labels": ["a"]}])
    stream, _ = clean(Stream("s", (replace(stage, test=test, labels=("a", "b", "c")),)), "error", "drop")
    assert stream.stages[0].test["text"][:] == ["one"]


def test_a_split_that_is_emptied_is_refused():
    with pytest.raises(DataError, match=r"test, after stream.unseen_labels=drop: must have rows, got none"):
        clean(Stream("s", (stage_of(classification, test="cc"),)), "error", "drop")


def test_a_label_of_another_domain_stays_a_label():
    stages = (stage_of(classification, "one"), stage_of(classification, "two", train="abc"))
    stream, _ = clean(Stream("s", stages, "domain_incremental"), "error", "drop")
    assert [stage.labels for stage in stream.stages] == [("a", "b", "c")] * 2
    assert [len(stage.test) for stage in stream.stages] == [2, 4]


def test_probe_rows_of_labels_that_no_stage_trains_go():
    stage = stage_of(classification, validation="ab", test="ab")
    none = rows_of(classification, "probe", "a").select([])
    probe = Column("probe", none, rows_of(classification, "probe", "abz"), ("a", "b", "z"), home=None)
    stream = Stream("s", (stage,), probes=(probe,))
    with pytest.raises(DataError, match="probe 'probe': its labels must be brought by a stage, got 'z'"):
        clean(stream, "error")
    cleaned, _ = clean(stream, "error", "drop")
    assert (cleaned.probes[0].labels, len(cleaned.probes[0].test)) == (("a", "b"), 2)


def test_earlier_types_without_training_rows_go_from_later_stages_too():
    first = stage_of(tagging, "one")
    later = stage_of(tagging, "two", train="de", validation="de", test="dec")
    stream = Stream("s", (first, replace(later, labels=("d", "e"))))
    cleaned, _ = clean(stream, "error", "drop")
    assert [len(stage.test) for stage in cleaned.stages] == [2, 2]


def test_rejected_rows_are_no_unseen_label():
    stage = replace(stage_of(classification), labels=("a", "b"), options={"reject": "c"})
    assert len(clean(Stream("s", (stage,)), "error", "drop")[0].stages[0].test) == 4


def test_an_unknown_value_names_the_allowed_ones():
    with pytest.raises(ConfigError, match="unseen_labels: must be one of error, drop, got 'keep'"):
        clean(Stream("s", (stage_of(classification),)), "error", "keep")


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_label_that_is_trained_and_never_scored_is_noted(make):
    stage = stage_of(make, train="aabbbc", validation="ab", test="a")
    assert clean(Stream("s", (stage,)), "error")[0].notes == (
        "labels with training rows and without test rows: 'b' (3 rows), 'c' (1 row)",
        "labels with training rows and without validation rows: 'c' (1 row)",
    )


def test_a_long_list_of_labels_is_cut():
    stage = stage_of(classification, train="abcdefgh", validation="abcdefgh", test="a")
    (note,) = clean(Stream("s", (stage,)), "error")[0].notes
    assert note.endswith("'f' (1 row) and 2 more")


PLUM = {"train": "", "validation": "", "test": "pp"}
COUNTED = "'p' (train 0, validation 0, test 2)"


def two_stages(make, **labels):
    """Returns a sound stage and a second one with other labels."""
    first = stage_of(make, validation="ab", test="ab")
    later = stage_of(make, "two", **labels)
    # No split is without columns.
    splits = {split: later.split(split) if labels[split] else first.split(split).select([]) for split in SPLITS}
    return Stream("s", (first, replace(later, **splits)))


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_stage_of_unseen_labels_alone_is_one_fault_with_labels_counts_and_key(make):
    with pytest.raises(DataError) as caught:
        clean(two_stages(make, **PLUM), "error")
    assert caught.value.problems == [
        f"stage 'two': train has no row of {COUNTED}; give them training rows, or leave the stage out with "
        "stream.unseen_labels=drop"
    ]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_drop_leaves_out_a_stage_of_unseen_labels_alone(make):
    stream = two_stages(make, **PLUM)
    cleaned, _ = clean(stream, "error", "drop")
    assert cleaned.fingerprint == Stream("s", stream.stages[:1]).fingerprint
    assert cleaned.notes[-1] == (
        f"stages left out, as no training row has a label of theirs: 1 of 2, 'two' with {COUNTED}"
    )


def test_stages_behind_one_that_is_left_out_keep_their_names_and_rows():
    stream = two_stages(classification, **PLUM)
    third = stage_of(classification, "three", train="xyxx", validation="xy", test="xy")
    conflicting = Dataset.from_list([*third.train, {**third.train[0], "label": "y"}])
    stream = replace(stream, stages=(*stream.stages, replace(third, train=conflicting)))
    cleaned, _ = clean(stream, "error", "drop")
    assert [(stage.name, len(stage.train)) for stage in cleaned.stages] == [("one", 2), ("three", 5)]
    assert any("1 input has several answers in 2 rows" in note for note in cleaned.notes)


@pytest.mark.parametrize("has_test", [True, False])
def test_a_stage_that_dropped_overlap_has_emptied_is_left_out(has_test):
    stream = two_stages(classification, train="p", validation="", test="p" * has_test)
    first, later = stream.stages
    copies = Dataset.from_list([*first.test, {**later.train[0], "label": "a"}])
    moved = {"test": later.train} if has_test else {}
    stages = (first if has_test else replace(first, test=copies), replace(later, **moved))
    cleaned, _ = clean(replace(stream, stages=stages), "drop", "drop")
    assert [stage.name for stage in cleaned.stages] == ["one"]
    assert f"'two' with 'p' (train 0, validation 0, test {has_test:d})" in cleaned.notes[-1]


def test_what_is_left_is_checked_again():
    stream = two_stages(classification, train="p", validation="p", test="p")
    first = replace(stream.stages[0], **dict.fromkeys(("train", "validation"), stream.stages[0].test))
    no_rows = first.train.select([])
    stages = (replace(first, train=no_rows, validation=no_rows), stream.stages[1])
    with pytest.raises(DataError, match=r"'two': the first stage must have at least 2 labels .*unseen_labels=drop"):
        clean(replace(stream, stages=stages), "error", "drop")


def test_a_stream_without_any_training_row_is_not_emptied():
    stream = two_stages(classification, **PLUM)
    stages = tuple(replace(stage, train=stage.train.select([])) for stage in stream.stages)
    with pytest.raises(DataError, match="stage 'one' train: must have rows, got none"):
        clean(replace(stream, stages=stages), "error", "drop")


def test_a_domain_without_training_rows_is_not_left_out():
    stages = [stage_of(classification, name, train="abc") for name in ("one", "two")]
    stages[1] = replace(stages[1], train=stages[1].train.select([]))
    with pytest.raises(DataError) as caught:
        clean(Stream("s", tuple(stages), "domain_incremental"), "error", "drop")
    assert caught.value.problems == ["stage 'two' train: must have rows, got none"]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("split", SPLITS[1:])
def test_a_stage_whose_labels_are_trained_and_not_scored_names_them_and_a_way(make, split):
    labels = {"train": "pppq", "validation": "pq", "test": "pq"} | {split: ""}
    with pytest.raises(DataError) as caught:
        clean(two_stages(make, **labels), "error")
    counts = {**{"validation": 1, "test": 1}, split: 0}
    others = f"validation {counts['validation']}, test {counts['test']}"
    assert caught.value.problems == [
        f"stage 'two' {split}: must have rows, got none; its labels are 'p' (train 3, {others}), 'q' (train 1, "
        f"{others}): give them such rows, or put them into a stage with others (stream.groups)"
    ]


def test_labels_are_checked_before_they_become_texts():
    stream = Stream("s", (stage_of(classification),))
    with pytest.raises(DataError, match="train has no row of 'c'"):
        build_stream({"as_text": True}, None, stream)
    written, _ = build_stream({"as_text": True, "unseen_labels": "drop"}, None, stream)
    assert written.stages[0].options["answers"] == ["a", "b"]
    assert written.notes[0].startswith("labels without training rows: 1 validation and 2 test rows dropped")
