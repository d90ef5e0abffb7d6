"""Rules of the scenarios whose stages and columns do not pair up, over streams of every shape."""

from collections import Counter
from dataclasses import replace

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_mlm import ConfigError, DataError
from cl_mlm.data.hygiene import clean
from cl_mlm.data.scenarios import blurry, instance_incremental, online
from cl_mlm.data.staging import by_labels, by_source
from cl_mlm.stream import Stage, Stream, fingerprint

LETTERS = "abcdef"
# A busy machine is no failure, and examples need no folder of their own.
few = settings(max_examples=12, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
counts = st.lists(st.integers(1, 6), min_size=2, max_size=6)
seeds = st.integers(0, 3)


def split_of(split, sizes):
    rows = [(f"{split} {label} {i}", label) for label, n in zip(LETTERS, sizes, strict=False) for i in range(n)]
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})


def stream_of(sizes, per_stage=1, scenario="class_incremental"):
    """Stages of `per_stage` labels, with so many training rows of each label."""
    splits = {"train": split_of("train", sizes)}
    splits |= {split: split_of(split, [2] * len(sizes)) for split in ("validation", "test")}
    size = per_stage if len(sizes) % per_stage == 0 else 1
    return by_labels(splits, name="letters", labels_per_stage=size, scenario=scenario)


def texts(parts):
    return [text for part in parts for text in part["text"][:]]


def same_rows(made, base):
    """Says whether every training row appears once, and every scored row as often as before, in its own split."""
    train = Counter(texts(s.train for s in made.stages)) == Counter(texts(s.train for s in base.stages))
    scored = (
        Counter(texts(c.split(split) for c in made.columns)) == Counter(texts(c.split(split) for c in base.columns))
        for split in ("validation", "test")
    )
    return train and all(scored) and not any(len(s.validation) + len(s.test) for s in made.stages)


def labels_agree(made):
    """Says whether every row has a label of its own stage or column, and all of them are the stream's."""
    parts = [(s.labels, s.train) for s in made.stages] + [(c.labels, c.test) for c in made.columns]
    return all({*rows["label"][:]} <= {*labels} <= {*made.labels} for labels, rows in parts)


@few
@given(counts, st.integers(1, 5), st.integers(1, 3), seeds)
def test_instances_are_dealt_out_once_and_evenly(sizes, num_stages, per_stage, seed):
    base = stream_of(sizes, per_stage)
    num_stages = min(num_stages, sum(sizes))
    made = instance_incremental(base, num_stages, seed)
    assert same_rows(made, base)
    assert labels_agree(made)
    assert all(stage.labels == base.labels for stage in made.stages)
    lengths = [len(stage.train) for stage in made.stages]
    assert max(lengths) - min(lengths) <= 1
    for label in base.labels:
        held = [list(stage.train["label"]).count(label) for stage in made.stages]
        assert max(held) - min(held) <= 1


@few
@given(counts, st.integers(1, 5), seeds)
def test_the_column_of_all_instances_is_learned_when_all_its_labels_were_seen(sizes, num_stages, seed):
    made = instance_incremental(stream_of(sizes), min(num_stages, sum(sizes)), seed)
    (column,) = made.columns
    assert column.trained_in == tuple(range(len(made)))
    seen = [set(texts([])) | {x for s in made.stages[: i + 1] for x in s.train["label"][:]} for i in range(len(made))]
    assert column.home == next(i for i, labels in enumerate(seen) if labels >= {*column.test["label"][:]})


@few
@given(counts, st.integers(1, 7), st.integers(1, 4), st.integers(1, 3), seeds)
def test_an_online_stream_is_a_single_pass_in_chunks(sizes, chunk_rows, every, per_stage, seed):
    base = stream_of(sizes, per_stage)
    made = online(base, chunk_rows, every, seed)
    assert same_rows(made, base)
    assert labels_agree(made)
    for stage, column in zip(base.stages, made.columns, strict=True):
        chunks = [made.stages[i] for i in column.trained_in]
        assert Counter(texts(c.train for c in chunks)) == Counter(texts([stage.train]))
        assert all(len(chunk.train) == chunk_rows for chunk in chunks[:-1])
        assert 1 <= len(chunks[-1].train) <= chunk_rows
        assert {chunk.labels for chunk in chunks} == {stage.labels} == {column.labels}
        assert column.home == column.trained_in[-1]
        assert made.is_measured(column.home)
    measured = [i for i in range(len(made)) if made.is_measured(i)]
    assert measured == sorted({*made.home, *range(every - 1, len(made), every)})


@few
@given(counts, st.floats(0, 1), st.integers(1, 3), seeds)
def test_blurry_moves_the_given_share_of_every_label(sizes, blur, per_stage, seed):
    base = stream_of(sizes, per_stage)
    if len(base) < 2:
        base = stream_of(sizes, 1)
    made = blurry(base, blur, seed)
    assert same_rows(made, base)
    assert labels_agree(made)
    for j, stage in enumerate(base.stages):
        assert made.stages[j].labels[: len(stage.labels)] == stage.labels == made.columns[j].labels
        for label in stage.labels:
            held = [list(other.train["label"]).count(label) for other in made.stages]
            leaving = int(blur * sum(held) + 0.5)
            assert held[j] == sum(held) - leaving
            others = held[:j] + held[j + 1 :]
            assert max(others) - min(others) <= 1
    assert made.home == list(range(len(base)))


@few
@given(counts, seeds)
def test_the_same_seed_deals_the_same_rows(sizes, seed):
    base = stream_of(sizes)
    for make in (lambda s: instance_incremental(base, 2, s), lambda s: online(base, 2, 1, s)):
        assert fingerprint(make(seed)) == fingerprint(make(seed))
    assert fingerprint(blurry(base, 0.5, seed)) == fingerprint(blurry(base, 0.5, seed))


def test_another_seed_deals_other_rows():
    base = stream_of([6] * 4)
    assert len({fingerprint(instance_incremental(base, 3, seed)) for seed in range(4)}) == 4
    assert len({fingerprint(online(base, 2, 1, seed)) for seed in range(4)}) == 4
    assert len({fingerprint(blurry(base, 0.5, seed)) for seed in range(4)}) == 4


def test_blur_zero_trains_on_the_same_rows_and_blur_one_on_those_of_others():
    base = stream_of([4, 4, 4])
    assert [texts([s.train]) for s in blurry(base, 0.0).stages] == [texts([s.train]) for s in base.stages]
    assert all(
        not {*made.train["label"][:]} & {*stage.labels}
        for made, stage in zip(blurry(base, 1.0).stages, base.stages, strict=True)
    )


@pytest.mark.parametrize(
    "make", [lambda s: instance_incremental(s, 3), lambda s: online(s, 4), lambda s: blurry(s, 0.25)]
)
def test_what_a_scenario_makes_passes_the_gate(make):
    made = make(stream_of([6] * 4, 2))
    cleaned, found = clean(made, "error")
    assert set(found.values()) == {0}
    assert cleaned.base_scenario == "class_incremental"
    assert cleaned.notes


def test_rows_without_labels_are_dealt_out_too():
    rows = {
        split: Dataset.from_dict({"text": [f"{split} {i}" for i in range(7)]})
        for split in ("train", "validation", "test")
    }
    base = by_source({"web": rows}, name="web", objective="language_modelling", options={"kind": "causal"})
    made = instance_incremental(base, 3)
    assert [len(stage.train) for stage in made.stages] == [3, 2, 2]
    assert (made.columns[0].name, made.columns[0].home) == ("web", 0)
    assert [len(stage.train) for stage in online(base, 3).stages] == [3, 3, 1]
    with pytest.raises(ConfigError, match=r"stream.scenario: blurry needs at least two stages, got 1"):
        blurry(base, 0.1)
    two = replace(base, stages=(base.stages[0], replace(base.stages[0], name="more")))
    with pytest.raises(ConfigError, match="blurry needs rows with one label each, got objective language_modelling"):
        blurry(two, 0.1)


def test_tagged_rows_are_dealt_out_by_their_rarest_type():
    tags = [["B-x", "O"]] * 6 + [["B-y", "B-x"]] * 3
    rows = {
        split: Dataset.from_dict({"tokens": [[f"{split}{i}", "z"] for i in range(9)], "tags": tags})
        for split in ("train", "validation", "test")
    }
    base = Stream("t", (Stage("all", **rows, labels=("x", "y"), task="tagging", objective="tagging"),))
    made = instance_incremental(base, 3)
    assert [sum("B-y" in row for row in stage.train["tags"]) for stage in made.stages] == [1, 1, 1]
    clean(made, "error")


def test_a_known_stage_confines_an_online_row_to_its_own_stages_labels():
    made = online(stream_of([4] * 4, 2, "task_incremental"), 3)
    assert made.masks
    assert [made.columns[0].labels, made.stages[1].labels] == [("a", "b"), ("a", "b")]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda s: blurry(s, 1.1), "stream.blur: must be 0 to 1, got 1.1"),
        (lambda s: blurry(s, -0.1), "stream.blur: must be 0 to 1, got -0.1"),
        (lambda s: blurry(s, float("nan")), "stream.blur: must be 0 to 1, got nan"),
        (lambda s: online(s, 0), "stream.chunk_rows: must be at least 1, got 0"),
        (lambda s: online(s, 2, 0), "stream.evaluate_every: must be at least 1, got 0"),
        (lambda s: instance_incremental(s, 0), "stream.num_stages: must be 1 to 8, the training rows, got 0"),
        (lambda s: instance_incremental(s, 9), "stream.num_stages: must be 1 to 8, the training rows, got 9"),
        (lambda s: blurry(online(s, 2), 0.1), "stream.scenario: blurry needs an ordinary stream, got online"),
        (
            lambda s: blurry(replace(s, scenario="task_incremental"), 0.1),
            "stream.base_scenario: must not be task_incremental where stream.scenario is blurry",
        ),
        (
            lambda s: blurry(replace(s, partial=True), 0.1),
            "blurry cannot mix stages that give one row different targets",
        ),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(make, problem):
    with pytest.raises(ConfigError) as caught:
        make(stream_of([4, 4]))
    assert problem in caught.value.problems[0]


def test_stages_that_differ_in_columns_are_not_mixed():
    base = stream_of([4, 4])
    odd = base.stages[1].train.add_column("more", ["x"] * 4)
    with pytest.raises(DataError, match="rows of stages that differ in columns cannot be mixed: columns more"):
        blurry(replace(base, stages=(base.stages[0], replace(base.stages[1], train=odd))), 0.5)
