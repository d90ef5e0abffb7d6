from itertools import chain

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_mlm.tokens.batching import GROUP_BATCHES, sorted_batches, training_batches

LENGTHS = st.lists(st.integers(1, 500), max_size=400).map(lambda values: np.array(values, dtype=np.int32))


def lengths_of(count, seed=0):
    return np.random.default_rng(seed).integers(3, 60, count).astype(np.int32)


def padded_tokens(lengths, batches):
    return sum(len(batch) * int(lengths[batch].max()) for batch in batches)


def same(first, second):
    return len(first) == len(second) and all(map(np.array_equal, first, second))


@given(LENGTHS, st.integers(1, 9), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None)
def test_an_epoch_holds_every_row_exactly_once(lengths, batch_size, seed, stage_index, epoch):
    batches = training_batches(lengths, batch_size, seed, stage_index, epoch)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 9))
@settings(deadline=None)
def test_all_batches_of_an_epoch_but_one_are_full(lengths, batch_size):
    sizes = sorted((len(batch) for batch in training_batches(lengths, batch_size, 0, 0, 0)), reverse=True)
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert len(sizes) == -(-len(lengths) // batch_size)


def test_order_depends_on_seed_stage_and_epoch_alone():
    lengths = lengths_of(300)
    first = training_batches(lengths, 8, 1, 2, 3)
    np.random.default_rng().random()
    assert same(first, training_batches(lengths, 8, 1, 2, 3))
    for other in [(0, 2, 3), (1, 1, 3), (1, 2, 0)]:
        assert not same(first, training_batches(lengths, 8, *other))


def test_rows_of_a_batch_are_of_like_length_within_a_group():
    lengths = lengths_of(GROUP_BATCHES * 4)
    batches = sorted(lengths[batch].tolist() for batch in training_batches(lengths, 4, 0, 0, 0))
    assert list(chain(*batches)) == sorted(lengths.tolist())


def test_batches_do_not_come_in_order_of_length():
    lengths = lengths_of(400)
    longest = [int(lengths[batch].max()) for batch in training_batches(lengths, 8, 0, 0, 0)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_padding_is_less_than_in_random_order():
    lengths = lengths_of(2000)
    order = np.random.default_rng(0).permutation(len(lengths))
    at_random = [order[i : i + 16] for i in range(0, len(order), 16)]
    grouped = padded_tokens(lengths, training_batches(lengths, 16, 0, 0, 0))
    assert grouped < 0.65 * padded_tokens(lengths, at_random)
    assert grouped < 1.1 * int(lengths.sum())


@given(LENGTHS, st.integers(1, 9))
@settings(deadline=None)
def test_sorted_batches_hold_every_row_once_the_longest_first(lengths, batch_size):
    order = [int(i) for batch in sorted_batches(lengths, batch_size) for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [int(lengths[i]) for i in order] == sorted(lengths.tolist(), reverse=True)


def test_rows_of_equal_length_keep_their_order():
    assert [batch.tolist() for batch in sorted_batches(np.array([4, 9, 4, 4], dtype=np.int32), 2)] == [[1, 0], [2, 3]]
