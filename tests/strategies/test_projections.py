"""A-GEM and GEM: closed forms, brute force, and Avalanche's own projections on the same gradients."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cl_mlm.errors import ConfigError
from cl_mlm.experiment.composition import check_composition, setting_of
from cl_mlm.mechanisms import gradient_of_rows, inner_product, nearest_allowed
from cl_mlm.strategy import Strategy
from strategies.agem import Agem
from strategies.gem import Gem

from .test_penalties import Steps


def projected(vector, references, margin=0.0):
    products = np.concatenate([references @ references.T, (references @ vector)[:, None]], axis=1)
    return vector + references.T @ nearest_allowed(products, margin)


@pytest.mark.parametrize("seed", range(6))
def test_the_nearest_allowed_gradient_is_that_of_brute_force(seed):
    """Every set of active constraints is tried; of those that are allowed, the best is taken."""
    random = np.random.default_rng(seed)
    references, vector = random.normal(size=(4, 20)), random.normal(size=20)
    gram = references @ references.T
    gram += np.eye(4) * 1e-3 * np.trace(gram) / 4
    linear, best = references @ vector, (np.inf, None)
    for active in product([False, True], repeat=4):
        on, weights = np.array(active), np.zeros(4)
        weights[on] = np.linalg.solve(gram[np.ix_(on, on)], -linear[on]) if on.any() else []
        if (weights >= 0).all() and (gram @ weights + linear >= -1e-9).all():
            best = min(best, (0.5 * weights @ gram @ weights + linear @ weights, tuple(weights)))
    found = projected(vector, references)
    np.testing.assert_allclose(found, vector + references.T @ np.array(best[1]), atol=1e-8)
    assert (references @ found >= -1e-3 * np.abs(linear).max() - 1e-2).all()


def test_with_one_stage_and_no_margin_it_is_the_projection_of_a_gem():
    reference, vector = np.array([[3.0, 4.0]]), np.array([-2.0, 1.0])
    expected = vector - (vector @ reference[0]) / (reference[0] @ reference[0]) * reference[0]
    np.testing.assert_allclose(projected(vector, reference), expected, rtol=2e-3)
    np.testing.assert_array_equal(projected(-vector, reference), -vector)


def test_parallel_references_and_a_margin_are_solved():
    references, vector = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([-1.0, 1.0])
    assert abs(projected(vector, references)[0]) < 1e-2
    assert projected(vector, references, margin=0.5)[0] >= 0.499


@pytest.mark.filterwarnings("ignore:no QP solver found")
def test_a_gem_equals_avalanches_projection(make_run, train, monkeypatch):
    """Avalanche 0.6, plugins/agem.py: on the same gradient and the same reference gradient."""
    from avalanche.training.plugins import AGEMPlugin

    compared = []
    import strategies.agem as module

    def watched(run, ids):
        reference = gradient_of_rows(run, ids)
        parameters = [*run.trainable().values()]
        copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
        for copy, parameter in zip(copies, parameters, strict=True):
            copy.grad = torch.zeros_like(copy) if parameter.grad is None else parameter.grad.clone()
        plugin = AGEMPlugin(1, 1)
        plugin.buffers, plugin.reference_gradients = [0], torch.cat([r.reshape(-1) for r in reference])
        plugin.after_backward(SimpleNamespace(model=torch.nn.ParameterList(copies)))
        compared.append({name: copy.grad for name, copy in zip(run.trainable(), copies, strict=True)})
        return reference

    monkeypatch.setattr(module, "gradient_of_rows", watched)
    steps = Steps()
    train(make_run(Agem(capacity=8), steps, clip=None))
    second = len(steps.whole) - len(compared)
    assert second == len(compared)  # the first stage has no memory
    changed = 0
    for bare, whole, expected in zip(steps.bare[second:], steps.whole[second:], compared, strict=True):
        changed += any(not torch.equal(bare[name], whole[name]) for name in bare)
        for name, found in whole.items():
            torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-6)
    assert changed


@pytest.mark.parametrize("make", [lambda: Agem(capacity=8, rows=8), lambda: Gem(capacity=8)])
def test_no_step_raises_the_loss_on_memory(make, make_run, train):
    checked = []

    class Check(Strategy):
        def after_step(self, run):
            if run.stage_index:
                strategy = run_of.strategies[0]
                kept = strategy.kept[0] if isinstance(strategy, Gem) else strategy.buffer.ids
                reference = gradient_of_rows(run, kept)
                given = [p.grad for p in run.trainable().values()]
                size = float(inner_product(reference, reference)) ** 0.5 * float(inner_product(given, given)) ** 0.5
                checked.append(float(inner_product(given, reference)) / size)

    run_of = make_run(make(), Check(), clip=None, optimizer="sgd", learning_rate=1e-6, num_stages=2)
    train(run_of)
    assert min(checked) > -2e-3
    assert len(checked) == 6


@pytest.mark.parametrize("make", [lambda: Agem(capacity=8), lambda: Gem(capacity=8, margin=0.1)])
def test_a_restored_strategy_goes_on(make, assert_goes_on):
    assert_goes_on(make)


def test_a_stage_without_memory_is_naive_to_the_bit(make_run, train, weights_of):
    runs = [make_run(*strategies, dropout=0.2) for strategies in ((), (Agem(),), (Gem(),))]
    for run in runs:
        train(run, [0])
    naive, *others = map(weights_of, runs)
    assert all(torch.equal(value, other[name]) for other in others for name, value in naive.items())


def test_penalties_come_first_and_one_alone_may_project(make_run, train):
    order = []

    class Late(Strategy):
        def adjust_gradients(self, run):
            order.append("penalty")
            return {}

    class First(Agem):
        def adjust_gradients(self, run):
            order.append("projection")
            return super().adjust_gradients(run)

    train(make_run(First(), Late(), rows=4, epochs=1, batch_size=4), [0])
    assert order == ["penalty", "projection"]
    with pytest.raises(ConfigError, match=r"only one may project the gradient .* got agem, gem"):
        check_composition([Agem(), Gem()])


def test_bad_arguments_are_named(make_run):
    assert Agem(capacity=0, rows=0).validate() == [
        "capacity: must be at least 1, got 0",
        "rows: must be at least 1 or null, got 0",
    ]
    assert Gem(margin=-1).validate() == ["margin: must be at least 0, got -1"]
    run = make_run(num_stages=3)
    setting = setting_of([], run.config, run.stream)
    assert Gem(capacity=1).refuse(setting) == ["capacity: must be a row at least for each of 2 stages, got 1"]
    assert Gem(capacity=2).refuse(setting) == []
