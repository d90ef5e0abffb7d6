"""`mix`, `er_ace` and `ema`: which rows, which classes, which weights."""

import numpy as np
import pytest
import torch

from cl_mlm.experiment.composition import setting_of
from cl_mlm.objectives.classification import Classification
from cl_mlm.objectives.multilabel import Multilabel
from cl_mlm.objectives.text_to_text import TextToText
from cl_mlm.strategy import Strategy
from strategies.cumulative import Cumulative
from strategies.ema import Ema
from strategies.er_ace import ErAce
from strategies.mix import Mix
from strategies.replay import Replay


class Rows(Strategy):
    """Keeps the rows that every stage trains on."""

    def __init__(self):
        self.found = []

    def before_stage(self, run, stage):
        self.found.append(run.training_ids.copy())


def test_a_share_that_is_whole_is_not_rounded_up(make_run, train):
    rows = Rows()
    train(make_run(Mix(0.07), rows, rows=100, epochs=1, batch_size=50))
    assert [len(ids) for ids in rows.found] == [100, 107]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Mix(0.25), [12, 12 + 3, 12 + 3 + 3]),
        (Mix(0.01), [12, 12 + 1, 12 + 1 + 1]),
        (Mix(0.5, of="new"), [12, 12 + 6, 12 + 3 + 3]),
        (Mix(9.0, of="new"), [12, 12 + 12, 12 + 12 + 12]),
    ],
)
def test_mix_adds_the_asked_share_of_every_earlier_stage(strategy, expected, make_run, train):
    rows = Rows()
    train(make_run(strategy, rows, num_stages=3, epochs=1))
    assert [len(ids) for ids in rows.found] == expected
    assert all(len(np.unique(ids)) == len(ids) for ids in rows.found)
    assert [sorted({int(i) >> 40 for i in ids}) for ids in rows.found] == [[0], [0, 1], [0, 1, 2]]


def test_all_old_rows_are_cumulative_to_the_bit_and_none_is_naive(make_run, train, weights_of):
    runs = [make_run(*given, num_stages=3) for given in ((Mix(1.0),), (Cumulative(),), (Mix(0.0),), ())]
    for run in runs:
        train(run)
    found = list(map(weights_of, runs))
    for first, second in (found[:2], found[2:]):
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_mix_names_bad_arguments():
    assert Mix(1.5).validate() == ["ratio: must be in 0-1 where it is a share of old rows, got 1.5"]
    assert Mix(-1, of="new").validate() == ["ratio: must be at least 0, got -1"]
    assert Mix(1.5, of="new").validate() == []


class Head(Strategy):
    """Keeps the gradient of the head after the own rows of a step, and after all of them."""

    def __init__(self):
        self.own, self.classes = [], []

    def memory(self, run, batch):
        (weight,) = [p for n, p in run.trainable().items() if n in run.head_names and p.dim() == 2]
        self.own.append((run.stage_index, weight.grad.clone()))
        self.classes.append(run.objective.target_classes(batch, run.labels.num_classes).any(0))
        return []


def test_own_rows_do_not_move_the_old_classes(make_run, train):
    """Caccia et al. 2022: the gradient of every class that is not in the incoming batch is exactly 0."""
    head = Head()
    train(make_run(head, ErAce(capacity=8)))
    for (stage_index, gradient), present in zip(head.own, head.classes, strict=True):
        if stage_index:
            assert gradient[~present].eq(0).all()
            assert present.sum() < 2 or gradient[present].ne(0).any()
    assert any((~present).any() for present in head.classes)


def test_with_all_classes_in_every_batch_er_ace_is_replay_to_the_bit(make_run, train, weights_of):
    runs = [make_run(kind(capacity=8), Mix(1.0), batch_size=24) for kind in (ErAce, Replay)]
    for run in runs:
        train(run)
    first, second = map(weights_of, runs)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_er_ace_at_weight_zero_is_naive_and_refuses_what_has_no_classes(assert_same_run, make_run):
    assert_same_run(ErAce(weight=0.0, capacity=8))
    assert ErAce().unfit(Classification()) == []
    assert all("needs rows with one label a site" in ErAce().unfit(o)[0] for o in (Multilabel(), TextToText()))


def test_the_average_is_the_geometric_series_of_all_weights(make_run, train, weights_of):
    strategy, seen = Ema(decay=0.5), []

    class After(Strategy):
        def after_step(self, run):
            seen.append({n: p.detach().clone() for n, p in run.trainable().items()})

    train(make_run(strategy, After()), [0])
    expected = {name: value.double() for name, value in seen[0].items()}
    for n, values in enumerate(seen[1:], start=1):
        factor = min(0.5, (n + 1) / (n + 10))
        expected = {name: factor * expected[name] + (1 - factor) * value for name, value in values.items()}
    for name, value in expected.items():
        torch.testing.assert_close(strategy.average[name].double(), value, rtol=1e-5, atol=1e-6)


def test_the_average_is_scored_and_training_goes_on_as_without_it(make_run, train, weights_of):
    averaged, naive = make_run(Ema(decay=0.9), dropout=0.2), make_run(dropout=0.2)
    train(averaged), train(naive)
    first, second = weights_of(averaged), weights_of(naive)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    strategy = averaged.strategies[0]
    with strategy.evaluation(averaged.view(strategy, "evaluation"), []):
        within = weights_of(averaged)
    assert all(torch.equal(within[name], value) for name, value in strategy.average.items())
    assert all(torch.equal(value, second[name]) for name, value in weights_of(averaged).items())


def test_ema_refuses_what_puts_other_weights_back_and_goes_on_when_restored(make_run, assert_goes_on):
    run = make_run(patience=2)
    assert Ema().refuse(setting_of([], run.config, run.stream)) == [
        "decay: training.patience must be null, for the average goes on when the best weights are put back, got 2"
    ]
    assert Ema(decay=1.0).validate() == ["decay: must be at least 0 and below 1, got 1.0"]
    assert_goes_on(Ema)
    assert_goes_on(lambda: ErAce(capacity=8))
