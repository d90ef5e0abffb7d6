from dataclasses import replace

import pytest

from cl_mlm.data.hygiene import clean
from cl_mlm.stream import SPLITS


def test_a_stream_without_stages_is_refused(make_stream, faults):
    assert faults(replace(make_stream(), stages=())) == ["stream 'toy': must have at least one stage, got none"]


def test_two_stages_with_one_name_are_refused(make_stage, make_stream, faults):
    one = make_stage("one")
    two = replace(make_stage("two"), name="one")
    assert faults(make_stream(one, two)) == ["stage 'one': a stage's name must be unique, 2 stages have this one"]


def test_two_stages_whose_names_look_the_same_are_refused(make_stage, make_stream, faults):
    assert faults(make_stream(make_stage("travel"), make_stage("travel\u200b", ("c", "d")))) == [
        r"stages 'travel' and 'travel\u200b': names must not look the same; mend the names, or the values they are"
    ]


def test_a_first_stage_with_one_label_is_refused(make_stage, make_stream, faults):
    assert faults(make_stream(make_stage(labels=("a",)))) == [
        "stage 'one': the first stage must have at least 2 labels for objective classification, got ['a']"
    ]


def test_a_later_stage_may_have_one_label(make_stage, make_stream):
    clean(make_stream(make_stage(), make_stage("two", ("c",))), "error")


def test_domain_incremental_refuses_differing_labels(make_stage, make_stream, faults):
    stream = make_stream(make_stage(), make_stage("two", ("b", "c")), scenario="domain_incremental")
    (problem,) = faults(stream)
    assert problem.startswith("stage 'two': domain_incremental needs the same labels in every stage")
    assert "it lacks 'a' and it adds 'c'; where stages bring labels of their own, set stream.scenario:" in problem
    assert problem.endswith("class_incremental")


def test_many_stages_with_other_labels_are_told_in_few_lines(make_stage, make_stream, faults):
    others = [make_stage(f"s{i}", ("b", f"c{i}")) for i in range(8)]
    problems = faults(make_stream(make_stage(), *others, scenario="domain_incremental"))
    assert len(problems) == 4
    assert problems[-1].startswith("and 5 more stages with other labels; where stages bring")


def test_domain_incremental_takes_the_same_labels_in_another_order(make_stage, make_stream):
    clean(make_stream(make_stage(), make_stage("two", ("b", "a")), scenario="domain_incremental"), "error")


def test_class_incremental_may_repeat_labels(make_stage, make_stream):
    clean(make_stream(make_stage(), make_stage("two", ("b", "c"))), "error")


@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_split_is_refused(split, rows, make_stage, make_stream, faults):
    stream = make_stream(make_stage(**{split: rows(("x", "a")).select([])}))
    assert faults(stream) == [f"stage 'one' {split}: must have rows, got none"]


def test_a_label_outside_the_stages_is_refused_with_the_nearest(rows, make_stage, make_stream, faults):
    stream = make_stream(
        make_stage(labels=("cancel", "book"), train=rows(("x", "cancel"), ("y", "book"), ("z", "boook")))
    )
    (problem,) = faults(stream)
    assert problem == (
        "stage 'one' train: a label must be one of the stage's, got 'boook' in 1 rows (did you mean 'book'?); "
        "allowed: 'cancel', 'book'"
    )


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_that_train_lacks_is_refused(split, rows, make_stage, make_stream, faults):
    stage = make_stage(train=rows(("x", "a"), ("y", "a")), validation=rows(("v", "a")), test=rows(("t", "a")))
    stage = replace(stage, **{split: rows(("p", "b"), ("q", "b"))})
    assert faults(make_stream(stage)) == [
        f"stage 'one' {split}: train has no row of 'b', {split} has 2; stream.unseen_labels=drop leaves such rows out"
    ]
