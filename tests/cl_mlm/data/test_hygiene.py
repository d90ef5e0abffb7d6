import json
import os
import re
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_mlm.data.hygiene import clean
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS

DATA = Path(os.environ.get("CL_MLM_DATA") or Path(__file__).parents[3].parent / "shared" / "data")


def test_a_sound_stream_passes_with_its_own_splits(make_stream):
    stream = make_stream()
    cleaned, counts = clean(stream, "error")
    assert cleaned == stream
    assert counts == {"train_in_validation": 0, "train_in_test": 0, "validation_in_test": 0}


def test_an_unknown_overlap_names_the_allowed_ones(make_stream):
    with pytest.raises(ConfigError, match=r"stream\.overlap: must be one of error, drop, keep, got 'ignore'"):
        clean(make_stream(), "ignore")


def test_what_the_objective_finds_is_refused_with_stage_and_split(rows, make_stage, make_stream, faults):
    stream = make_stream(make_stage(test=rows((" ", "a"), ("x", "b"))))
    (problem,) = faults(stream)
    assert problem.startswith("stage 'one' test: text must be a non-empty string, got ' ' in row 0")


def test_a_fault_in_a_later_batch_says_where_the_batch_starts(monkeypatch, rows, make_stage, make_stream, faults):
    monkeypatch.setattr("cl_mlm.arrow.BATCH_ROWS", 2)
    stream = make_stream(make_stage(train=rows(("x", "a"), ("y", "b"), ("z", "a"), ("", "b"))))
    (problem,) = faults(stream)
    assert problem.startswith("stage 'one' train, counted from row 2: text must be a non-empty string, got '' in row 1")


def test_a_missing_column_is_refused(make_stage, make_stream, faults):
    stream = make_stream(make_stage(train=Dataset.from_dict({"text": ["x", "y"]})))
    assert any("has no label" in problem for problem in faults(stream))


@pytest.mark.parametrize("overlap", ["error", "drop"])
def test_a_validation_split_that_is_the_test_split_is_refused(overlap, rows, make_stage, make_stream, faults):
    same = rows(("x", "a"), ("y", "b"))
    problems = faults(make_stream(make_stage(validation=same, test=same.select([1, 0]))), overlap)
    assert problems[0].startswith("stage 'one' validation: must not be the test split (2 equal rows)")


def test_keep_takes_a_validation_split_that_is_the_test_split(rows, make_stage, make_stream):
    same = rows(("x", "a"), ("y", "b"))
    _, counts = clean(make_stream(make_stage(validation=same, test=same)), "keep")
    assert counts["validation_in_test"] == 2


def test_all_faults_are_reported_at_once(rows, make_stage, make_stream, faults):
    broken = make_stage(
        labels=("a",),
        train=rows(("", "a"), ("x", "z")),
        validation=rows(("v", "a")).select([]),
    )
    two = make_stage("two", train=rows(("same", "a"), ("other", "b")), test=rows(("same", "a")))
    problems = "\n".join(faults(make_stream(broken, two)))
    for expected in (
        "at least 2 labels",
        "got '' in row 0",
        "got 'z' in 1 rows",
        "'one' validation: must have rows",
        "'two' train: no input may occur",
    ):
        assert expected in problems


def test_reading_stops_after_twenty_faults(monkeypatch, rows, make_stage, make_stream, faults):
    monkeypatch.setattr("cl_mlm.arrow.BATCH_ROWS", 1)
    stream = make_stream(make_stage(train=rows(*[("", "a")] * 30), validation=rows(*[("", "a")] * 30)))
    problems = faults(stream)
    assert sum("non-empty" in problem for problem in problems) == 20
    assert any(problem.startswith("stopped reading after 20 faults") for problem in problems)


@pytest.fixture
def overlapping(rows, make_stage, make_stream):
    """Two training rows that occur in a test and a validation split; a validation row that occurs in a test split."""
    one = make_stage(
        "one",
        train=rows(("keep a", "a"), ("keep b", "b"), ("in  test", "a"), ("in validation", "b")),
        test=rows(("in test", "a"), ("of both", "b")),
    )
    two = make_stage(
        "two",
        ("c", "d"),
        validation=rows(("in validation", "c"), ("ｏｆ both", "d"), ("plain", "d")),
    )
    return make_stream(one, two)


COUNTS = {"train_in_validation": 1, "train_in_test": 1, "validation_in_test": 1}


def test_error_names_stage_split_count_and_examples(faults, overlapping):
    problems = faults(overlapping)
    assert problems[0].startswith(
        "stage 'one' train: no input may occur in a validation or test split too, got 2 such: 'in test',"
    )
    assert problems[1].startswith("stage 'two' validation: no input may occur in a test split too, got 1 such: ")
    assert all("stream.overlap=drop" in problem and "keep" in problem for problem in problems)


def test_error_shows_three_shortened_examples(rows, make_stage, make_stream, faults):
    long = [("word " * 40 + str(i), "a") for i in range(5)]
    stream = make_stream(make_stage(train=rows(*long, ("b", "b")), test=rows(*long)))
    (problem,) = faults(stream)
    assert re.findall(r"'([^']*)\.\.\.'", problem) == [("word " * 40)[:57]] * 3


def test_drop_removes_training_and_validation_rows_and_counts_them(overlapping):
    cleaned, counts = clean(overlapping, "drop")
    one, two = cleaned.stages
    assert list(one.train["text"]) == ["keep a", "keep b"]
    assert list(two.validation["text"]) == ["in validation", "plain"]
    assert counts == {**COUNTS, "dropped_train": 2, "dropped_validation": 1}
    assert cleaned.notes == ("overlap: 2 training and 1 validation rows dropped",)


def test_drop_never_removes_test_rows_and_leaves_sound_splits_as_they_are(overlapping):
    stream = overlapping
    cleaned, _ = clean(stream, "drop")
    for before, after in zip(stream.stages, cleaned.stages, strict=True):
        assert after.test is before.test
    assert cleaned.stages[0].validation is stream.stages[0].validation
    assert cleaned.stages[1].train is stream.stages[1].train


def test_nothing_occurs_twice_after_drop(overlapping):
    cleaned, _ = clean(overlapping, "drop")
    assert clean(cleaned, "error")[1] == dict.fromkeys(COUNTS, 0)


def test_keep_only_counts(overlapping):
    stream = overlapping
    cleaned, counts = clean(stream, "keep")
    assert cleaned == stream
    assert counts == COUNTS


def test_drop_that_takes_a_labels_last_training_row_is_refused(rows, make_stage, make_stream, faults):
    stage = make_stage(
        train=rows(("x", "a"), ("y", "b")), validation=rows(("v", "b")), test=rows(("x", "a"), ("z", "b"))
    )
    assert faults(make_stream(stage), "drop") == [
        "stage 'one' test, after stream.overlap=drop: train has no row of 'a', test has 1; "
        "stream.unseen_labels=drop leaves such rows out"
    ]


def test_drop_that_empties_a_split_is_refused(rows, make_stage, make_stream, faults):
    stream = make_stream(make_stage(validation=rows(("x", "a")), test=rows(("x", "a"), ("z", "b"))))
    assert faults(stream, "drop") == ["stage 'one' validation, after stream.overlap=drop: must have rows, got none"]


def test_case_counts_but_white_space_and_compatible_characters_do_not(rows, make_stage, make_stream):
    stage = make_stage(
        train=rows(("Same", "a"), ("ﬁne\u00a0 text\t", "b")),
        validation=rows(("same", "a")),
        test=rows(("fine text", "b"), ("else", "a")),
    )
    assert clean(make_stream(stage), "keep")[1] == {
        "train_in_validation": 0,
        "train_in_test": 1,
        "validation_in_test": 0,
    }


def test_one_input_under_two_labels_counts(rows, make_stage, make_stream):
    stream = make_stream(make_stage(train=rows(("x", "a"), ("y", "b")), test=rows(("x", "b"))))
    assert clean(stream, "keep")[1]["train_in_test"] == 1


def pairs(*triples):
    return Dataset.from_dict(
        {name: [triple[i] for triple in triples] for i, name in enumerate(("text", "text_pair", "label"))}
    )


def test_pairs_are_the_same_only_when_both_texts_are(make_stage, make_stream):
    stage = make_stage(
        train=pairs(("p", "q", "a"), ("p q", "r", "b"), ("s", " t ", "a")),
        validation=pairs(("p", "other", "a")),
        test=pairs(("p", "q r", "b"), ("s", "t", "a")),
    )
    _, counts = clean(make_stream(stage), "keep")
    assert counts == {"train_in_validation": 0, "train_in_test": 1, "validation_in_test": 0}


def test_rows_are_matched_across_batches(monkeypatch, overlapping):
    monkeypatch.setattr("cl_mlm.arrow.BATCH_ROWS", 1)
    cleaned, counts = clean(overlapping, "drop")
    assert counts["dropped_train"] == 2
    assert list(cleaned.stages[0].train["text"]) == ["keep a", "keep b"]


WORDS = st.lists(st.sampled_from([*"pqrstuvw"]), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(splits=st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=3))
def test_counts_equal_a_count_by_sets(splits, rows, make_stage, make_stream):
    inputs = {split: [triple[i] for triple in splits] for i, split in enumerate(SPLITS)}
    stages = []
    for i, triple in enumerate(splits):
        named = {split: rows(*((word, "a") for word in words)) for split, words in zip(SPLITS, triple, strict=True)}
        stages.append(make_stage(f"s{i}", **named))
    union = {split: {text for part in inputs[split] for text in part} for split in SPLITS}
    expected = {
        f"{small}_in_{large}": sum(text in union[large] for part in inputs[small] for text in part)
        for small, large in (("train", "validation"), ("train", "test"), ("validation", "test"))
    }
    assert clean(make_stream(*stages), "keep")[1] == expected


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "clinc150").is_dir(), reason="needs the public data sets in CL_MLM_DATA")
def test_clinc150_has_two_test_and_three_validation_rows_in_train(rows, make_stage, make_stream):
    splits = {}
    for split in SPLITS:
        lines = (DATA / "clinc150" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        splits[split] = rows(*((row["text"], row["label"]) for row in map(json.loads, lines)))
    labels = tuple(sorted(set(splits["train"]["label"])))
    cleaned, counts = clean(make_stream(make_stage(labels=labels, **splits)), "drop")
    assert counts["train_in_test"] == 2
    assert counts["train_in_validation"] == 3
    assert len(cleaned.stages[0].test) == 4500


@pytest.fixture
def in_other_case(rows, make_stage, make_stream):
    """A training row of a test row, a validation row of a test row, in other case; and one training row as it is."""
    return make_stream(
        make_stage(
            train=rows(("Book it", "a"), ("STRASSE", "b"), ("as it is", "a"), ("y", "a"), ("z", "b")),
            validation=rows(("CANCEL it", "a"), ("w", "b")),
            test=rows(("book it", "a"), ("cancel it", "b"), ("as it is", "a"), ("straße", "b")),
        )
    )


TOLD = "2 training and 1 validation rows differ in letter case only from a row of a later split"


def test_rows_in_other_case_are_counted_and_stay(in_other_case):
    cleaned, counts = clean(in_other_case, "drop")
    assert cleaned.stages[0].train["text"][:] == ["Book it", "STRASSE", "y", "z"]
    assert cleaned.notes[0] == f"overlap: {TOLD}; they are not taken as the same"
    assert (counts["train_in_test"], counts["validation_in_test"]) == (1, 0)


def test_rows_in_other_case_are_overlap_where_the_tokenizer_folds_case(in_other_case):
    cleaned, counts = clean(in_other_case, "drop", folds_case=lambda: True)
    assert cleaned.stages[0].train["text"][:] == ["y", "z"]
    assert cleaned.stages[0].validation["text"][:] == ["w"]
    assert cleaned.notes[0] == f"overlap: {TOLD}; the model's tokenizer folds case: they are the same"
    assert (counts["train_in_test"], counts["validation_in_test"]) == (3, 1)
    with pytest.raises(DataError, match=r"got 3 such: 'Book it'.*(?s:.)*tokenizer folds case"):
        clean(in_other_case, "error", folds_case=lambda: True)


def test_a_validation_split_that_is_the_test_split_in_other_case_is_refused(rows, make_stage, make_stream):
    stage = make_stage(validation=rows(("X", "a"), ("Y", "b")), test=rows(("y", "b"), ("x", "a")))
    clean(make_stream(stage), "error")
    with pytest.raises(DataError, match="validation: must not be the test split"):
        clean(make_stream(stage), "drop", folds_case=lambda: True)


def test_the_tokenizer_is_asked_only_where_it_matters(overlapping, in_other_case):
    asked = []
    for stream in (overlapping, in_other_case):
        clean(stream, "keep", folds_case=lambda: bool(asked.append(1)))
    assert len(asked) == 1
