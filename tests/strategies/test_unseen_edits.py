"""What a strategy does behind the back of a run: edits in place, odd errors, weights that are no numbers."""

import errno
import sys
from contextlib import contextmanager
from fractions import Fraction

import pytest
import torch

from cl_mlm.errors import ClMlmError, OwnCodeError, StorageError, TrainingError
from cl_mlm.strategy import Strategy
from cl_mlm.training.evaluation import evaluate

SHORT = {"rows": 4, "epochs": 1, "batch_size": 4}


def strategy(hook, work):
    """Returns a strategy of a class whose `hook` is `work(self, *arguments)`."""
    return type("Own", (Strategy,), {hook: work, "__module__": "mine"})()


@pytest.fixture
def error(make_run, train):
    """Trains and scores a stage with a strategy whose hook is given; returns the error that ends this."""

    def work_on(run):
        train(run)
        evaluate(run, "test", [0])

    def of(hook, work, **settings):
        run = make_run(strategy(hook, work), **{**SHORT, **settings})
        with pytest.raises(ClMlmError) as caught:
            work_on(run)
        return caught.value

    return of


def fill(batch, name):
    batch.inputs[name].fill_(1)


EDITS = [
    ("loss_terms", lambda self, run, batch, outputs: fill(batch, "input_ids") or {}, "batch.inputs['input_ids']"),
    ("loss_terms", lambda self, run, batch, outputs: batch.targets.zero_() is None or {}, "batch.targets"),
    ("loss_terms", lambda self, run, batch, outputs: outputs.logits.mul_(2) is None or {}, "outputs.logits"),
    ("loss_terms", lambda self, run, batch, outputs: batch.inputs.pop("attention_mask") is None or {}, "attention"),
    ("allowed_classes", lambda self, run, batch: fill(batch, "attention_mask"), "batch.inputs['attention_mask']"),
    ("allowed_classes", lambda self, run, batch: batch.inputs.update(input_ids=None), "batch.inputs['input_ids']"),
    ("memory", lambda self, run, batch: fill(batch, "input_ids") or (), "batch.inputs['input_ids']"),
    ("memory", lambda self, run, batch: (fill(batch, "input_ids") or (1, batch) for _ in "x"), "input_ids"),
]


@pytest.mark.parametrize(("hook", "work", "what"), EDITS)
def test_a_hook_that_edits_what_it_may_only_read_is_named(hook, work, what, error):
    found = str(error(hook, lambda self, *given: work(self, *given) or ({} if hook == "loss_terms" else None)))
    assert found.startswith(f"strategy mine.Own, hook {hook}, stage 'cold', step 1: must leave batch and outputs")
    assert what in found


def halve(self, run, *rest):
    with torch.no_grad():
        for parameter in run.trainable().values():
            parameter.mul_(0.5)
    return {}


def test_weights_that_are_edited_before_the_backward_pass_are_told_with_who_may_have(error):
    found = error("loss_terms", halve)
    assert "strategy mine.Own (loss_terms), stage 'cold': must leave batch, outputs and weights" in str(found)
    assert "inplace" in str(found.__cause__)


def drop(self, run, *rest):
    del run.model.classifier._parameters["bias"]


def drop_weight(self, run, *rest):
    del run.model.classifier._parameters["weight"]


def add(self, run, *rest):
    run.model.extra = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("hook", ["before_step", "after_step"])
@pytest.mark.parametrize(
    ("work", "words"),
    [(drop, "classifier.bias is gone"), (drop_weight, "classifier.weight is gone"), (add, "extra.weight is new")],
)
def test_a_model_whose_form_changes_in_the_steps_is_told_with_who_may_have(hook, work, words, error):
    for epochs in (1, 2):  # of the second step the model may not be capable
        found = str(error(hook, lambda self, run: None if run.step else work(self, run), epochs=epochs))
        assert f"strategy mine.Own ({hook}), stage 'cold': must leave the model's parameters" in found
        assert words in found


def test_any_real_number_is_a_weight_of_memory(make_run, train, weights_of):
    found = []
    for weight in (0.5, Fraction(1, 2)):
        run = make_run(strategy("memory", lambda self, run, batch, weight=weight: [(weight, batch)]), **SHORT)
        train(run)
        found.append(weights_of(run))
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def poison(self, run, *rest):
    with torch.no_grad():
        next(iter(run.trainable().values())).fill_(float("nan"))


@contextmanager
def poisoned(self, run, columns):
    kept = next(iter(run.trainable().values())).detach().clone()
    poison(self, run)
    yield
    with torch.no_grad():
        next(iter(run.trainable().values())).copy_(kept)


@pytest.mark.parametrize(
    ("hook", "work"), [("before_stage", poison), ("after_stage", poison), ("evaluation", poisoned)]
)
def test_weights_that_are_no_numbers_end_the_run_where_they_arise(hook, work, error):
    found = error(hook, work)
    assert isinstance(found, OwnCodeError)
    assert str(found).startswith(f"strategy mine.Own, hook {hook}, stage 'cold': must leave every weight finite; 1 are")


def test_predictions_that_are_no_numbers_are_no_scores(make_run, train):
    run = make_run(**SHORT)
    train(run)
    poison(None, run.network)
    with pytest.raises(TrainingError, match=r"scoring of test rows: the model predicts a probability that is nan"):
        evaluate(run, "test", [0])


def no_class(self, run, batch):
    return torch.zeros(len(batch), run.labels.num_classes, dtype=torch.bool)


NOT_A_NUMBER = [
    ("allowed_classes", no_class),
    ("loss_terms", lambda self, run, batch, outputs: {"x": outputs.logits.sum() * float("nan")}),
    ("adjust_gradients", lambda self, run: [p.grad.fill_(float("nan")) for p in run.trainable().values()] and {}),
    ("after_step", poison),
]


@pytest.mark.parametrize(("hook", "work"), NOT_A_NUMBER)
def test_who_may_have_made_a_loss_or_weights_no_number_is_worth_a_look(hook, work, error):
    assert f"Worth a look: {hook} of strategy own. What was measured" in str(error(hook, work))


class SilentError(Exception):
    def __str__(self):
        raise ValueError("no str")


def raise_(error):
    raise error


def test_an_error_that_cannot_be_shown_does_not_hide_its_hook(error):
    found = str(error("after_step", lambda self, run: raise_(SilentError())))
    assert found.startswith(
        f"strategy mine.Own, hook after_step, stage 'cold', step 1: raised SilentError ({__file__}:"
    )


@pytest.mark.parametrize("code", [0, 3, None, "bye"])
def test_a_hook_that_ends_the_process_is_told_as_one_that_raises(code, error):
    found = str(error("before_stage", lambda self, run, stage: sys.exit(code)))
    assert found.startswith("strategy mine.Own, hook before_stage, stage 'cold': raised SystemExit")


@pytest.mark.parametrize("wrap", [False, True])
def test_a_full_disk_of_the_users_own_file_is_told_with_the_hook(wrap, error):
    def work(self, run):
        fault = OSError(errno.ENOSPC, "No space left on device", "/nowhere/else")
        if wrap:
            raise ValueError("mine") from fault
        raise fault

    found = error("after_step", work)
    assert isinstance(found, StorageError)
    assert found.lacks_room
    assert str(found).startswith(f"strategy mine.Own, hook after_step, stage 'cold', step 1 ({__file__}:")
    assert "cannot write '/nowhere/else': the disk is full" in str(found)
