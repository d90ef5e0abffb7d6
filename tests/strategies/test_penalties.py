"""L2 and synaptic intelligence against their formulas, restated here."""

import numpy as np
import pytest
import torch

from cl_mlm.experiment.composition import setting_of
from cl_mlm.strategy import Strategy
from strategies.l2 import L2
from strategies.si import Si

MAKERS = {"l2": lambda: L2(weight=0.3), "si": lambda: Si(weight=50.0, damping=1e-3)}


class Steps(Strategy):
    """Keeps gradients without penalty, those with it, and the weights before and after every step."""

    def __init__(self):
        self.bare, self.whole, self.before, self.after = [], [], [], []

    def observe_gradients(self, run):
        self.bare.append({n: p.grad.clone() for n, p in run.trainable().items() if p.grad is not None})
        self.before.append({n: p.detach().clone() for n, p in run.trainable().items()})

    def after_step(self, run):
        self.whole.append({n: p.grad.clone() for n, p in run.trainable().items() if p.grad is not None})
        self.after.append({n: p.detach().clone() for n, p in run.trainable().items()})


@pytest.fixture
def pulls(make_run, train, weights_of):
    """Trains two stages without clipping; returns the steps, how many the first stage has, the weights between."""

    def of(strategy):
        steps = Steps()
        run = make_run(strategy, steps, clip=None)
        train(run, [0])
        first, between = len(steps.before), weights_of(run)
        train(run, [1])
        return steps, first, between

    return of


def penalty(steps, step):
    return {name: steps.whole[step][name] - bare for name, bare in steps.bare[step].items()}


def test_l2_pulls_every_weight_towards_the_last_stages(pulls):
    steps, first, between = pulls(L2(weight=0.3))
    assert all(torch.equal(steps.whole[i][n], steps.bare[i][n]) for i in range(first) for n in steps.bare[i])
    for i in range(first, len(steps.before)):
        for name, found in penalty(steps, i).items():
            old = between[name]
            apart = torch.zeros_like(steps.before[i][name])  # new rows of the head are free
            apart[tuple(map(slice, old.shape))] = steps.before[i][name][tuple(map(slice, old.shape))] - old
            torch.testing.assert_close(found, 0.3 * apart, rtol=1e-4, atol=1e-6)


def test_si_is_the_path_integral_of_the_loss_alone(pulls):
    """Zenke et al. 2017, equations 3 to 5, restated in NumPy."""
    strategy = Si(weight=50.0, damping=1e-3)
    steps, first, between = pulls(strategy)
    omega = {name: np.zeros(value.shape) for name, value in steps.before[0].items()}
    for i in range(first):
        for name, gradient in steps.bare[i].items():
            omega[name] -= (gradient * (steps.after[i][name] - steps.before[i][name])).double().numpy()
    importance = {}
    for name, path in omega.items():
        apart = (between[name] - steps.before[0][name]).double().numpy()
        importance[name] = torch.from_numpy(np.maximum(path / (apart**2 + 1e-3), 0)).float()
    assert sum(value.sum() for value in importance.values()) > 0
    for name, found in penalty(steps, first + 2).items():
        part = tuple(map(slice, between[name].shape))
        expected = torch.zeros_like(found)
        expected[part] = 100.0 * importance[name] * (steps.before[first + 2][name][part] - between[name])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_the_path_of_small_steps_adds_up_to_what_the_loss_fell_by(make_run, train):
    """With plain gradient descent Σ ω is the fall of the loss, up to the size of a step."""
    sums, losses = [], []

    class Paths(Si):
        def after_stage(self, run, stage):
            sums.append(float(sum(value.sum() for value in self.path.values())))

    run = make_run(
        Paths(), optimizer="sgd", learning_rate=1e-3, weight_decay=0.0, clip=None, steps=40, batch_size=12, rows=6
    )
    losses = [values["train/loss/stage"] for values in train(run, [0]).logged]
    assert sums[0] == pytest.approx(losses[0] - losses[-1], rel=0.1)


@pytest.mark.parametrize("kind", [L2, Si])
def test_weight_zero_is_naive_to_the_bit(kind, assert_same_run):
    assert_same_run(kind(weight=0.0))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_restored_strategy_goes_on(make, assert_goes_on):
    assert_goes_on(make)


def test_factors_that_are_drawn_anew_are_refused_and_bad_arguments_named(make_run):
    run = make_run(rows=4)
    setting = setting_of([], run.config, run.stream)
    assert [L2().refuse(setting), Si().refuse(setting)] == [[], []]
    osf = type(setting)(**{**vars(setting), "mode": "osf"})
    assert all("must not be osf" in kind().refuse(osf)[0] for kind in (L2, Si))
    assert L2(weight=-1).validate() == ["weight: must be at least 0, got -1"]
    assert Si(weight=-1, damping=0).validate() == [
        "weight: must be at least 0, got -1",
        "damping: must be above 0, got 0",
    ]
