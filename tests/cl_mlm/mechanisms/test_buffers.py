import numpy as np
import pytest

from cl_mlm.mechanisms.buffers import Reservoir
from cl_mlm.storage.state_files import join_state, split_state


def filled(capacity, sizes, seed=0):
    buffer, random, start = Reservoir(capacity), np.random.default_rng(seed), 0
    for size in sizes:
        buffer.add(np.arange(start, start + size), random)
        start += size
    return buffer


@pytest.mark.parametrize("sizes", [[60], [10, 45, 5], [3, 1, 50, 0, 6], [1] * 60], ids=len)
def test_every_row_offered_is_kept_with_equal_probability(sizes):
    """Inclusion is Bernoulli(capacity / rows) for each row: within 4 standard errors over 4000 buffers."""
    capacity, rows, trials = 12, 60, 4000
    kept = np.zeros(rows)
    for seed in range(trials):
        kept[filled(capacity, sizes, seed).ids] += 1
    probability = capacity / rows
    standard_error = (probability * (1 - probability) / trials) ** 0.5
    assert np.abs(kept / trials - probability).max() < 4 * standard_error


def test_two_rows_are_kept_together_as_often_as_chance_says():
    """A reservoir that took blocks would have equal single rates, but not equal rates of pairs."""
    capacity, rows, trials = 5, 20, 4000
    together = np.zeros((rows, rows))
    for seed in range(trials):
        ids = filled(capacity, [8, 12], seed).ids
        together[np.ix_(ids, ids)] += 1
    probability = capacity * (capacity - 1) / (rows * (rows - 1))
    standard_error = (probability * (1 - probability) / trials) ** 0.5
    pairs = together[np.triu_indices(rows, 1)] / trials
    assert np.abs(pairs - probability).max() < 4.5 * standard_error


@pytest.mark.parametrize("sizes", [[3], [3, 2], [3, 4], [40, 1, 7]], ids=str)
def test_capacity_is_filled_and_never_exceeded(sizes):
    buffer = filled(5, sizes)
    assert len(buffer) == len(set(buffer.ids.tolist())) == min(5, sum(sizes))
    assert buffer.offered == sum(sizes)


def test_a_sample_holds_different_kept_rows():
    buffer = filled(10, [50])
    for seed in range(50):
        sample = buffer.sample(6, np.random.default_rng(seed)).tolist()
        assert len(set(sample)) == 6
        assert set(sample) <= set(buffer.ids.tolist())


def test_a_sample_larger_than_the_buffer_is_all_of_it():
    buffer = filled(10, [4])
    assert sorted(buffer.sample(9, np.random.default_rng(0)).tolist()) == [0, 1, 2, 3]


def test_a_restored_buffer_goes_on_as_the_first_would_have():
    first, second = filled(10, [30]), Reservoir(10)
    tensors = {}
    second.load_state_dict(join_state(split_state(first.state_dict(), "", tensors), tensors))
    assert (second.ids.tolist(), second.ids.dtype, second.offered) == (first.ids.tolist(), np.int64, 30)
    for buffer in (first, second):
        buffer.add(np.arange(30, 60), np.random.default_rng(1))
    assert first.ids.tolist() == second.ids.tolist()


def test_adding_does_not_change_what_was_handed_out_before():
    buffer = filled(4, [10])
    state = buffer.state_dict()
    before = state["ids"].copy()
    buffer.add(np.arange(10, 200), np.random.default_rng(0))
    assert np.array_equal(state["ids"], before)
