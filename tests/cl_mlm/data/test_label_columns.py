import numpy as np
import pytest
from datasets import Dataset

from cl_mlm.data.label_columns import places
from cl_mlm.stream import Stage, Stream
from cl_mlm.task import LabelSpace

NOTHING = Dataset.from_dict({"text": [], "label": []})


def labels_of(*groups):
    stages = tuple(Stage(str(i), NOTHING, NOTHING, NOTHING, tuple(group)) for i, group in enumerate(groups))
    return LabelSpace(Stream("s", stages))


def test_class_indices_follow_the_order_in_which_stages_bring_labels():
    labels = labels_of("zy", "ab")
    assert labels.names == ("z", "y", "a", "b")
    assert labels.index == {"z": 0, "y": 1, "a": 2, "b": 3}


def test_nothing_is_seen_before_the_first_stage():
    labels = labels_of("ab", "cd")
    assert (labels.seen, labels.old) == ((), ())


@pytest.mark.parametrize(
    ("last_stage", "last_trained", "seen", "old"),
    [(0, -1, "ab", ""), (1, 0, "abcd", "ab"), (2, 1, "abcdef", "abcd"), (2, -1, "abcdef", "")],
    ids=["first", "second", "third", "joint"],
)
def test_seen_and_old_move_with_the_stages(last_stage, last_trained, seen, old):
    labels = labels_of("ab", "cd", "ef")
    labels.count(last_stage, last_trained)
    assert (labels.seen, labels.old) == (tuple(seen), tuple(old))


def test_all_labels_of_a_domain_incremental_stream_are_old_from_the_second_stage_on():
    labels = labels_of("ab", "ab")
    labels.count(1, 0)
    assert labels.seen == labels.old == ("a", "b")


def test_a_stage_has_its_own_labels_shared_ones_too():
    labels = labels_of("ab", "bc", "ca")
    assert [labels.of(i) for i in range(3)] == [(0, 1), (1, 2), (2, 0)]


def test_a_row_has_its_place_among_those_of_its_label():
    codes = np.array([5, -1, 5, 5, -1])
    assert places(codes).tolist() == [0, 0, 1, 2, 1]
    assert places(codes, np.array([4, 3, 2, 1, 0])).tolist() == [2, 1, 1, 0, 0]
    assert places(np.zeros(0, dtype=np.int64)).tolist() == []
