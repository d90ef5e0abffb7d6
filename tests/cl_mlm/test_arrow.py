"""The digest of rows, as the fingerprint of a stream shows it."""

import time
from dataclasses import replace

import pyarrow as pa
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_mlm.stream import fingerprint

OTHER = Dataset.from_dict({"text": ["one test a", "one test B"], "label": ["a", "b"]})


def test_fingerprint_is_the_same_for_equal_streams(make_stream):
    assert fingerprint(make_stream()) == fingerprint(make_stream())
    assert len(fingerprint(make_stream())) == 64


def test_fingerprint_does_not_move_between_versions(make_stream):
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
        lambda s: replace(s, stages=(replace(s.stages[0], test=OTHER), s.stages[1])),
        lambda s: replace(s, stages=(replace(s.stages[0], test=s.stages[0].test.add_column("n", [0, 1])), s.stages[1])),
    ],
    ids=["scenario", "stage order", "stage name", "labels", "split", "row order", "row missing", "text", "column"],
)
def test_fingerprint_changes_with(change, make_stream):
    assert fingerprint(change(make_stream())) != fingerprint(make_stream())


def test_fingerprint_ignores_the_streams_name_and_notes(make_stream):
    assert fingerprint(replace(make_stream(), name="other", notes=("x",))) == fingerprint(make_stream())


def test_fingerprint_ignores_an_indices_mapping(make_stage, make_stream):
    stage = make_stage()
    mapped = concatenate_datasets([stage.train, stage.test]).select([0, 1])
    mapped = mapped.select([1, 0]).select([1, 0])
    assert mapped._indices is not None
    assert fingerprint(make_stream(replace(stage, train=mapped))) == fingerprint(make_stream(stage))


def test_fingerprint_ignores_where_the_file_lies(tmp_path, make_stage, make_stream):
    stage = make_stage()
    stage.train.save_to_disk(tmp_path / "rows")
    loaded = Dataset.load_from_disk(str(tmp_path / "rows"))
    assert loaded.cache_files
    assert fingerprint(make_stream(replace(stage, train=loaded))) == fingerprint(make_stream(stage))


def test_fingerprint_ignores_column_order_and_format(make_stage, make_stream):
    stage = make_stage()
    other = stage.train.select_columns(["label", "text"]).with_format("numpy")
    assert fingerprint(make_stream(replace(stage, train=other))) == fingerprint(make_stream(stage))


def test_fingerprint_tells_a_moved_border_between_two_texts(rows, make_stage, make_stream):
    one, two = (make_stage(train=rows((left, "a"), (right, "b"))) for left, right in (("ab", "c"), ("a", "bc")))
    assert fingerprint(make_stream(one)) != fingerprint(make_stream(two))


def test_fingerprint_tells_null_from_empty(rows, make_stage, make_stream):
    one, two = (make_stage(train=rows((value, "a"), ("x", "b"))) for value in (None, ""))
    assert fingerprint(make_stream(one)) != fingerprint(make_stream(two))


def test_fingerprint_ignores_the_width_of_types(make_stage, make_stream):
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
def test_fingerprint_ignores_chunks_and_batches(values, data, monkeypatch, make_stage, make_stream):
    cut = data.draw(st.integers(0, len(values)))
    whole = pa.Table.from_pylist(values, schema=TYPE)
    chunked = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    monkeypatch.setattr("cl_mlm.arrow.BATCH_ROWS", 10_000)
    expected = fingerprint(make_stream(make_stage(train=Dataset(whole))))
    monkeypatch.setattr("cl_mlm.arrow.BATCH_ROWS", data.draw(st.integers(1, 3)))
    assert fingerprint(make_stream(make_stage(train=Dataset(chunked)))) == expected


def test_fingerprint_reads_100_000_rows_within_two_seconds(rows, make_stage, make_stream):
    many = rows(*((f"row {i} of a large split, with some words to read", f"l{i % 20}") for i in range(100_000)))
    stream = make_stream(make_stage(train=many))
    start = time.perf_counter()
    fingerprint(stream)
    assert time.perf_counter() - start < 2
