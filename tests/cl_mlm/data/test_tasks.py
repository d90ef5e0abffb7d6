"""The tasks of a stream: which stages share one, whose labels a task has, and which rows are whose."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from cl_mlm.data.hygiene import clean
from cl_mlm.data.tasks import foreign_columns, objectives_of, tasks_of
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import Column, Stage, Stream, pack_row_ids
from cl_mlm.tokens.batching import training_batches

TAGS = {"red": ["B-red", "O"], "blue": ["O", "B-blue"]}


def texts(labels, split):
    rows = [{"text": f"{label} {split} {i}", "label": label} for label in labels for i in range(2)]
    return Dataset.from_list(rows)


def tagged(types, split):
    return Dataset.from_list([{"tokens": [kind, split], "tags": TAGS[kind]} for kind in types])


def stage(name, labels, make=texts, **fields):
    parts = {split: make(labels, f"{name} {split}") for split in ("train", "validation", "test")}
    return Stage(name=name, labels=tuple(labels), **parts, **fields)


TAGGING = {"make": tagged, "objective": "tagging", "task": "tagging"}
FIRST, SECOND = (stage("a", "xy"), stage("b", ["red"], **TAGGING)), stage("d", ["blue", "red"], **TAGGING)
STREAM = Stream("mixed", (*FIRST, stage("c", "xz"), SECOND))


def test_stages_of_equal_objective_and_options_share_a_task():
    tasks = tasks_of(STREAM)
    assert tasks.keys == tasks.column_keys == ("classification", "tagging", "classification", "tagging")
    assert [task.stages for task in tasks] == [(0, 2), (1, 3)]


def test_a_default_that_is_written_out_makes_no_other_task():
    same = replace(STREAM.stages[2], options={"reject": None})
    other = replace(STREAM.stages[2], options={"reject": "none"})
    assert objectives_of(replace(STREAM, stages=(STREAM.stages[0], same)))[0] == ("classification", "classification")
    keys, found = objectives_of(replace(STREAM, stages=(STREAM.stages[0], other, other)))
    assert keys == ("classification", "classification-2", "classification-2")
    assert [objective.reject for objective in found.values()] == [None, "none"]


def test_labels_grow_within_their_task():
    first, second = tasks_of(STREAM)
    seen = []
    for i in range(4):
        for task in (first, second):
            task.labels.count(i, i - 1)
        seen.append((first.labels.seen, first.labels.old, second.labels.seen, second.labels.old))
    assert seen == [
        (("x", "y"), (), (), ()),
        (("x", "y"), ("x", "y"), ("red",), ()),
        (("x", "y", "z"), ("x", "y"), ("red",), ("red",)),
        (("x", "y", "z"), ("x", "y", "z"), ("red", "blue"), ("red",)),
    ]
    assert second.labels.classes == ("O", "B-red", "I-red", "B-blue", "I-blue")
    assert first.labels.of(1) == ()
    assert first.first_labels == ("x", "y")


def test_rows_are_split_by_task_in_their_order():
    tasks = tasks_of(STREAM)
    ids = np.concatenate([pack_row_ids(3, [0]), pack_row_ids(0, [1, 0]), pack_row_ids(1, [0]), pack_row_ids(2, [3])])
    assert [own.tolist() for own in tasks.split(ids)] == [[1, 2, 4], [0, 3]]
    assert tasks.split(ids[:0]) == []


def test_the_batches_of_an_epoch_hold_one_task_each_and_alternate():
    tasks = np.array([0] * 21 + [1] * 14)
    lengths = np.arange(35, dtype=np.int32) % 5
    batches = training_batches(lengths, 4, 0, 0, 0, tasks)
    assert sorted(np.concatenate(batches).tolist()) == list(range(35))
    kinds = [tasks[batch].tolist() for batch in batches]
    assert all(len({*kind}) == 1 for kind in kinds)
    order = [kind[0] for kind in kinds]
    assert len(order) == 6 + 4
    assert order not in (sorted(order), sorted(order, reverse=True))
    again, later = (training_batches(lengths, 4, 0, 0, epoch, tasks) for epoch in (0, 1))
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in again]
    assert [batch.tolist() for batch in batches] != [batch.tolist() for batch in later]


def test_batches_of_one_task_are_those_of_rows_without():
    lengths = np.arange(20, dtype=np.int32) % 7
    plain, one = (training_batches(lengths, 3, 5, 1, 2, tasks) for tasks in (None, np.full(20, 3)))
    assert [batch.tolist() for batch in plain] == [batch.tolist() for batch in one]


def test_a_label_of_another_task_is_none_of_the_stage():
    """`red` is a class of the first stage and a type of the second: neither knows the other's."""
    odd = stage("b", ["blue"], **TAGGING)
    odd = replace(odd, train=tagged(["red", "blue"], "b odd"))
    stream = Stream("mixed", (stage("a", ["red", "x"]), odd))
    with pytest.raises(DataError, match=r"stage 'b' train: a label must be one of the stage's, got 'red' in 1 rows"):
        clean(stream, "keep")
    clean(Stream("mixed", (stage("0", ["red"], **TAGGING), odd)), "keep")  # of its own task it may


def test_the_first_stage_of_every_task_brings_enough_labels():
    with pytest.raises(DataError, match=r"stage 'b': the first stage must have at least 2 labels for objective class"):
        clean(Stream("mixed", (stage("a", ["red"], **TAGGING), stage("b", "x"))), "keep")


def test_domain_incremental_compares_stages_of_one_task():
    stages = (stage("a", "xy"), stage("b", ["red"], **TAGGING), stage("c", "xy"), stage("d", ["red"], **TAGGING))
    clean(Stream("mixed", stages, "domain_incremental"), "keep")
    with pytest.raises(DataError, match=r"compared with stage 'b' it adds 'blue'"):
        clean(replace(STREAM, stages=(*stages[:3], STREAM.stages[3]), scenario="domain_incremental"), "keep")


def test_a_column_asks_what_a_stage_asks():
    rows = tagged(["red"], "probe")
    probe = Column("p", rows, rows, ("red",), None, objective="tagging", options={"ill_formed": "repair"})
    (fault,) = foreign_columns(replace(STREAM, probes=(probe,)))
    assert fault.startswith("column 'p': its objective must be that of a stage, options included, got tagging")
    good = replace(STREAM, probes=(replace(probe, options={}),))
    assert foreign_columns(good) == []
    assert tasks_of(good).column_keys[-1] == "tagging"


def test_an_option_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match=r"stream\.options\.x: no option of objective tagging"):
        objectives_of(replace(STREAM, stages=(replace(STREAM.stages[1], options={"x": 1}),)))


def test_two_stages_of_one_objective_share_its_head_and_labels(three_objectives):
    from cl_mlm.config.components import make_stream

    stages = [
        {"path": "classification"},
        {"path": "tagging", "objective": "tagging"},
        {"path": "classification", "options": {"reject": "x"}},
    ]
    stream = make_stream("files", {"path": str(three_objectives), "stages_by": "files", "stages": stages})
    tasks = tasks_of(stream)
    assert tasks.keys == ("classification", "tagging", "classification-2")
    assert [task.labels.names for task in tasks] == [("sea", "sky")] * 3
    tasks.count_labels(1, 0)
    assert [task.labels.seen for task in tasks] == [("sea", "sky"), ("sea", "sky"), ()]
    assert [task.labels.old for task in tasks] == [("sea", "sky"), (), ()]
