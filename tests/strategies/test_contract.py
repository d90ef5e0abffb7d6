"""What the loop promises to strategies, beside what each of the hooks must keep."""

from contextlib import suppress

import pytest
import torch

from cl_mlm.errors import OwnCodeError
from cl_mlm.experiment.composition import composition_faults, setting_of
from cl_mlm.strategy import ParameterSettings, Strategy

SHORT = {"rows": 4, "epochs": 1, "batch_size": 4}


class Sums(Strategy):
    """Counts the rows of a step; brings back two of them, and keeps what it sees of hooks and owners."""

    def __init__(self):
        self.moments, self.owners, self.seen = [], [], 0

    def before_step(self, run):
        self.moments.append("before")
        self.seen = 0

    def memory(self, run, batch):
        return [(1.0, run.rows(run.training_ids[:2]))] if not run.micro_batch else []

    def loss_terms(self, run, batch, outputs):
        self.owners.append((batch.origin, batch.owner))
        self.seen += len(batch)
        return {}

    def after_step(self, run):
        self.moments.append(self.seen)


class Slow(Strategy):
    """Moves one parameter by a factor."""

    def __init__(self, factor=0.5):
        self.factor = factor

    def parameter_settings(self, run):
        return {name: ParameterSettings(self.factor) for name in run.trainable() if name.endswith("classifier.weight")}


class Pull(Strategy):
    """A penalty: adds 1 to every gradient."""

    def adjust_gradients(self, run):
        for parameter in run.trainable().values():
            if parameter.grad is not None:
                parameter.grad.add_(1.0)
        return {}


class Observer(Strategy):
    """Keeps the gradient that it may read, and what a later hook finds of it."""

    def __init__(self):
        self.read, self.adjusted = [], []

    def observe_gradients(self, run):
        self.read.append({n: p.grad.clone() for n, p in run.trainable().items() if p.grad is not None})

    def after_step(self, run):
        self.adjusted.append({n: p.grad.clone() for n, p in run.trainable().items() if p.grad is not None})


def test_what_a_step_gathers_begins_anew_with_every_attempt(make_run, train):
    strategy = Sums()
    run = make_run(strategy, **SHORT, halve_on_oom=True)
    forward, sizes = run.network.forward, []

    def failing(batch):
        sizes.append(len(batch))
        if len(batch) > 2 and run.network.model.training:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return forward(batch)

    run.network.forward = failing
    train(run, [0])
    assert sizes[:2] == [4, 2]
    assert strategy.moments == ["before", "before", 6]  # 4 own rows and 2 of memory, none counted twice


def test_a_batch_of_memory_names_its_owner(make_run, train):
    strategy = Sums()
    train(make_run(strategy, **SHORT), [0])
    assert strategy.owners == [("stage", ""), ("memory", "sums")]


@pytest.mark.parametrize("is_first", [True, False])
def test_the_gradient_that_is_observed_holds_nobodys_penalty(make_run, train, is_first):
    observer = Observer()
    order = (observer, Pull()) if is_first else (Pull(), observer)
    train(make_run(*order, **SHORT, clip=None), [0])
    for read, adjusted in zip(observer.read, observer.adjusted, strict=True):
        assert all(torch.equal(read[name] + 1.0, adjusted[name]) for name in read)


@pytest.mark.parametrize("edit", [lambda p: p.grad.mul_(2.0), lambda p: setattr(p, "grad", p.grad.clone())])
def test_a_gradient_that_is_only_to_be_read_may_not_be_edited(make_run, train, edit):
    def observe(self, run):
        edit(next(p for p in run.trainable().values() if p.grad is not None))

    own = type("Own", (Strategy,), {"observe_gradients": observe})()
    with pytest.raises(OwnCodeError, match=r"hook observe_gradients.*must leave `.grad` as it is"):
        train(make_run(own, **SHORT), [0])


def test_swapped_weights_are_used_within_the_block_and_the_very_same_are_back_after_it(make_run, weights_of):
    run = make_run(**SHORT)
    view, before = run.view(Strategy(), "test"), weights_of(run)
    places = {name: parameter.data_ptr() for name, parameter in view.trainable().items()}
    batch = view.rows(view.ids_of(0))
    plain = view.forward(batch).logits
    with view.swapped({name: torch.zeros_like(tensor) for name, tensor in before.items()}), torch.no_grad():
        assert view.forward(batch).logits.eq(0).all()
    plain.sum().backward()  # the graph from before is whole
    assert {name: parameter.data_ptr() for name, parameter in view.trainable().items()} == places
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(run).items())


def test_a_head_that_has_grown_takes_the_rows_that_were_kept(make_run, train, weights_of):
    run = make_run(**SHORT)
    train(run, [0])
    kept = weights_of(run)
    train(run, [1])
    name = next(name for name in kept if kept[name].shape != weights_of(run)[name].shape)
    now, old = weights_of(run)[name], len(kept[name])
    view = run.view(Strategy(), "test")
    with suppress(ZeroDivisionError), view.swapped(kept):  # an error within brings them back, too
        assert torch.equal(view.trainable()[name][:old], kept[name])
        assert torch.equal(view.trainable()[name][old:], now[old:])
        raise ZeroDivisionError
    assert torch.equal(view.trainable()[name], now)


def test_only_what_is_trained_can_be_swapped(make_run):
    view = make_run(**SHORT).view(Strategy(), "test")
    with pytest.raises(KeyError, match="none"), view.swapped({"none": torch.zeros(1)}):
        pass


def test_a_stage_has_its_own_rows_whatever_it_trains_on(make_run, train):
    class First(Strategy):
        def training_data(self, run, stage):
            return run.ids_of(0)

        def after_stage(self, run, stage):
            assert (run.training_ids == run.ids_of(0)).all()
            assert len(run.ids_of(run.stage_index)) == 4

    train(make_run(First(), **SHORT))


def test_features_are_what_the_head_reads_in_the_order_of_the_rows(make_run):
    run = make_run(dropout=0.3, **SHORT)
    view = run.view(Strategy(), "test")
    ids = view.ids_of(0)[::-1].copy()
    found = view.features(ids)
    assert run.network.model.training
    run.network.model.eval()
    with torch.no_grad():
        expected = torch.cat([view.forward(view.rows(ids[i : i + 1])).features for i in range(len(ids))])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert view.features(ids[:0]).shape == (0, 0)


def test_a_strategy_refuses_a_setting_by_name(make_run):
    class Picky(Strategy):
        def refuse(self, setting):
            return [f"weight: precision must not be fp16, got {setting.precision}"]

    run = make_run(**SHORT)
    faults = composition_faults([Picky()], [], run.config, run.stream)
    assert faults == ["strategies.picky.weight: precision must not be fp16, got fp32"]
    setting = setting_of([Picky()], run.config, run.stream)
    assert (setting.num_stages, setting.num_tasks, setting.mode, setting.strategies) == (2, 1, "full", ("picky",))


def test_a_strategy_sets_the_rate_of_single_parameters(make_run, train):
    runs = {factor: make_run(Slow(factor), **SHORT) for factor in (0.0, 1.0)} | {None: make_run(**SHORT)}
    before = {name: p.detach().clone() for name, p in runs[0.0].network.model.named_parameters()}
    for run in runs.values():
        train(run, [0])
    still, usual, plain = (dict(run.network.model.named_parameters()) for run in runs.values())
    assert torch.equal(still["classifier.weight"], before["classifier.weight"])
    assert not torch.equal(still["classifier.bias"], before["classifier.bias"])
    assert all(torch.equal(usual[name], plain[name]) for name in plain), "a factor of 1 changes no bit"


def test_two_strategies_may_not_set_one_parameter(make_run, train):
    class Other(Slow):
        pass

    with pytest.raises(
        OwnCodeError, match=r"Other, hook parameter_settings.*must leave to another strategy .*classifier"
    ):
        train(make_run(Slow(), Other(), **SHORT), [0])


def test_a_class_must_be_allowed_by_every_strategy(make_run, train):
    class Lets(Strategy):
        def __init__(self, *classes):
            self.classes = classes

        def allowed_classes(self, run, batch):
            allowed = torch.zeros(len(batch), run.labels.num_classes, dtype=torch.bool)
            allowed[:, [i for i in self.classes if i < run.labels.num_classes]] = True
            return allowed | run.objective.target_classes(batch, run.labels.num_classes)

    class Also(Lets):
        pass

    seen = []

    class Masks(Strategy):
        def loss_terms(self, run, batch, outputs):
            if run.stage_index:  # own classes 2 and 3
                seen.append((batch.allowed, run.objective.target_classes(batch, 4)))
            return {}

    train(make_run(Lets(0, 1), Also(1, 2), Masks(), **SHORT))
    (allowed, targets), *_ = seen
    assert torch.equal(allowed, torch.tensor([False, True, False, False]) | targets)
