"""What is scored, apart from what is trained on: columns of no stage, probes, and the gate before them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from cl_mlm import DataError
from cl_mlm.data.hygiene import clean
from cl_mlm.data.sampling import limit
from cl_mlm.data.split_owners import split_owners, with_splits
from cl_mlm.data.tasks import tasks_of
from cl_mlm.data.text_form import as_text
from cl_mlm.metrics import average_incremental_accuracy, forgetting, forward_transfer, summarise
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.stream import Column, Stage, Stream, column_of, fingerprint, unpack_row_ids
from cl_mlm.tokens.split_rows import SplitRows

NAN = math.nan


def rows(name, labels, copies=2):
    return Dataset.from_list(
        [{"text": f"{name} {label} {i}", "label": label} for i in range(copies) for label in labels]
    )


NONE = rows("none", "a").select([])


def stage(name, labels="ab", **splits):
    default = {split: rows(f"{name} {split}", labels) for split in ("train", "validation", "test")}
    return Stage(name=name, labels=tuple(labels), **(default | splits))


def bare(name, labels="ab"):
    return stage(name, labels, validation=NONE, test=NONE)


def column(name="all", labels="ab", home=0, stages=(), **splits):
    default = {split: rows(f"{name} {split}", labels) for split in ("validation", "test")}
    return Column(name, labels=tuple(labels), home=home, stages=stages, **(default | splits))


def shared(home=0, stages=(0, 1), **splits):
    """Two stages of the same labels, one column."""
    return Stream("shared", (bare("one"), bare("two")), given_columns=(column(home=home, stages=stages, **splits),))


def faults(stream, overlap="error"):
    with pytest.raises(DataError) as caught:
        clean(stream, overlap)
    return caught.value.problems


def rows_of(stream, split):
    """The encoded rows of a split, the labels of the first two stages known."""
    tasks = tasks_of(stream)
    tasks.count_labels(1, -1)
    return SplitRows(stream, split, tasks, letter_tokenizer(), 32)


def test_a_stream_has_one_column_for_each_stage_by_default():
    stream = Stream("s", (stage("one"), stage("two", "cd")))
    assert [(c.name, c.home, c.trained_in, c.labels) for c in stream.columns] == [
        ("one", 0, (0,), ("a", "b")),
        ("two", 1, (1,), ("c", "d")),
    ]
    assert stream.columns[1].test is stream.stages[1].test
    assert all(stream.is_measured(i) for i in range(2))


def test_probes_stand_behind_the_columns_and_have_no_home():
    stream = Stream("s", (stage("one"),), probes=(column("held", home=None),))
    assert stream.home == [0, None]
    assert stream.columns[1].trained_in == ()
    assert [c.name for c in shared().columns] == ["all"]


def test_a_column_has_no_training_rows():
    with pytest.raises(ValueError, match=r"split: must be one of \('validation', 'test'\), got 'train'"):
        column().split("train")


def test_rows_are_named_by_stage_where_they_train_and_by_column_where_they_are_scored(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path))
    stream = replace(shared(), probes=(column("held", "b", home=None),))
    train, test = (rows_of(stream, split) for split in ("train", "test"))
    assert train.raw(train.ids(1), "text") == list(stream.stages[1].train["text"])
    assert test.raw(test.ids(1), "text") == list(stream.probes[0].test["text"])
    assert test.collate(test.ids(1)).targets.tolist() == [1, 1]
    assert unpack_row_ids(test.ids(1))[0].tolist() == [1, 1]


def test_a_known_stage_confines_a_row_to_its_columns_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path))
    stream = Stream(
        "s", (stage("one"), stage("two", "cd")), "task_incremental", probes=(column("held", "bc", home=None),)
    )
    test = rows_of(stream, "test")
    assert test.collate(test.ids(1)[:1]).allowed.tolist() == [[False, False, True, True]]
    assert test.collate(test.ids(2)[:1]).allowed.tolist() == [[False, True, True, False]]


def test_the_first_stages_keep_the_columns_learned_by_then():
    columns = (column("early", home=0), column("late", home=1, stages=(0, 1)), column("last", home=2, stages=(2,)))
    stages = tuple(bare(name) for name in ("one", "two", "three"))
    stream = Stream("s", stages, given_columns=columns, probes=(column("held", home=None),), measured=(0, 2))
    cut = stream.first(2)
    assert ([s.name for s in cut.stages], [c.name for c in cut.columns]) == (["one", "two"], ["early", "late", "held"])
    assert cut.measured == (0, 1)
    assert stream.first(None) is stream


def test_every_split_is_in_one_part_and_parts_give_the_stream_back():
    for stream in (Stream("s", (stage("one"), stage("two"))), replace(shared(), probes=(column("p", home=None),))):
        splits = [dict(part.splits) for part in split_owners(stream)]
        assert fingerprint(with_splits(stream, splits)) == fingerprint(stream)
    assert [(p.where, list(p.splits)) for p in split_owners(stream)] == [
        ("stage 'one'", ["train"]),
        ("stage 'two'", ["train"]),
        ("column 'all'", ["validation", "test"]),
        ("probe 'p'", ["validation", "test"]),
    ]


def test_columns_and_probes_are_part_of_the_fingerprint():
    probed = replace(shared(), probes=(column("p", home=None),))
    later = shared(home=1)
    assert len({fingerprint(shared()), fingerprint(probed), fingerprint(later)}) == 3


def test_a_sound_stream_with_columns_and_probes_passes():
    probe = column("p", home=None, validation=NONE)
    stream, counts = clean(replace(shared(), probes=(probe,)), "error")
    assert set(counts.values()) == {0}
    assert len(stream.columns) == 2


@pytest.mark.parametrize("kind", ["column", "probe"])
def test_a_training_row_in_any_column_or_probe_is_refused_or_dropped(kind):
    leak = rows("two train", "ab").select([1])
    inside = Dataset.from_list([*rows("x", "ab").to_list(), *leak.to_list()])
    if kind == "column":
        stream = shared(test=inside)
    else:
        stream = replace(shared(), probes=(column("p", home=None, test=inside),))
    assert faults(stream)[0].startswith("stage 'two' train: no input may occur in a validation or test split too")
    cleaned, counts = clean(stream, "drop")
    assert (counts["train_in_test"], counts["dropped_train"]) == (1, 1)
    assert [len(s.train) for s in cleaned.stages] == [4, 3]
    assert len(cleaned.columns[-1].test) == 5


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (shared(home=2), r"column 'all': home and stages must be stages 0 to 1, got \[2, 0, 1\]"),
        (
            replace(shared(), stages=(bare("one"), stage("two"))),
            "stage 'two' validation: must have no rows where the stream's columns are given, got 4",
        ),
        (
            replace(shared(), probes=(column("all", home=None),)),
            "column 'all': a column's name must be unique, 2 columns have this one",
        ),
        (
            Stream("s", (stage("one"),), probes=(column("one", home=None),)),
            "column 'one': a column's name must be unique, 1 columns have this one",
        ),
        (
            Stream("s", (stage("one"),), probes=(column("p", home=0),)),
            r"probe 'p': must have no home and no stages, got 0, \(\)",
        ),
        (
            Stream("s", (stage("one"),), probes=(column("p", "az", home=None),)),
            "probe 'p': its labels must be brought by a stage, got 'z'",
        ),
        (
            Stream("s", (stage("one"),), probes=(column("p", home=None, test=NONE),)),
            "probe 'p' test: must have rows, got none",
        ),
        (shared(test=rows("t", "abc")), "column 'all' test: a label must be one of the column's, got 'c'"),
        (replace(shared(), measured=(0,)), "measured stages must be in order, stage 1 the last"),
        (
            shared(validation=rows("same", "ab"), test=rows("same", "ab")),
            "column 'all' validation: must not be the test split",
        ),
    ],
)
def test_what_does_not_fit_is_refused(stream, fault):
    with pytest.raises(DataError, match=fault):
        clean(stream, "error")


def test_a_columns_labels_must_be_trained_in_one_of_its_stages():
    one, two = bare("one"), stage("two", "abc", train=rows("t", "c"), validation=NONE, test=NONE)
    held = column("all", "abc", home=1, stages=(0, 1))
    clean(Stream("s", (one, two), given_columns=(held,)), "error")
    late = Stream("s", (one, two), given_columns=(replace(held, stages=(1,)),))
    assert any("column 'all' test: train has no row of 'a', 'b', test has 4" in fault for fault in faults(late))


def test_columns_are_limited_and_written_as_text_with_the_stages():
    probed = replace(shared(), probes=(column("p", home=None),))
    assert [len(c.test) for c in limit(probed, 3).columns] == [3, 3]
    written = as_text(probed)
    assert all(c.objective == "text_to_text" and c.labels == () for c in written.columns)
    assert list(written.columns[1].test["target"]) == list(probed.probes[0].test["label"])


def test_a_column_of_a_stage_takes_over_its_fields():
    full = replace(stage("one"), domain="d", language="l", task="t")
    made = column_of(full, None)
    assert (made.domain, made.language, made.task, made.home) == ("d", "l", "t", None)


GAPS = np.array([[0.5, NAN], [NAN, NAN], [0.9, 0.2], [NAN, NAN], [0.6, 0.8]])
HOME = [0, 4]


def test_a_row_that_no_metric_needs_may_be_missing():
    assert average_incremental_accuracy(GAPS, HOME) == pytest.approx((0.5 + 0.9 + 0.7) / 3)
    assert forgetting(GAPS, HOME) == pytest.approx(0.9 - 0.6)
    full = GAPS[[0, 2, 4]]
    assert summarise(GAPS, [0.1, 0.1], HOME, [0, 3])[0] == pytest.approx(
        summarise(full, [0.1, 0.1], [0, 2], [0, 2])[0], nan_ok=True
    )


def test_a_missing_home_leaves_means_over_stages_undefined():
    matrix = GAPS.copy()
    matrix[0] = NAN
    values, reasons = summarise(matrix, None, HOME)
    assert math.isnan(values["forgetting"])
    assert math.isnan(values["average_incremental_accuracy"])
    assert reasons["forgetting"] == "rows of stages [0] are not measured"


def test_forward_transfer_reads_the_row_before_the_first_stage_that_trains_for_a_column():
    matrix = [[0.9, 0.3], [0.8, 0.7], [0.8, 0.9]]
    assert forward_transfer(matrix, [0.1, 0.1], [0, 2], [0, 1]) == pytest.approx(0.3 - 0.1)
    assert forward_transfer(matrix, [0.1, 0.1], [0, 2]) == pytest.approx(0.7 - 0.1)
