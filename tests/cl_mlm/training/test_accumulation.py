"""Equal products of batch size and accumulation: the same rows in every step, own and replay's; without dropout the
same gradients up to rounding.
"""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from cl_mlm.config.schema import Config, TrackingConfig, TrainingConfig
from cl_mlm.data.scenarios import online
from cl_mlm.strategy import Strategy
from cl_mlm.tokens.batching import GROUP_BATCHES, cut_batch, training_batches
from cl_mlm.training.loop import steps_per_epoch
from strategies.joint import Joint
from strategies.replay import Replay

from .conftest import PLAIN

PRODUCT_8 = [(8, 1), (4, 2), (2, 4), (1, 8)]


class Steps(Strategy):
    """Keeps the rows of every step and micro-batch by origin, and the gradients that the step ends with."""

    def __init__(self):
        self.steps, self.gradients = [], []

    @override
    def loss_terms(self, run, batch, outputs):
        if len(self.gradients) == len(self.steps):
            self.steps.append({"stage": [], "memory": []})
        self.steps[-1][batch.origin].append(batch.ids.tolist())
        return {}

    @override
    def adjust_gradients(self, run):
        self.gradients.append({n: p.grad.clone() for n, p in run.trainable().items() if p.grad is not None})
        return {}

    def rows(self, origin):
        return [sorted(chain(*step[origin])) for step in self.steps]


@pytest.fixture
def make(run_of, word_stream, small_bert):
    """A run of two stages of 19 rows, cut as `batch_size` and `accumulation` say; `online`: in chunks of 11."""

    def build(batch_size, accumulation, *strategies, is_online=False):
        sizes = {"batch_size": batch_size, "accumulation": accumulation, "epochs": 1 if is_online else 2}
        config = Config(training=TrainingConfig(**{**PLAIN, **sizes}), tracking=TrackingConfig(log_every=1))
        stream = word_stream(2, 19)
        stream = online(stream, chunk_rows=11) if is_online else stream
        joint = any(strategy.regime == "joint" for strategy in strategies)
        run = run_of(config, stream, lambda labels: small_bert(len(labels)), strategies, last_stage=int(joint))
        return run, range(len(stream))[-1:] if joint else range(len(stream))

    return build


CASES = {
    # A whole step has 8 rows; each stage of 19 rows makes two chunks of 11 and 8.
    "own rows": ([], False, [8, 8, 3] * 4),
    "replay": ([Replay(capacity=9)], False, [8, 8, 3] * 4),
    "replay of few rows": ([Replay(capacity=5)], False, [8, 8, 3] * 4),
    "joint": ([Joint()], False, [8, 8, 8, 8, 6] * 2),
    "online": ([Replay(capacity=9)], True, [8, 3, 8] * 2),
}


@pytest.mark.parametrize(("strategies", "is_online", "sizes"), CASES.values(), ids=CASES)
def test_equal_products_have_the_same_rows_in_every_step(strategies, is_online, sizes, make, train, weights_of):
    found = []
    for batch_size, accumulation in PRODUCT_8:
        steps = Steps()
        own = [type(strategy)(**strategy.arguments()) for strategy in strategies]
        run, stages = make(batch_size, accumulation, *own, steps, is_online=is_online)
        taken = sum(train(run, stage_index)[0].steps for stage_index in stages)
        assert taken == len(steps.steps) == len(sizes)
        assert max(map(len, chain(*(step["stage"] for step in steps.steps)))) == batch_size
        found.append((steps, weights_of(run.network.model)))
    whole, weights = found[0]
    assert sorted(map(len, whole.rows("stage"))) == sorted(sizes)
    assert any(whole.rows("memory")) == any(isinstance(strategy, Replay) for strategy in strategies)
    for parts, in_parts in found[1:]:
        assert parts.rows("stage") == whole.rows("stage")
        assert parts.rows("memory") == whole.rows("memory")
        for one, other in zip(whole.gradients, parts.gradients, strict=True):
            for name, expected in one.items():
                torch.testing.assert_close(other[name], expected, rtol=1e-4, atol=1e-5)
        for name, expected in weights.items():
            torch.testing.assert_close(in_parts[name], expected, rtol=1e-4, atol=1e-5)


@given(
    st.lists(st.integers(1, 200), max_size=700).map(lambda values: np.array(values, dtype=np.int32)),
    st.sampled_from([(6, 1), (3, 2), (2, 3), (1, 6)]),
)
@settings(deadline=None, max_examples=40)
def test_a_step_is_cut_into_micro_batches_that_lose_no_row(lengths, sizes):
    for step in training_batches(lengths, 6, 0, 0, 0):
        parts = cut_batch(step, sizes[0])
        assert np.array_equal(np.concatenate(parts), step)
        assert len(parts) <= sizes[1]
        assert {len(part) for part in parts[:-1]} <= {sizes[0]}


def test_micro_batches_pad_no_more_than_batches_of_their_own_size():
    lengths = np.random.default_rng(0).integers(3, 60, 16 * GROUP_BATCHES).astype(np.int32)

    def padded(batches):
        return sum(len(batch) * int(lengths[batch].max()) for batch in batches)

    of_steps = chain(*(cut_batch(step, 4) for step in training_batches(lengths, 16, 0, 0, 0)))
    assert padded(of_steps) <= padded(training_batches(lengths, 4, 0, 0, 0))


@pytest.mark.parametrize("tasks", [[19], [19, 5], [3, 1, 8]])
@pytest.mark.parametrize("product", [PRODUCT_8, [(6, 1), (2, 3), (3, 2)]])
def test_equal_products_have_equally_many_steps(tasks, product, make_run):
    counts = {
        steps_per_epoch(make_run(batch_size=batch_size, accumulation=accumulation).training, tasks)
        for batch_size, accumulation in product
    }
    step_rows = product[0][0]
    assert counts == {sum(-(-rows // step_rows) for rows in tasks)}


def test_a_step_of_several_tasks_has_rows_of_one_however_it_is_cut():
    lengths, tasks = np.full(21, 5, dtype=np.int32), np.array([0] * 13 + [1] * 8)
    steps = training_batches(lengths, 4, 0, 0, 0, tasks)
    assert all(len({*tasks[step].tolist()}) == 1 for step in steps)
    assert len(steps) == 4 + 2
