import torch
from typing_extensions import override

from cl_mlm.strategy import Strategy
from cl_mlm.training import early_stopping
from cl_mlm.training.evaluation import evaluate


class Wreck(Strategy):
    """Turns the head around from an epoch on, so that every later validation score is worse."""

    def __init__(self, epoch):
        self.epoch = epoch
        self.before, self.now = {}, {}

    @override
    def after_step(self, run):
        head = run.model.classifier
        if run.epoch >= self.epoch:
            self.before = self.before or self.now
            with torch.no_grad():
                head.weight.copy_(-self.before["weight"])
                head.bias.copy_(-self.before["bias"])
        self.now = {name: parameter.detach().clone() for name, parameter in head.named_parameters()}


def test_early_stopping_restores_the_best_weights(make_run, train):
    run = make_run(Wreck(epoch=2), epochs=9, patience=2, learning_rate=0.1)
    cost, heard = train(run)
    scores = [values["train/validation_score"] for _, values in heard.epochs]
    best = max(scores)
    assert scores[2:] == [scores[2]] * (len(scores) - 2)
    assert scores[2] < best
    assert [epoch for epoch, _ in heard.epochs] == list(range(1, len(scores) + 1))
    assert len(scores) == scores.index(best) + 3  # two epochs without a better score
    assert cost.steps == 3 * len(scores)
    assert evaluate(run, "validation", [0]).scores[0]["score"] == best


def test_weights_after_early_stopping_are_those_of_the_best_epoch_to_the_bit(make_run, train, weights_of, monkeypatch):
    scores, kept = iter([0.5, 0.9, 0.9, 0.2]), []

    def score(run):
        kept.append(weights_of(run.network.model))
        return next(scores)

    monkeypatch.setattr(early_stopping, "validation_score", score)
    run = make_run(epochs=9, patience=2)
    cost, _ = train(run)
    assert (cost.steps, len(kept)) == (12, 4)
    ended = weights_of(run.network.model)
    assert all(torch.equal(ended[name], value) for name, value in kept[1].items())
    assert not all(torch.equal(ended[name], value) for name, value in kept[3].items())


def test_without_patience_nothing_is_validated(make_run, train):
    _, heard = train(make_run(epochs=2))
    assert heard.epochs == []


def test_validation_leaves_the_training_as_it_is(make_run, train, watching):
    """Patience that never runs out: the same batches and dropout as without, up to the best epoch's weights."""
    watches = [watching(), watching()]
    for watch, patience in zip(watches, (None, 50), strict=True):
        train(make_run(watch, epochs=3, patience=patience, dropout=0.3))
    assert watches[0].batches == watches[1].batches
    assert watches[0].losses == watches[1].losses
