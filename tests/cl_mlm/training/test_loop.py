"""The loop on a BERT of one layer, two stages of two labels each."""

import math
import weakref
from itertools import chain

import numpy as np
import pytest
import torch
from typing_extensions import override

import cl_mlm.training.loop
from cl_mlm.errors import TrainingError
from cl_mlm.strategy import Strategy
from cl_mlm.stream import pack_row_ids
from cl_mlm.training.loop import LIMITED_STEPS


def test_steps_replace_epochs(make_run, train):
    cost, heard = train(make_run(steps=7, epochs=1))
    assert cost.steps == 7
    assert [step for step, *_ in heard.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert [epoch for _, _, epoch, _, _ in heard.steps] == [0, 0, 0, 1, 1, 1, 2]
    assert {num_steps for _, num_steps, *_ in heard.steps} == {7}


@pytest.mark.parametrize(("rows", "accumulation", "steps"), [(12, 1, 6), (13, 1, 8), (12, 2, 4), (16, 2, 4)])
def test_epochs_count_their_short_last_steps(rows, accumulation, steps, make_run, train):
    cost, heard = train(make_run(rows=rows, accumulation=accumulation, epochs=2))
    assert cost.steps == len(heard.steps) == steps
    assert cost.train_examples == 2 * rows


def test_a_limited_run_takes_two_steps_a_stage(make_run, train):
    cost, _ = train(make_run(limit=5, epochs=3))
    assert cost.steps == LIMITED_STEPS == 2


def test_every_row_is_trained_on_once_an_epoch_in_another_order(make_run, train, watching):
    watch = watching()
    run = make_run(watch, epochs=2)
    train(run)
    epochs = [list(chain(*watch.batches[:3])), list(chain(*watch.batches[3:]))]
    assert [sorted(ids) for ids in epochs] == [run.place.training_ids.tolist()] * 2
    assert epochs[0] != epochs[1]


def test_the_learning_rate_follows_the_schedule(make_run, train, watching):
    watch = watching()
    train(make_run(watch, steps=4, schedule="linear", learning_rate=0.1))
    assert watch.rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_hooks_come_in_the_order_of_a_step(make_run, train):
    calls = []

    class Order(Strategy):
        @override
        def training_data(self, run, stage):
            calls.append(f"data {len(run.labels.seen)}")

        @override
        def before_stage(self, run, stage):
            calls.append(f"before {run.model.classifier.out_features}")

        @override
        def memory(self, run, batch):
            calls.append("memory")
            return [(1.0, run.rows(run.training_ids[:2]))]

        @override
        def loss_terms(self, run, batch, outputs):
            calls.append(batch.origin)
            return {}

        @override
        def adjust_gradients(self, run):
            calls.append("adjust")
            return {}

        @override
        def after_step(self, run):
            calls.append("step")

        @override
        def after_stage(self, run, stage):
            calls.append("after")

    run = make_run(Order(), rows=8, accumulation=2)
    train(run)
    step = ["stage", "stage", "memory", "memory", "memory", "memory", "adjust", "step"]
    assert calls == ["data 2", "before 2", *step, "after"]
    calls.clear()
    train(run, 1)
    assert calls[:2] == ["data 2", "before 4"]


def test_a_strategy_may_choose_the_rows(make_run, train, watching):
    class Half(Strategy):
        @override
        def training_data(self, run, stage):
            return pack_row_ids(0, range(5))

    watch = watching()
    cost, _ = train(make_run(Half(), watch))
    assert sorted(chain(*watch.batches)) == [0, 1, 2, 3, 4]
    assert cost.train_examples == 5


def test_the_head_grows_with_the_stages_and_old_labels_are_known(make_run, train):
    run = make_run()
    labels, head = run.tasks.at(0).labels, lambda: run.network.backbone.head
    train(run, 0)
    assert (head().out_features, labels.old) == (2, ())
    train(run, 1)
    assert (head().out_features, labels.old) == (4, ("cold", "hot"))
    assert run.place.last_trained == 1


def test_weights_that_are_not_finite_after_the_last_step_stop_the_run(make_run, train):
    class Ruin(Strategy):
        @override
        def after_step(self, run):
            with torch.no_grad():
                next(iter(run.trainable().values())).view(-1)[0] = math.inf

    with pytest.raises(TrainingError, match=r"1 weights are not finite, bert\.embeddings\.word_embeddings\.weight"):
        train(make_run(Ruin(), steps=1))


def test_gradient_checkpointing_changes_no_weight(make_run, train, weights_of):
    runs = [make_run(steps=3, dropout=0.1) for _ in range(2)]
    runs[1].network.backbone.checkpoint_activations()
    for run in runs:
        train(run)
    plain, checkpointed = (weights_of(run.network.model) for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(plain.values(), checkpointed.values(), strict=True))


def test_an_optimiser_is_freed_when_its_stage_ends(make_run, train, monkeypatch):
    """Its state is two copies of the weights: kept for every stage, they would fill the memory."""
    made, build = [], cl_mlm.training.loop.make_optimizer

    def noting(*args):
        optimizer = build(*args)
        made.append(weakref.ref(optimizer))
        return optimizer

    monkeypatch.setattr(cl_mlm.training.loop, "make_optimizer", noting)
    run = make_run(optimizer="adamw")
    train(run, 0)
    assert made[0]() is None


@pytest.fixture
def losses_in(fresh_process, make_run, train, watching):
    """Trains two stages in a precision; returns who watched it."""

    def work(precision):
        fresh_process()
        watch = watching()
        run = make_run(watch, precision=precision, epochs=4)
        train(run, 0)
        train(run, 1)
        assert all(parameter.dtype == torch.float32 for parameter in run.network.model.parameters())
        return watch

    return work


def test_bf16_stays_near_fp32(losses_in):
    half, full = losses_in("bf16"), losses_in("fp32")
    assert set(half.types) == {torch.bfloat16}
    assert set(full.types) == {torch.float32}
    assert half.batches == full.batches
    assert half.losses[0] == pytest.approx(full.losses[0], rel=0.03)
    assert np.mean(half.losses) == pytest.approx(np.mean(full.losses), rel=0.03)
    assert half.losses != full.losses


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_fp16_trains_with_clipping(make_run, train, watching):
    watch = watching()
    run = make_run(watch, device="cuda", precision="fp16", clip=1.0, epochs=4)
    run.network.model.to("cuda")
    for stage_index in (0, 1):
        train(run, stage_index)
    assert set(watch.types) == {torch.float16}
    assert all(map(math.isfinite, watch.losses))
