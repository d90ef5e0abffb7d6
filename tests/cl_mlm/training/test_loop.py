"""The loop on a BERT of one layer, two stages of two labels each."""

import math
import weakref
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification
from typing_extensions import override

import cl_mlm.training.loop
from cl_mlm.batch import mean_loss
from cl_mlm.config.schema import Config, TrackingConfig, TrainingConfig
from cl_mlm.errors import TrainingError
from cl_mlm.models.backbone import Backbone
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stage, Stream
from cl_mlm.task import LabelSpace
from cl_mlm.training.evaluation import evaluate
from cl_mlm.training.hardware import make_accelerator
from cl_mlm.training.loop import LIMITED_STEPS, train_stage
from cl_mlm.training.run import Run
from cl_mlm.training.step import Meter

TOKENIZER = letter_tokenizer()
WORDS = {"cold": "ice snow", "hot": "sun sand", "loud": "drum horn", "quiet": "hush night"}


def split_of(labels, rows):
    texts = [f"{WORDS[labels[i % 2]]} {'and so on ' * (i % 3)}{i}" for i in range(rows)]
    return Dataset.from_dict({"text": texts, "label": [labels[i % 2] for i in range(rows)]})


def stream_of(rows=12):
    stages = tuple(
        Stage(labels[0], split_of(labels, rows), split_of(labels, 6), split_of(labels, 4), labels)
        for labels in (("cold", "hot"), ("loud", "quiet"))
    )
    return Stream("s", stages)


PLAIN = {
    "device": "cpu",
    "threads": 1,
    "epochs": 1,
    "batch_size": 4,
    "optimizer": "sgd",
    "momentum": 0.0,
    "learning_rate": 0.05,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
    "clip": None,
}


@pytest.fixture(autouse=True)
def fresh_process():
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


def make_run(*strategies, rows=12, dropout=0.0, log_every=1, limit=None, **training):
    stream = stream_of(rows)
    config = Config(
        training=TrainingConfig(**{**PLAIN, **training}), tracking=TrackingConfig(log_every=log_every), limit=limit
    )
    accelerator = make_accelerator(config)
    labels = LabelSpace(stream)
    labels.begin(0, -1)
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        initializer_range=0.3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=len(labels.seen),
        pad_token_id=0,
    )
    backbone = Backbone(BertForSequenceClassification(settings), TOKENIZER)
    return Run(config, stream, strategies, backbone, Classification(), labels, accelerator)


class Heard:
    """A reporter that keeps everything."""

    def __init__(self):
        self.epochs, self.steps = [], []

    def epoch(self, epoch, values):
        self.epochs.append((epoch, dict(values)))

    def training(self, step, num_steps, epoch, rows, values):
        self.steps.append((step, num_steps, epoch, rows, dict(values)))

    def keep(self, step, state):
        pass


def train(run, stage_index=0):
    heard = Heard()
    run.stage_index = stage_index
    return train_stage(run, heard), heard


def weights_of(run):
    return {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Watch(Strategy):
    """Keeps what the loop shows of every step; changes nothing."""

    def __init__(self):
        self.batches, self.losses, self.gradients, self.clipped, self.rates, self.types = [], [], [], [], [], []

    @override
    def loss_terms(self, run, batch, outputs):
        self.batches.append(batch.ids.tolist())
        self.losses.append(run.task_loss(outputs, batch).mean().item())
        self.types.append(outputs.logits.dtype)
        return {}

    @override
    def adjust_gradients(self, run):
        self.rates.append(run.learning_rate)
        self.gradients.append(gradients_of(run))
        return {}

    @override
    def after_step(self, run):
        self.clipped.append(gradients_of(run))


def gradients_of(run):
    return {name: p.grad.clone() for name, p in run.trainable().items() if p.grad is not None}


def norm_of(gradients):
    return float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())


@pytest.mark.parametrize("rows", [8, 7], ids=["equal parts", "a short last part"])
def test_two_micro_batches_have_the_gradient_of_one_batch_of_all_their_rows(rows):
    found = []
    for settings in ({"batch_size": 4, "accumulation": 2}, {"batch_size": 8}):
        watch = Watch()
        cost, _ = train(make_run(watch, rows=rows, **settings))
        assert (cost.steps, sum(map(len, watch.batches))) == (1, rows)
        found.append(watch.gradients[0])
    scale = norm_of(found[1])
    assert scale > 0.1
    for name, expected in found[1].items():
        torch.testing.assert_close(found[0][name], expected, rtol=1e-6, atol=1e-6 * scale)


def test_the_gradient_is_that_of_the_mean_loss():
    watch = Watch()
    run = make_run(watch, rows=8, batch_size=8)
    copy = make_run(rows=8, batch_size=8)
    train(run)
    batch = copy.rows(np.array(watch.batches[0]))
    mean_loss(copy.task_loss(copy.forward(batch), batch), batch).backward()
    for name, expected in gradients_of(copy).items():
        torch.testing.assert_close(watch.gradients[0][name], expected, rtol=1e-5, atol=1e-7)


def test_sgd_moves_the_weights_against_the_gradient():
    watch = Watch()
    run = make_run(watch, steps=1)
    before = weights_of(run)
    train(run)
    for name, gradient in watch.gradients[0].items():
        torch.testing.assert_close(weights_of(run)[name], before[name] - 0.05 * gradient)


def test_terms_count_by_the_mean_over_micro_batches():
    """A term that is the head's bias sum has a gradient of 1 for every entry, however many micro-batches there are."""

    class Push(Watch):
        @override
        def loss_terms(self, run, batch, outputs):
            return {"push": run.model.classifier.bias.sum() - run.model.classifier.bias.sum().detach()}

    push, plain = Push(), Watch()
    train(make_run(push, rows=8, accumulation=2))
    train(make_run(plain, rows=8, accumulation=2))
    difference = push.gradients[0]["classifier.bias"] - plain.gradients[0]["classifier.bias"]
    torch.testing.assert_close(difference, torch.ones(2))


def test_steps_replace_epochs():
    cost, heard = train(make_run(steps=7, epochs=1))
    assert cost.steps == 7
    assert [step for step, *_ in heard.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert [epoch for _, _, epoch, _, _ in heard.steps] == [0, 0, 0, 1, 1, 1, 2]
    assert {num_steps for _, num_steps, *_ in heard.steps} == {7}


@pytest.mark.parametrize(("rows", "accumulation", "steps"), [(12, 1, 6), (13, 1, 8), (12, 2, 4), (16, 2, 4)])
def test_epochs_count_their_short_last_steps(rows, accumulation, steps):
    cost, heard = train(make_run(rows=rows, accumulation=accumulation, epochs=2))
    assert cost.steps == len(heard.steps) == steps
    assert cost.train_examples == 2 * rows


def test_a_limited_run_takes_two_steps_a_stage():
    cost, _ = train(make_run(limit=5, epochs=3))
    assert cost.steps == LIMITED_STEPS == 2


def test_every_row_is_trained_on_once_an_epoch_in_another_order():
    watch = Watch()
    run = make_run(watch, epochs=2)
    train(run)
    epochs = [list(chain(*watch.batches[:3])), list(chain(*watch.batches[3:]))]
    assert [sorted(ids) for ids in epochs] == [run.training_ids.tolist()] * 2
    assert epochs[0] != epochs[1]


def test_clipping_bounds_the_norm_after_strategies_have_seen_the_gradient():
    watch = Watch()
    train(make_run(watch, clip=0.01, epochs=1))
    for before, after in zip(watch.gradients, watch.clipped, strict=True):
        assert norm_of(before) > 0.02
        assert norm_of(after) == pytest.approx(0.01, rel=1e-3)


def test_no_clipping_leaves_the_gradient():
    watch = Watch()
    train(make_run(watch, steps=1))
    assert same(watch.gradients[0], watch.clipped[0])


def test_gradients_are_cleared_between_steps():
    watch, run = Watch(), None
    run = make_run(watch, steps=2, learning_rate=1e-12, batch_size=12)
    train(run)
    assert norm_of(watch.gradients[1]) == pytest.approx(norm_of(watch.gradients[0]), rel=1e-3)


def test_the_learning_rate_follows_the_schedule():
    watch = Watch()
    train(make_run(watch, steps=4, schedule="linear", learning_rate=0.1))
    assert watch.rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_hooks_come_in_the_order_of_a_step():
    calls = []

    class Order(Strategy):
        @override
        def training_data(self, run, stage):
            calls.append(f"data {len(run.labels.seen)}")

        @override
        def before_stage(self, run, stage):
            calls.append(f"before {run.backbone.head.out_features}")

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


def test_a_strategy_may_choose_the_rows():
    class Half(Watch):
        @override
        def training_data(self, run, stage):
            return run.split_rows["train"].ids(0)[:5]

    half = Half()
    cost, _ = train(make_run(half))
    assert sorted(chain(*half.batches)) == [0, 1, 2, 3, 4]
    assert cost.train_examples == 5


def test_the_head_grows_with_the_stages_and_old_labels_are_known():
    run = make_run()
    train(run, 0)
    assert (run.backbone.head.out_features, run.labels.old) == (2, ())
    train(run, 1)
    assert (run.backbone.head.out_features, run.labels.old) == (4, ("cold", "hot"))
    assert run.last_trained == 1


class Wreck(Strategy):
    """Turns the head around from an epoch on, so that every later validation score is worse."""

    def __init__(self, epoch):
        self.epoch = epoch
        self.before = {}

    @override
    def after_step(self, run):
        if run.epoch >= self.epoch:
            self.before = self.before or self.kept
            with torch.no_grad():
                run.backbone.head.weight.copy_(-self.before["classifier.weight"])
                run.backbone.head.bias.copy_(-self.before["classifier.bias"])
        self.kept = weights_of(run)


def test_early_stopping_restores_the_best_weights():
    wreck = Wreck(epoch=2)
    run = make_run(wreck, epochs=9, patience=2, learning_rate=0.1)
    cost, heard = train(run)
    scores = [values["train/validation_score"] for _, values in heard.epochs]
    best = max(scores)
    assert scores[2:] == [scores[2]] * (len(scores) - 2)
    assert scores[2] < best
    assert [epoch for epoch, _ in heard.epochs] == list(range(1, len(scores) + 1))
    assert len(scores) == scores.index(best) + 3  # two epochs without a better score
    assert cost.steps == 3 * len(scores)
    assert evaluate(run, "validation", [0]).scores[0]["score"] == best


def test_weights_after_early_stopping_are_those_of_the_best_epoch_to_the_bit(monkeypatch):
    scores, kept = iter([0.5, 0.9, 0.9, 0.2]), []

    def score(run):
        kept.append(weights_of(run))
        return next(scores)

    monkeypatch.setattr(cl_mlm.training.loop, "_validation_score", score)
    run = make_run(epochs=9, patience=2)
    cost, _ = train(run)
    assert (cost.steps, len(kept)) == (12, 4)
    assert same(weights_of(run), kept[1])
    assert not same(weights_of(run), kept[3])


def test_without_patience_nothing_is_validated():
    _, heard = train(make_run(epochs=2))
    assert heard.epochs == []


def test_validation_leaves_the_training_as_it_is():
    """Patience that never runs out: the same batches and dropout as without, up to the best epoch's weights."""
    watches = [Watch(), Watch()]
    for watch, patience in zip(watches, (None, 50), strict=True):
        train(make_run(watch, epochs=3, patience=patience, dropout=0.3))
    assert watches[0].batches == watches[1].batches
    assert watches[0].losses == watches[1].losses


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
def test_adding_a_strategy_moves_neither_batches_nor_dropout(first):
    alone, beside, noise = Watch(), Watch(), Noise()
    one = make_run(alone, dropout=0.3, epochs=2, clip=1.0, optimizer="adamw")
    two = make_run(*((noise, beside) if first else (beside, noise)), dropout=0.3, epochs=2, clip=1.0, optimizer="adamw")
    for stage_index in (0, 1):
        train(one, stage_index)
        train(two, stage_index)
    own = [ids for ids in beside.batches if len(ids) == 4]
    assert alone.batches == own
    assert [loss for loss, ids in zip(beside.losses, beside.batches, strict=True) if len(ids) == 4] == alone.losses
    assert noise.forwards == 12
    assert same(weights_of(one), weights_of(two))


def test_dropout_differs_from_step_to_step():
    watch = Watch()
    train(make_run(watch, dropout=0.3, batch_size=12, steps=3, learning_rate=1e-12))
    assert len(set(watch.losses)) == 3


def test_memory_rows_add_weight_times_their_mean_loss():
    class Remember(Watch):
        @override
        def memory(self, run, batch):
            return [(0.5, run.rows(run.training_ids[:3])), (2.0, run.rows(run.training_ids[3:4]))]

    watch = Remember()
    copy = make_run(rows=8, batch_size=8)
    cost, heard = train(make_run(watch, rows=8, batch_size=8))
    own, first, second = (copy.rows(np.array(ids)) for ids in watch.batches)
    losses = [copy.task_loss(copy.forward(batch), batch).mean() for batch in (own, first, second)]
    (losses[0] + 0.5 * losses[1] + 2.0 * losses[2]).backward()
    for name, expected in gradients_of(copy).items():
        torch.testing.assert_close(watch.gradients[0][name], expected, rtol=1e-5, atol=1e-6)
    values = heard.steps[0][-1]
    assert values["train/loss/memory"] == pytest.approx((losses[1] + losses[2]).item() / 2, rel=1e-5)
    assert cost.train_examples == 12


def test_memory_rows_of_two_micro_batches_count_by_their_mean():
    class Remember(Watch):
        @override
        def memory(self, run, batch):
            return [(0.5, run.rows(run.training_ids[:3]))]

    parts, whole = Remember(), Remember()
    train(make_run(parts, rows=8, accumulation=2))
    train(make_run(whole, rows=8, batch_size=8))
    for name, expected in whole.gradients[0].items():
        torch.testing.assert_close(parts.gradients[0][name], expected, rtol=1e-5, atol=1e-6)


def test_logged_loss_is_the_mean_since_the_last_point():
    watch = Watch()
    _, heard = train(make_run(watch, steps=5, log_every=2))
    logged = [(step, values["train/loss/stage"]) for step, _, _, _, values in heard.steps if values]
    expected = [(2, watch.losses[0:2]), (4, watch.losses[2:4]), (5, watch.losses[4:5])]
    assert logged == [(step, pytest.approx(sum(losses) / len(losses))) for step, losses in expected]


def test_logged_loss_of_accumulated_micro_batches_is_the_mean_of_their_rows():
    watch = Watch()
    _, heard = train(make_run(watch, rows=8, accumulation=2))
    assert heard.steps[0][-1]["train/loss/stage"] == pytest.approx(sum(watch.losses) / 2)


def test_cost_counts_tokens_without_padding():
    run = make_run()
    cost, _ = train(run)
    assert cost.train_tokens == int(run.split_rows["train"].lengths(run.training_ids).sum())
    assert cost.train_seconds > 0


class Bad(Strategy):
    """Adds a term that is not finite from a step on."""

    def __init__(self, first=0, weight=1.0):
        self.first, self.weight = first, weight

    @override
    def loss_terms(self, run, batch, outputs):
        return {"bad": outputs.logits.sum() * (math.nan if run.step >= self.first else 0.0)}


def test_a_term_that_is_not_finite_stops_training_and_is_named_with_what_may_help():
    with pytest.raises(TrainingError) as caught:
        train(make_run(Bad(), steps=3))
    message = str(caught.value)
    assert message.startswith("stage 'cold', step 1, epoch 0: train/loss/stage is nan") or "bad is nan" in message
    assert "train/term/bad is nan" in message
    for advice in ("training.learning_rate lower than 0.05", "training.clip=1.0 (now null)", "a smaller weight of bad"):
        assert advice in message


def test_weights_that_are_not_finite_after_the_last_step_stop_the_run():
    class Ruin(Strategy):
        @override
        def after_step(self, run):
            with torch.no_grad():
                next(iter(run.trainable().values())).view(-1)[0] = math.inf

    with pytest.raises(TrainingError, match=r"1 weights are not finite, bert\.embeddings\.word_embeddings\.weight"):
        train(make_run(Ruin(), steps=1))


def test_no_checkpoint_is_made_of_a_loss_that_is_not_finite():
    class Keeping(Heard):
        def keep(self, step, state):
            self.states.append(state())

    heard = Keeping()
    heard.states = []
    with pytest.raises(TrainingError, match="train/term/bad"):
        train_stage(make_run(Bad(first=2), steps=9, log_every=9), heard)
    assert [state["place"]["step"] for state in heard.states] == [1, 2]


def limited_memory(run, rows, error):
    """Makes forward passes over more than `rows` rows fail."""
    forward = run.forward

    def failing(batch):
        if len(batch) > rows:
            raise error
        return forward(batch)

    run.forward = failing
    return run


CPU_OUT_OF_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def test_where_memory_does_not_suffice_micro_batches_are_halved_and_the_result_is_the_same():
    settings = {"steps": 3, "accumulation": 2, "batch_size": 6}
    whole, halved = (make_run(Recall(), **settings, halve_on_oom=True) for _ in range(2))
    first, _ = train(whole)
    second, _ = train(limited_memory(halved, 2, CPU_OUT_OF_MEMORY))
    for name, expected in weights_of(whole).items():
        torch.testing.assert_close(weights_of(halved)[name], expected, rtol=1e-5, atol=1e-6)
    assert (second.train_examples, second.train_tokens) == (first.train_examples, first.train_tokens)
    assert [flag.partition("each")[2] for flag in second.flags] == [
        " micro-batch is run in 2 parts",
        " micro-batch is run in 4 parts",
    ]


class Recall(Strategy):
    """Brings back the first five rows at every step."""

    @override
    def memory(self, run, batch):
        return [(0.5, run.rows(run.training_ids[:5]))]


def test_without_leave_to_halve_a_lack_of_memory_ends_training():
    with pytest.raises(RuntimeError, match="can't allocate"):
        train(limited_memory(make_run(), 2, CPU_OUT_OF_MEMORY))


def test_a_single_row_that_does_not_fit_ends_training():
    with pytest.raises(RuntimeError, match="can't allocate"):
        train(limited_memory(make_run(halve_on_oom=True), 0, CPU_OUT_OF_MEMORY))


def test_an_error_that_is_not_of_memory_is_not_taken_for_one():
    with pytest.raises(RuntimeError, match="shapes"):
        train(limited_memory(make_run(halve_on_oom=True), 2, RuntimeError("shapes differ")))


@pytest.mark.parametrize(("number", "sizes"), [(1, [7]), (2, [4, 3]), (3, [3, 3, 1]), (9, [1] * 7)])
def test_a_batch_is_cut_in_parts_that_hold_every_row_once(number, sizes):
    run = make_run(rows=7)
    batch = run.rows(run.split_rows["train"].ids(0))
    batch = replace(batch, row_weight=torch.arange(7.0), allowed=torch.ones(7, 2, dtype=torch.bool))
    parts = batch.parts(number)
    assert [len(part) for part in parts] == sizes
    for name in ("targets", "ids", "count", "row_weight", "allowed"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    for name, tensor in batch.inputs.items():
        assert torch.equal(torch.cat([part.inputs[name] for part in parts]), tensor)


def test_gradient_checkpointing_changes_no_weight():
    runs = [make_run(steps=3, dropout=0.1) for _ in range(2)]
    runs[1].backbone.checkpoint_activations()
    for run in runs:
        train(run)
    assert all(
        torch.equal(a, b) for a, b in zip(weights_of(runs[0]).values(), weights_of(runs[1]).values(), strict=True)
    )


def test_meter_reads_means_and_starts_anew():
    meter = Meter()
    meter.add("a", torch.tensor(1.0))
    meter.add("a", torch.tensor(3.0, requires_grad=True))
    meter.add("b", torch.tensor(5.0, dtype=torch.bfloat16))
    assert meter.read() == {"a": 2.0, "b": 5.0}
    assert meter.read() == {}


def test_row_weights_scale_the_loss_of_their_rows():
    run = make_run(rows=4)
    batch = replace(run.rows(run.split_rows["train"].ids(0)), row_weight=torch.tensor([2.0, 0.0, 1.0, 1.0]))
    losses = torch.tensor([1.0, 10.0, 3.0, 5.0])
    assert float(mean_loss(losses, batch)) == pytest.approx((2 + 0 + 3 + 5) / 4)
    assert float(mean_loss(losses, batch, items=5.0)) == pytest.approx(2.0)


def test_run_gradients_are_those_of_the_mean_loss_and_leave_grad_alone():
    run = make_run(rows=4)
    batch = run.rows(run.split_rows["train"].ids(0))
    found = run.gradients(batch)
    assert all(parameter.grad is None for parameter in run.model.parameters())
    mean_loss(run.task_loss(run.forward(batch), batch), batch).backward()
    for gradient, parameter in zip(found, run.trainable().values(), strict=True):
        assert parameter.grad is not None
        assert torch.equal(gradient, parameter.grad)


def test_an_optimiser_is_freed_when_its_stage_ends(monkeypatch):
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


def losses_in(precision):
    AcceleratorState._reset_state(reset_partial_state=True)
    watch = Watch()
    run = make_run(watch, precision=precision, epochs=4)
    train(run, 0)
    train(run, 1)
    assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())
    return watch


def test_bf16_stays_near_fp32():
    half, full = losses_in("bf16"), losses_in("fp32")
    assert set(half.types) == {torch.bfloat16}
    assert set(full.types) == {torch.float32}
    assert half.batches == full.batches
    assert half.losses[0] == pytest.approx(full.losses[0], rel=0.03)
    assert np.mean(half.losses) == pytest.approx(np.mean(full.losses), rel=0.03)
    assert half.losses != full.losses


def test_a_bf16_run_can_be_asked_for_fp32():
    run = make_run(rows=4, precision="bf16")
    batch = run.rows(run.split_rows["train"].ids(0))
    with run.accelerator.autocast():
        found = run.forward_fp32(batch).logits
    assert (run.forward(batch).logits.dtype, found.dtype) == (torch.bfloat16, torch.float32)


def scaled_run(*strategies, init_scale=2.0**10, **training):
    """A run whose losses are scaled as fp16 asks for, on any machine."""
    run = make_run(*strategies, **training)
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    run.accelerator.native_amp = True
    AcceleratorState._shared_state["_mixed_precision"] = "fp16"
    return run


def test_scaled_losses_are_unscaled_once_before_strategies_and_clipping():
    scaled, plain = Watch(), Watch()
    train(make_run(plain, steps=2, clip=0.01))
    run = scaled_run(scaled, steps=2, clip=0.01)
    train(run)
    assert norm_of(scaled.gradients[0]) == pytest.approx(norm_of(plain.gradients[0]), rel=0.05)
    assert norm_of(scaled.clipped[0]) == pytest.approx(0.01, rel=0.01)
    train(run, 1)


def test_a_step_whose_scaled_gradient_overflows_is_skipped_and_not_scheduled():
    watch = Watch()
    run = scaled_run(watch, steps=3, schedule="linear", learning_rate=0.1, init_scale=2.0**127)
    before = weights_of(run)
    moved = []

    class Look(Strategy):
        @override
        def after_step(self, run):
            moved.append(not same(weights_of(run), before))

    run.strategies = (watch, Look())
    cost, _ = train(run)
    assert cost.steps == 3
    assert moved[0] is False
    assert watch.rates[:2] == [0.1, 0.1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_fp16_trains_with_clipping():
    watch = Watch()
    run = make_run(watch, device="cuda", precision="fp16", clip=1.0, epochs=4)
    run.model.to("cuda")
    for stage_index in (0, 1):
        train(run, stage_index)
    assert set(watch.types) == {torch.float16}
    assert all(map(math.isfinite, watch.losses))
