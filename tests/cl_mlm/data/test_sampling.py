import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_mlm.data.hygiene import clean
from cl_mlm.data.sampling import limit
from cl_mlm.errors import ConfigError
from cl_mlm.stream import SPLITS, fingerprint


def test_limit_takes_rows_from_the_labels_in_turn_and_keeps_their_order(rows, make_stage, make_stream):
    train = rows(("a0", "a"), ("a1", "a"), ("b0", "b"), ("a2", "a"), ("b1", "b"), ("b2", "b"))
    limited = [
        list(limit(make_stream(make_stage(train=train)), number).stages[0].train["text"]) for number in (2, 3, 4)
    ]
    assert limited == [["a0", "b0"], ["a0", "a1", "b0"], ["a0", "a1", "b0", "b1"]]


def test_limit_is_deterministic(make_stage, make_stream):
    labels = tuple(f"l{i}" for i in range(9))
    one, two = (limit(make_stream(make_stage(labels=labels)), 4) for _ in range(2))
    assert fingerprint(one) == fingerprint(two)


def test_limit_keeps_one_training_row_of_every_label(make_stage, make_stream):
    labels = tuple(f"l{i}" for i in range(5))
    limited = limit(make_stream(make_stage(labels=labels)), 2)
    assert [len(limited.stages[0].split(split)) for split in SPLITS] == [5, 2, 2]
    assert list(limited.stages[0].train["label"]) == list(labels)


def test_limit_leaves_a_small_split_as_it_is(make_stream):
    stream = make_stream()
    assert limit(stream, 2).stages[0].train is stream.stages[0].train


def test_limit_is_said_in_the_notes(make_stream):
    assert limit(make_stream(), 3).notes == ("limited to 3 rows a split",)


def test_a_limited_stream_passes_the_gate(make_stage, make_stream):
    labels = tuple(f"l{i}" for i in range(7))
    clean(limit(make_stream(make_stage(labels=labels)), 3), "error")


@pytest.mark.parametrize("number", [0, -1])
def test_limit_below_one_is_refused(number, make_stream):
    with pytest.raises(ConfigError, match=f"limit: must be at least 1 row a split, got {number}"):
        limit(make_stream(), number)


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.sampled_from("abcd"), min_size=1, max_size=20), number=st.integers(1, 20))
def test_limit_spreads_rows_as_evenly_as_the_labels_allow(labels, number, rows, make_stage, make_stream):
    train = rows(*((str(i), label) for i, label in enumerate(labels)))
    kept = list(limit(make_stream(make_stage(train=train)), number).stages[0].train["label"])
    assert len(kept) == min(len(labels), max(number, len(set(labels))))
    for label in set(labels):
        others = max(kept.count(other) for other in set(labels))
        assert kept.count(label) == labels.count(label) or kept.count(label) >= others - 1
