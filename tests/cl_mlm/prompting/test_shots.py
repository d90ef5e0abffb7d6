"""Which rows are shown."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_mlm.prompting.shots import draw_shots, shot_faults

ANSWERS = ["a"] * 5 + ["b"] * 3 + ["c"] * 4


def draw(shots, **changes):
    return draw_shots(ANSWERS, shots, **{"per_class": False, "seed": 0, "stage_index": 1} | changes)


@given(st.integers(0, 12), st.integers(0, 5))
def test_fewer_demonstrations_are_the_first_of_more(shots, seed):
    assert draw(12, seed=seed)[:shots] == draw(shots, seed=seed)
    assert len(set(draw(shots, seed=seed))) == shots


@given(st.integers(0, 3), st.integers(0, 5))
def test_per_class_shows_so_many_of_every_label(shots, seed):
    chosen = draw(shots, per_class=True, seed=seed)
    assert Counter(ANSWERS[i] for i in chosen) == Counter({label: shots for label in "abc" if shots})
    assert set(chosen) <= set(draw(3, per_class=True, seed=seed))


def test_seed_and_stage_decide():
    assert draw(6) == draw(6)
    assert len({tuple(draw(6, seed=seed, stage_index=stage)) for seed in (0, 1) for stage in (0, 1)}) == 4


@pytest.mark.parametrize(
    ("shots", "per_class", "message"),
    [
        (13, False, "prompting.shots: must be at most the 12 training rows of stage 's', got 13"),
        (4, True, "prompting.shots: must be at most the 3 training rows of label 'b' in stage 's', got 4 per class"),
    ],
)
def test_more_than_there_are_is_refused(shots, per_class, message):
    assert shot_faults(ANSWERS, ["a", "b"], shots, per_class=per_class, of="stage 's'") == [message]
    assert shot_faults(ANSWERS, ["a", "b"], 3, per_class=per_class, of="stage 's'") == []


def test_a_label_without_rows_cannot_be_shown():
    (fault,) = shot_faults(ANSWERS, ["z"], 1, per_class=True, of="stage 's'")
    assert "at most the 0 training rows of label 'z'" in fault
