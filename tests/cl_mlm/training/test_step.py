"""One optimiser step on a BERT of one layer: which gradients it adds up, what it logs, what it does without memory."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from typing_extensions import override

from cl_mlm.batch import mean_loss
from cl_mlm.errors import TrainingError
from cl_mlm.strategy import Strategy
from cl_mlm.training.step import Meter


def losses_of(run, batch):
    """The loss of every row under the present weights, (R,)."""
    return run.task_loss(run.network.forward(batch), batch)


def gradients_of(run):
    return {name: p.grad.clone() for name, p in run.network.trainable().items() if p.grad is not None}


def norm_of(gradients):
    return float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rows", [8, 7], ids=["equal parts", "a short last part"])
def test_two_micro_batches_have_the_gradient_of_one_batch_of_all_their_rows(rows, make_run, train, watching):
    found = []
    for settings in ({"batch_size": 4, "accumulation": 2}, {"batch_size": 8}):
        watch = watching()
        cost, _ = train(make_run(watch, rows=rows, **settings))
        assert (cost.steps, sum(map(len, watch.batches))) == (1, rows)
        found.append(watch.gradients[0])
    scale = norm_of(found[1])
    assert scale > 0.1
    for name, expected in found[1].items():
        torch.testing.assert_close(found[0][name], expected, rtol=1e-6, atol=1e-6 * scale)


def test_the_gradient_is_that_of_the_mean_loss(make_run, train, watching):
    watch = watching()
    run = make_run(watch, rows=8, batch_size=8)
    copy = make_run(rows=8, batch_size=8)
    train(run)
    batch = copy.data.rows(np.array(watch.batches[0]))
    mean_loss(losses_of(copy, batch), batch).backward()
    for name, expected in gradients_of(copy).items():
        torch.testing.assert_close(watch.gradients[0][name], expected, rtol=1e-5, atol=1e-7)


def test_sgd_moves_the_weights_against_the_gradient(make_run, train, watching, weights_of):
    watch = watching()
    run = make_run(watch, steps=1)
    before = weights_of(run.network.model)
    train(run)
    after = weights_of(run.network.model)
    for name, gradient in watch.gradients[0].items():
        torch.testing.assert_close(after[name], before[name] - 0.05 * gradient)


def test_terms_count_by_the_mean_over_micro_batches(make_run, train, watching):
    """A term that is the head's bias sum has a gradient of 1 for every entry, however many micro-batches there are."""

    class Push(Strategy):
        @override
        def loss_terms(self, run, batch, outputs):
            return {"push": run.model.classifier.bias.sum() - run.model.classifier.bias.sum().detach()}

    pushed, plain = watching(), watching()
    train(make_run(Push(), pushed, rows=8, accumulation=2))
    train(make_run(plain, rows=8, accumulation=2))
    difference = pushed.gradients[0]["classifier.bias"] - plain.gradients[0]["classifier.bias"]
    torch.testing.assert_close(difference, torch.ones(2))


def test_clipping_bounds_the_norm_after_strategies_have_seen_the_gradient(make_run, train, watching):
    watch = watching()
    train(make_run(watch, clip=0.01, epochs=1))
    for before, after in zip(watch.gradients, watch.clipped, strict=True):
        assert norm_of(before) > 0.02
        assert norm_of(after) == pytest.approx(0.01, rel=1e-3)


def test_no_clipping_leaves_the_gradient(make_run, train, watching):
    watch = watching()
    train(make_run(watch, steps=1))
    assert same(watch.gradients[0], watch.clipped[0])


def test_gradients_are_cleared_between_steps(make_run, train, watching):
    watch = watching()
    train(make_run(watch, steps=2, learning_rate=1e-12, batch_size=12))
    assert norm_of(watch.gradients[1]) == pytest.approx(norm_of(watch.gradients[0]), rel=1e-3)


class Noise(Strategy):
    """Draws from every global generator, and runs memory rows that count nothing."""

    def __init__(self):
        self.forwards = 0

    @override
    def memory(self, run, batch):
        torch.rand(7)
        self.forwards += 1
        return [(0.0, run.rows(run.training_ids[:3]))]

    @override
    def adjust_gradients(self, run):
        torch.rand(3)
        np.random.default_rng().random(2)
        return {}

    @override
    def before_stage(self, run, stage):
        torch.rand(5)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_adding_a_strategy_moves_neither_batches_nor_dropout(first, make_run, train, watching, weights_of):
    alone, beside, noise = watching(), watching(), Noise()
    settings = {"dropout": 0.3, "epochs": 2, "clip": 1.0, "optimizer": "adamw"}
    one = make_run(alone, **settings)
    two = make_run(*((noise, beside) if first else (beside, noise)), **settings)
    for stage_index in (0, 1):
        train(one, stage_index)
        train(two, stage_index)
    own = [ids for ids in beside.batches if len(ids) == 4]
    assert alone.batches == own
    assert [loss for loss, ids in zip(beside.losses, beside.batches, strict=True) if len(ids) == 4] == alone.losses
    assert noise.forwards == 12
    assert same(weights_of(one.network.model), weights_of(two.network.model))


def test_dropout_differs_from_step_to_step(make_run, train, watching):
    watch = watching()
    train(make_run(watch, dropout=0.3, batch_size=12, steps=3, learning_rate=1e-12))
    assert len(set(watch.losses)) == 3


class Recall(Strategy):
    """Brings back rows at every step: the `weights` and the rows, as slices of the stage's."""

    def __init__(self, memory=((0.5, slice(5)),)):
        self.pairs = memory

    @override
    def memory(self, run, batch):
        return [(weight, run.rows(run.training_ids[rows])) for weight, rows in self.pairs]


def test_memory_rows_add_weight_times_their_mean_loss(make_run, train, watching):
    watch, recall = watching(), Recall([(0.5, slice(3)), (2.0, slice(3, 4))])
    copy = make_run(rows=8, batch_size=8)
    cost, heard = train(make_run(recall, watch, rows=8, batch_size=8))
    own, first, second = (copy.data.rows(np.array(ids)) for ids in watch.batches)
    losses = [losses_of(copy, batch).mean() for batch in (own, first, second)]
    (losses[0] + 0.5 * losses[1] + 2.0 * losses[2]).backward()
    for name, expected in gradients_of(copy).items():
        torch.testing.assert_close(watch.gradients[0][name], expected, rtol=1e-5, atol=1e-6)
    values = heard.steps[0][-1]
    assert values["train/loss/memory"] == pytest.approx((losses[1] + losses[2]).item() / 2, rel=1e-5)
    assert cost.train_examples == 12


def test_memory_rows_of_two_micro_batches_count_by_their_mean(make_run, train, watching):
    parts, whole = watching(), watching()
    train(make_run(Recall([(0.5, slice(3))]), parts, rows=8, accumulation=2))
    train(make_run(Recall([(0.5, slice(3))]), whole, rows=8, batch_size=8))
    for name, expected in whole.gradients[0].items():
        torch.testing.assert_close(parts.gradients[0][name], expected, rtol=1e-5, atol=1e-6)


def test_logged_loss_is_the_mean_since_the_last_point(make_run, train, watching):
    watch = watching()
    _, heard = train(make_run(watch, steps=5, log_every=2))
    logged = [(step, values["train/loss/stage"]) for step, _, _, _, values in heard.steps if values]
    expected = [(2, watch.losses[0:2]), (4, watch.losses[2:4]), (5, watch.losses[4:5])]
    assert logged == [(step, pytest.approx(sum(losses) / len(losses))) for step, losses in expected]


def test_logged_loss_of_accumulated_micro_batches_is_the_mean_of_their_rows(make_run, train, watching):
    watch = watching()
    _, heard = train(make_run(watch, rows=8, accumulation=2))
    assert heard.steps[0][-1]["train/loss/stage"] == pytest.approx(sum(watch.losses) / 2)


def test_cost_counts_tokens_without_padding(make_run, train):
    run = make_run()
    cost, _ = train(run)
    assert cost.train_tokens == int(run.data.lengths(run.place.training_ids).sum())
    assert cost.train_seconds > 0


class Bad(Strategy):
    """Adds a term that is not finite from a step on."""

    def __init__(self, first=0, weight=1.0):
        self.first, self.weight = first, weight

    @override
    def loss_terms(self, run, batch, outputs):
        return {"bad": outputs.logits.sum() * (math.nan if run.step >= self.first else 0.0)}


@pytest.mark.parametrize("training", [{"epochs": 4}, {"epochs": 4, "patience": 1}])
def test_a_term_that_is_not_finite_is_told_at_the_end_of_its_epoch_whatever_is_logged(make_run, train, training):
    # Two steps an epoch, a value read every hundred: nothing is read before the stage ends.
    run = make_run(Bad(first=2), batch_size=8, rows=12, log_every=100, **training)
    with pytest.raises(TrainingError, match=r"step 4, epoch 1: .*is nan"):
        train(run)


def test_a_term_that_is_not_finite_stops_training_and_is_named_with_what_may_help(make_run, train):
    with pytest.raises(TrainingError) as caught:
        train(make_run(Bad(), steps=3))
    message = str(caught.value)
    assert message.startswith("stage 'cold', step 1, epoch 0: train/loss/stage is nan") or "bad is nan" in message
    assert "train/term/bad is nan" in message
    for advice in ("training.learning_rate lower than 0.05", "training.clip=1.0 (now null)", "a smaller weight of bad"):
        assert advice in message


def test_no_checkpoint_is_made_of_a_loss_that_is_not_finite(make_run, train):
    states = []
    with pytest.raises(TrainingError, match="train/term/bad"):
        train(make_run(Bad(first=2), steps=9, log_every=9), keep=states.append)
    assert [state["place"]["step"] for state in states] == [1, 2]


class BadGradient(Strategy):
    """Makes the gradient of one step not finite; the losses up to it are."""

    @override
    def adjust_gradients(self, run):
        if run.step == 1:
            run.model.classifier.bias.grad.fill_(math.nan)
        return {}


@pytest.mark.parametrize("training", [{"patience": 1}, {}])
def test_no_score_and_no_checkpoint_is_taken_of_weights_that_are_not_finite(make_run, train, training):
    # Two steps an epoch: the last one spoils the weights, which no loss has seen yet.
    states = []
    run = make_run(BadGradient(), batch_size=8, rows=12, epochs=4, log_every=100, **training)
    watched = []
    run.strategies = (*run.strategies, Scored(watched))
    with pytest.raises(TrainingError, match=r"step 2, epoch 0: 1 weights are not finite, classifier.bias the first"):
        train(run, keep=states.append)
    assert [state["place"]["step"] for state in states] == [1]
    assert watched == []


class Scored(Strategy):
    """Notes when something is scored."""

    def __init__(self, watched=()):
        self.watched = watched

    @override
    def evaluation(self, run, columns):
        self.watched.append(run.step)
        return nullcontext()


def limited_memory(run, rows, error):
    """Makes forward passes over more than `rows` rows fail."""
    forward = run.network.forward

    def failing(batch):
        if len(batch) > rows:
            raise error
        return forward(batch)

    run.network.forward = failing
    return run


CPU_OUT_OF_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def test_where_memory_does_not_suffice_micro_batches_are_halved_and_the_result_is_the_same(make_run, train, weights_of):
    settings = {"steps": 3, "accumulation": 2, "batch_size": 6}
    whole, halved = (make_run(Recall(), **settings, halve_on_oom=True) for _ in range(2))
    first, _ = train(whole)
    second, _ = train(limited_memory(halved, 2, CPU_OUT_OF_MEMORY))
    in_pieces = weights_of(halved.network.model)
    for name, expected in weights_of(whole.network.model).items():
        torch.testing.assert_close(in_pieces[name], expected, rtol=1e-5, atol=1e-6)
    assert (second.train_examples, second.train_tokens) == (first.train_examples, first.train_tokens)
    assert [flag.partition("each")[2] for flag in second.flags] == [
        " micro-batch is run in 2 parts",
        " micro-batch is run in 4 parts",
    ]


def test_what_an_attempt_has_gathered_before_memory_ran_out_counts_once(make_run, train, weights_of):
    settings = {"steps": 1, "accumulation": 2, "batch_size": 6, "clip": None}
    whole, halved = (make_run(**settings, halve_on_oom=True) for _ in range(2))
    train(whole)
    forward, calls = halved.network.forward, []

    def failing(batch, **named):
        calls.append(len(batch))
        if len(calls) == 2:  # the first micro-batch has left its gradient
            raise CPU_OUT_OF_MEMORY
        return forward(batch, **named)

    halved.network.forward = failing
    train(halved)
    assert calls[:2] == [6, 6]
    in_pieces = weights_of(halved.network.model)
    for name, expected in weights_of(whole.network.model).items():
        torch.testing.assert_close(in_pieces[name], expected, rtol=1e-5, atol=1e-6)


def test_without_leave_to_halve_a_lack_of_memory_ends_training(make_run, train):
    with pytest.raises(RuntimeError, match="can't allocate"):
        train(limited_memory(make_run(), 2, CPU_OUT_OF_MEMORY))


def test_a_single_row_that_does_not_fit_ends_training(make_run, train):
    with pytest.raises(RuntimeError, match="can't allocate"):
        train(limited_memory(make_run(halve_on_oom=True), 0, CPU_OUT_OF_MEMORY))


def test_an_error_that_is_not_of_memory_is_not_taken_for_one(make_run, train):
    with pytest.raises(RuntimeError, match="shapes"):
        train(limited_memory(make_run(halve_on_oom=True), 2, RuntimeError("shapes differ")))


def test_meter_reads_means_and_starts_anew():
    meter = Meter()
    meter.add("a", torch.tensor(1.0))
    meter.add("a", torch.tensor(3.0, requires_grad=True))
    meter.add("b", torch.tensor(5.0, dtype=torch.bfloat16))
    assert meter.read() == {"a": 2.0, "b": 5.0}
    assert meter.read() == {}


@pytest.fixture
def scaled_run(make_run):
    """A run whose losses are scaled as fp16 asks for, on any machine."""

    def make(*strategies, init_scale=2.0**10, **training):
        run = make_run(*strategies, **training)
        accelerator = run.network.accelerator
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        accelerator.native_amp = True
        AcceleratorState._shared_state["_mixed_precision"] = "fp16"
        return run

    return make


def test_scaled_losses_are_unscaled_once_before_strategies_and_clipping(make_run, scaled_run, train, watching):
    scaled, plain = watching(), watching()
    train(make_run(plain, steps=2, clip=0.01))
    run = scaled_run(scaled, steps=2, clip=0.01)
    train(run)
    assert norm_of(scaled.gradients[0]) == pytest.approx(norm_of(plain.gradients[0]), rel=0.05)
    assert norm_of(scaled.clipped[0]) == pytest.approx(0.01, rel=0.01)
    train(run, 1)


def test_a_step_whose_scaled_gradient_overflows_is_skipped_and_not_scheduled(scaled_run, train, watching, weights_of):
    moved = []

    class Look(Strategy):
        @override
        def after_step(self, run):
            moved.append(not same(weights_of(run.model), before))

    watch = watching()
    run = scaled_run(watch, Look(), steps=3, schedule="linear", learning_rate=0.1, init_scale=2.0**127)
    before = weights_of(run.network.model)
    cost, _ = train(run)
    assert cost.steps == 3
    assert moved[0] is False
    assert watch.rates[:2] == [0.1, 0.1]
