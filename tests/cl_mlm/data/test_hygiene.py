import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_mlm import ConfigError, DataError, Stage, Stream
from cl_mlm.data.hygiene import clean
from cl_mlm.data.sampling import limit
from cl_mlm.stream import fingerprint

SPLITS = ("train", "validation", "test")
DATA = Path(os.environ.get("CL_MLM_DATA") or Path(__file__).parents[3].parent / "shared" / "data")


def set_batch_rows(monkeypatch, rows):
    """Makes both readers of rows, the gate and the fingerprint, take `rows` at a time."""
    monkeypatch.setattr("cl_mlm.arrow.BATCH_ROWS", rows)


def rows(*pairs):
    return Dataset.from_dict({"text": [text for text, _ in pairs], "label": [label for _, label in pairs]})


def make_stage(name="one", labels=("a", "b"), **splits):
    default = {split: rows(*((f"{name} {split} {label}", label) for label in labels)) for split in SPLITS}
    return Stage(name=name, labels=labels, **(default | splits))


def make_stream(*stages, scenario="class_incremental"):
    return Stream("toy", stages or (make_stage("one"), make_stage("two", ("c", "d"))), scenario=scenario)


def faults(stream, overlap="error"):
    with pytest.raises(DataError) as caught:
        clean(stream, overlap)
    return caught.value.problems


def texts(dataset):
    return list(dataset["text"])


# What the fingerprint is made of


def test_fingerprint_is_the_same_for_equal_streams():
    assert fingerprint(make_stream()) == fingerprint(make_stream())
    assert len(fingerprint(make_stream())) == 64


def test_fingerprint_does_not_move_between_versions():
    assert fingerprint(make_stream()) == "99d7a50260c0148fc005c231718691eb5c64765ab73dd98b35f0e91d9e5a1d5a"


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, scenario="task_incremental"),
        lambda s: replace(s, stages=s.stages[::-1]),
        lambda s: replace(s, stages=(replace(s.stages[0], name="other"), s.stages[1])),
        lambda s: replace(s, stages=(replace(s.stages[0], labels=("b", "a")), s.stages[1])),
        lambda s: replace(s, stages=(replace(s.stages[0], test=s.stages[0].validation), s.stages[1])),
        lambda s: replace(s, stages=(replace(s.stages[0], train=s.stages[0].train.select([1, 0])), s.stages[1])),
        lambda s: replace(s, stages=(replace(s.stages[0], train=s.stages[0].train.select([0])), s.stages[1])),
        lambda s: replace(s, stages=(make_stage(test=rows(("one test a", "a"), ("one test B", "b"))), s.stages[1])),
        lambda s: replace(s, stages=(make_stage(test=s.stages[0].test.add_column("n", [0, 1])), s.stages[1])),
    ],
    ids=["scenario", "stage order", "stage name", "labels", "split", "row order", "row missing", "text", "column"],
)
def test_fingerprint_changes_with(change):
    assert fingerprint(change(make_stream())) != fingerprint(make_stream())


def test_fingerprint_ignores_the_streams_name_and_notes():
    assert fingerprint(replace(make_stream(), name="other", notes=("x",))) == fingerprint(make_stream())


def test_fingerprint_ignores_an_indices_mapping():
    stage = make_stage()
    mapped = concatenate_datasets([stage.train, stage.test]).select([0, 1])
    mapped = mapped.select([1, 0]).select([1, 0])
    assert mapped._indices is not None
    assert fingerprint(make_stream(replace(stage, train=mapped))) == fingerprint(make_stream(stage))


def test_fingerprint_ignores_where_the_file_lies(tmp_path):
    stage = make_stage()
    stage.train.save_to_disk(tmp_path / "rows")
    loaded = Dataset.load_from_disk(str(tmp_path / "rows"))
    assert loaded.cache_files
    assert fingerprint(make_stream(replace(stage, train=loaded))) == fingerprint(make_stream(stage))


def test_fingerprint_ignores_column_order_and_format():
    stage = make_stage()
    other = stage.train.select_columns(["label", "text"]).with_format("numpy")
    assert fingerprint(make_stream(replace(stage, train=other))) == fingerprint(make_stream(stage))


def test_fingerprint_tells_a_moved_border_between_two_texts():
    one, two = (make_stage(train=rows((left, "a"), (right, "b"))) for left, right in (("ab", "c"), ("a", "bc")))
    assert fingerprint(make_stream(one)) != fingerprint(make_stream(two))


def test_fingerprint_tells_null_from_empty():
    one, two = (make_stage(train=rows((value, "a"), ("x", "b"))) for value in (None, ""))
    assert fingerprint(make_stream(one)) != fingerprint(make_stream(two))


def test_fingerprint_ignores_the_width_of_types():
    narrow = pa.table({"text": pa.array(["x"], pa.string()), "label": ["a"], "n": pa.array([1], pa.int32())})
    wide = pa.table({"text": pa.array(["x"], pa.large_string()), "label": ["a"], "n": pa.array([1], pa.int64())})
    one, two = (make_stage(train=Dataset(table)) for table in (narrow, wide))
    assert fingerprint(make_stream(one)) == fingerprint(make_stream(two))


VALUES = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
        "n": st.none() | st.integers(-(2**60), 2**60),
        "x": st.none() | st.floats(allow_nan=False),
        "flag": st.booleans(),
        "tokens": st.none() | st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=3),
        "span": st.fixed_dictionaries({"start": st.none() | st.integers(0, 9), "parts": st.lists(st.integers(0, 9))}),
        "when": st.none() | st.dates(),
    }
)
TYPE = pa.schema(
    {
        "text": pa.string(),
        "n": pa.int64(),
        "x": pa.float64(),
        "flag": pa.bool_(),
        "tokens": pa.list_(pa.string()),
        "span": pa.struct({"start": pa.int64(), "parts": pa.list_(pa.int64())}),
        "when": pa.date32(),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, min_size=1, max_size=8), data=st.data())
def test_fingerprint_ignores_chunks_and_batches(values, data, monkeypatch):
    cut = data.draw(st.integers(0, len(values)))
    whole = pa.Table.from_pylist(values, schema=TYPE)
    chunked = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    set_batch_rows(monkeypatch, 10_000)
    expected = fingerprint(make_stream(make_stage(train=Dataset(whole))))
    set_batch_rows(monkeypatch, data.draw(st.integers(1, 3)))
    assert fingerprint(make_stream(make_stage(train=Dataset(chunked)))) == expected


def test_fingerprint_reads_100_000_rows_within_two_seconds():
    many = rows(*((f"row {i} of a large split, with some words to read", f"l{i % 20}") for i in range(100_000)))
    stream = make_stream(make_stage(train=many))
    start = time.perf_counter()
    fingerprint(stream)
    assert time.perf_counter() - start < 2


# What is always refused


def test_a_sound_stream_passes_with_its_own_splits():
    stream = make_stream()
    cleaned, counts = clean(stream, "error")
    assert cleaned == stream
    assert counts == {"train_in_validation": 0, "train_in_test": 0, "validation_in_test": 0}


def test_an_unknown_overlap_names_the_allowed_ones():
    with pytest.raises(ConfigError, match=r"stream\.overlap: must be one of error, drop, keep, got 'ignore'"):
        clean(make_stream(), "ignore")


def test_a_stream_without_stages_is_refused():
    assert faults(replace(make_stream(), stages=())) == ["stream 'toy': must have at least one stage, got none"]


def test_two_stages_with_one_name_are_refused():
    one = make_stage("one")
    two = replace(make_stage("two"), name="one")
    assert faults(make_stream(one, two)) == ["stage 'one': a stage's name must be unique, 2 stages have this one"]


def test_a_first_stage_with_one_label_is_refused():
    assert faults(make_stream(make_stage(labels=("a",)))) == [
        "stage 'one': the first stage must have at least 2 labels for objective classification, got ['a']"
    ]


def test_a_later_stage_may_have_one_label():
    clean(make_stream(make_stage(), make_stage("two", ("c",))), "error")


def test_domain_incremental_refuses_differing_labels():
    stream = make_stream(make_stage(), make_stage("two", ("b", "c")), scenario="domain_incremental")
    (problem,) = faults(stream)
    assert problem.startswith("stage 'two': domain_incremental needs the same labels in every stage")
    assert problem.endswith("it lacks 'a' and it adds 'c'")


def test_domain_incremental_takes_the_same_labels_in_another_order():
    clean(make_stream(make_stage(), make_stage("two", ("b", "a")), scenario="domain_incremental"), "error")


def test_class_incremental_may_repeat_labels():
    clean(make_stream(make_stage(), make_stage("two", ("b", "c"))), "error")


@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_split_is_refused(split):
    stream = make_stream(make_stage(**{split: rows(("x", "a")).select([])}))
    assert faults(stream) == [f"stage 'one' {split}: must have rows, got none"]


def test_what_the_objective_finds_is_refused_with_stage_and_split():
    stream = make_stream(make_stage(test=rows((" ", "a"), ("x", "b"))))
    (problem,) = faults(stream)
    assert problem.startswith("stage 'one' test: text must be a non-empty string, got ' ' in row 0")


def test_a_fault_in_a_later_batch_says_where_the_batch_starts(monkeypatch):
    set_batch_rows(monkeypatch, 2)
    stream = make_stream(make_stage(train=rows(("x", "a"), ("y", "b"), ("z", "a"), ("", "b"))))
    (problem,) = faults(stream)
    assert problem.startswith("stage 'one' train, counted from row 2: text must be a non-empty string, got '' in row 1")


def test_a_missing_column_is_refused():
    stream = make_stream(make_stage(train=Dataset.from_dict({"text": ["x", "y"]})))
    assert any("has no label" in problem for problem in faults(stream))


def test_a_label_outside_the_stages_is_refused_with_the_nearest():
    stream = make_stream(
        make_stage(labels=("cancel", "book"), train=rows(("x", "cancel"), ("y", "book"), ("z", "boook")))
    )
    (problem,) = faults(stream)
    assert problem == (
        "stage 'one' train: a label must be one of the stage's, got 'boook' in 1 rows (did you mean 'book'?); "
        "allowed: 'cancel', 'book'"
    )


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_that_train_lacks_is_refused(split):
    stage = make_stage(train=rows(("x", "a"), ("y", "a")), validation=rows(("v", "a")), test=rows(("t", "a")))
    stage = replace(stage, **{split: rows(("p", "b"), ("q", "b"))})
    assert faults(make_stream(stage)) == [f"stage 'one' {split}: train has no row of 'b', {split} has 2"]


@pytest.mark.parametrize("overlap", ["error", "drop"])
def test_a_validation_split_that_is_the_test_split_is_refused(overlap):
    same = rows(("x", "a"), ("y", "b"))
    problems = faults(make_stream(make_stage(validation=same, test=same.select([1, 0]))), overlap)
    assert problems[0].startswith("stage 'one' validation: must not be the test split (2 equal rows)")


def test_keep_takes_a_validation_split_that_is_the_test_split():
    same = rows(("x", "a"), ("y", "b"))
    _, counts = clean(make_stream(make_stage(validation=same, test=same)), "keep")
    assert counts["validation_in_test"] == 2


def test_all_faults_are_reported_at_once():
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


def test_reading_stops_after_twenty_faults(monkeypatch):
    set_batch_rows(monkeypatch, 1)
    stream = make_stream(make_stage(train=rows(*[("", "a")] * 30), validation=rows(*[("", "a")] * 30)))
    problems = faults(stream)
    assert sum("non-empty" in problem for problem in problems) == 20
    assert any(problem.startswith("stopped reading after 20 faults") for problem in problems)


# What occurs twice


def overlapping():
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


def test_error_names_stage_split_count_and_examples():
    problems = faults(overlapping())
    assert problems[0].startswith(
        "stage 'one' train: no input may occur in a validation or test split too, got 2 such: 'in test',"
    )
    assert problems[1].startswith("stage 'two' validation: no input may occur in a test split too, got 1 such: ")
    assert all("stream.overlap=drop" in problem and "keep" in problem for problem in problems)


def test_error_shows_three_shortened_examples():
    long = [("word " * 40 + str(i), "a") for i in range(5)]
    stream = make_stream(make_stage(train=rows(*long, ("b", "b")), test=rows(*long)))
    (problem,) = faults(stream)
    assert re.findall(r"'([^']*)\.\.\.'", problem) == [("word " * 40)[:57]] * 3


def test_drop_removes_training_and_validation_rows_and_counts_them():
    cleaned, counts = clean(overlapping(), "drop")
    one, two = cleaned.stages
    assert texts(one.train) == ["keep a", "keep b"]
    assert texts(two.validation) == ["in validation", "plain"]
    assert counts == {**COUNTS, "dropped_train": 2, "dropped_validation": 1}
    assert cleaned.notes == ("overlap: 2 training and 1 validation rows dropped",)


def test_drop_never_removes_test_rows_and_leaves_sound_splits_as_they_are():
    stream = overlapping()
    cleaned, _ = clean(stream, "drop")
    for before, after in zip(stream.stages, cleaned.stages, strict=True):
        assert after.test is before.test
    assert cleaned.stages[0].validation is stream.stages[0].validation
    assert cleaned.stages[1].train is stream.stages[1].train


def test_nothing_occurs_twice_after_drop():
    cleaned, _ = clean(overlapping(), "drop")
    assert clean(cleaned, "error")[1] == dict.fromkeys(COUNTS, 0)


def test_keep_only_counts():
    stream = overlapping()
    cleaned, counts = clean(stream, "keep")
    assert cleaned == stream
    assert counts == COUNTS


def test_drop_that_takes_a_labels_last_training_row_is_refused():
    stage = make_stage(
        train=rows(("x", "a"), ("y", "b")), validation=rows(("v", "b")), test=rows(("x", "a"), ("z", "b"))
    )
    assert faults(make_stream(stage), "drop") == [
        "stage 'one' test, after stream.overlap=drop: train has no row of 'a', test has 1"
    ]


def test_drop_that_empties_a_split_is_refused():
    stream = make_stream(make_stage(validation=rows(("x", "a")), test=rows(("x", "a"), ("z", "b"))))
    assert faults(stream, "drop") == ["stage 'one' validation, after stream.overlap=drop: must have rows, got none"]


def test_case_counts_but_white_space_and_compatible_characters_do_not():
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


def test_one_input_under_two_labels_counts():
    stream = make_stream(make_stage(train=rows(("x", "a"), ("y", "b")), test=rows(("x", "b"))))
    assert clean(stream, "keep")[1]["train_in_test"] == 1


def pairs(*triples):
    return Dataset.from_dict(
        {name: [triple[i] for triple in triples] for i, name in enumerate(("text", "text_pair", "label"))}
    )


def test_pairs_are_the_same_only_when_both_texts_are():
    stage = make_stage(
        train=pairs(("p", "q", "a"), ("p q", "r", "b"), ("s", " t ", "a")),
        validation=pairs(("p", "other", "a")),
        test=pairs(("p", "q r", "b"), ("s", "t", "a")),
    )
    _, counts = clean(make_stream(stage), "keep")
    assert counts == {"train_in_validation": 0, "train_in_test": 1, "validation_in_test": 0}


def test_rows_are_matched_across_batches(monkeypatch):
    set_batch_rows(monkeypatch, 1)
    cleaned, counts = clean(overlapping(), "drop")
    assert counts["dropped_train"] == 2
    assert texts(cleaned.stages[0].train) == ["keep a", "keep b"]


WORDS = st.lists(st.sampled_from([*"pqrstuvw"]), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(splits=st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=3))
def test_counts_equal_a_count_by_sets(splits):
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
def test_clinc150_has_two_test_and_three_validation_rows_in_train():
    splits = {}
    for split in SPLITS:
        lines = (DATA / "clinc150" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        splits[split] = rows(*((row["text"], row["label"]) for row in map(json.loads, lines)))
    labels = tuple(sorted(set(splits["train"]["label"])))
    cleaned, counts = clean(make_stream(make_stage(labels=labels, **splits)), "drop")
    assert counts["train_in_test"] == 2
    assert counts["train_in_validation"] == 3
    assert len(cleaned.stages[0].test) == 4500


# A smaller stream


def test_limit_takes_rows_from_the_labels_in_turn_and_keeps_their_order():
    train = rows(("a0", "a"), ("a1", "a"), ("b0", "b"), ("a2", "a"), ("b1", "b"), ("b2", "b"))
    limited = [texts(limit(make_stream(make_stage(train=train)), number).stages[0].train) for number in (2, 3, 4)]
    assert limited == [["a0", "b0"], ["a0", "a1", "b0"], ["a0", "a1", "b0", "b1"]]


def test_limit_is_deterministic():
    labels = tuple(f"l{i}" for i in range(9))
    one, two = (limit(make_stream(make_stage(labels=labels)), 4) for _ in range(2))
    assert fingerprint(one) == fingerprint(two)


def test_limit_keeps_one_training_row_of_every_label():
    labels = tuple(f"l{i}" for i in range(5))
    limited = limit(make_stream(make_stage(labels=labels)), 2)
    assert [len(limited.stages[0].split(split)) for split in SPLITS] == [5, 2, 2]
    assert list(limited.stages[0].train["label"]) == list(labels)


def test_limit_leaves_a_small_split_as_it_is():
    stream = make_stream()
    assert limit(stream, 2).stages[0].train is stream.stages[0].train


def test_limit_is_said_in_the_notes():
    assert limit(make_stream(), 3).notes == ("limited to 3 rows a split",)


def test_a_limited_stream_passes_the_gate():
    labels = tuple(f"l{i}" for i in range(7))
    clean(limit(make_stream(make_stage(labels=labels)), 3), "error")


@pytest.mark.parametrize("number", [0, -1])
def test_limit_below_one_is_refused(number):
    with pytest.raises(ConfigError, match=f"limit: must be at least 1 row a split, got {number}"):
        limit(make_stream(), number)


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.sampled_from("abcd"), min_size=1, max_size=20), number=st.integers(1, 20))
def test_limit_spreads_rows_as_evenly_as_the_labels_allow(labels, number):
    train = rows(*((str(i), label) for i, label in enumerate(labels)))
    kept = list(limit(make_stream(make_stage(train=train)), number).stages[0].train["label"])
    assert len(kept) == min(len(labels), max(number, len(set(labels))))
    for label in set(labels):
        others = max(kept.count(other) for other in set(labels))
        assert kept.count(label) == labels.count(label) or kept.count(label) >= others - 1
