"""A strategy that raises or breaks a rule: the message names strategy, hook, stage, rule, value and the user's line."""

import random
import re
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

import numpy as np
import pytest
import torch

from cl_mlm.errors import OwnCodeError, SignalExit
from cl_mlm.strategy import ParameterSettings, Strategy
from cl_mlm.stream import pack_row_ids
from cl_mlm.training import hooks

SHORT = {"rows": 4, "epochs": 1, "batch_size": 4}
EVERY_STEP = (
    "before_step",
    "allowed_classes",
    "memory",
    "loss_terms",
    "observe_gradients",
    "adjust_gradients",
    "after_step",
)
HOOKS = (
    "training_data",
    "before_stage",
    "parameter_settings",
    *EVERY_STEP,
    "after_stage",
    "evaluation",
    "buffer_bytes",
    "state_dict",
)


def strategy(hook, work):
    """Returns a strategy of a class whose `hook` is `work(self, *arguments)`."""
    return type("Own", (Strategy,), {hook: work, "__module__": "mine"})()


@pytest.fixture
def error(make_run, train):
    """Trains two stages with a strategy whose hook is given, keeps it, and returns the error that ends this."""

    def work_on(run):
        train(run)
        hooks.states_of(run)
        hooks.buffer_bytes(run, run.strategies[0])

    def of(hook, work):
        run = make_run(strategy(hook, work), **SHORT)
        with pytest.raises(OwnCodeError) as caught:
            work_on(run)
        return caught.value

    return of


@pytest.fixture
def fault(error):
    """Returns the message of that error."""
    return lambda hook, work: str(error(hook, work))


def boom(self, *arguments):
    raise ValueError("boom\nand more")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_is_named_with_its_line_and_its_error(hook, error):
    found = error(hook, boom)
    step = ", step 1" if hook in EVERY_STEP else ""
    line = boom.__code__.co_firstlineno + 1
    place = rf"\({re.escape(__file__)}:{line}, in boom\)"
    expected = rf"strategy mine\.Own, hook {hook}, stage '.+'{step}: raised ValueError: boom {place}; see docs/.+\.md"
    assert re.match(expected, str(found))
    assert isinstance(found.__cause__, ValueError)


def test_an_error_deep_in_a_library_is_told_with_the_users_own_line(fault):
    def work(self, run, batch, outputs):
        return {"x": torch.nn.functional.linear(torch.zeros(2, 3), torch.zeros(2, 2)).sum()}

    assert f"{__file__}:{work.__code__.co_firstlineno + 1}, in work" in fault("loss_terms", work)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SignalExit, MemoryError])
def test_ctrl_c_signals_and_a_lack_of_memory_pass_as_they_are(kind, make_run, train):
    def work(self, run):
        raise kind

    with pytest.raises(kind):
        train(make_run(strategy("after_step", work), **SHORT))


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    first: int


def nested(depth):
    return [nested(depth - 1)] if depth else []


def first(tensor_of):
    """Returns a hook that names one value, made of the run."""
    return lambda self, run, *rest: {"x": tensor_of(run)}


SETTINGS = [
    ([], "must be a mapping by name", "[]"),
    ({"no.such": ParameterSettings()}, "must name trainable parameters (`run.trainable()`)", "'no.such'"),
    ({"classifier.bias": 2.0}, "must hold a `cl_mlm.strategy.ParameterSettings`", "2.0"),
    ({"classifier.bias": ParameterSettings(-1.0)}, "classifier.bias: lr_factor must be a finite number from 0", "-1.0"),
    ({"classifier.bias": ParameterSettings(1.0, float("nan"))}, "classifier.bias: weight_decay must be", "nan"),
]


@pytest.mark.parametrize(("given", "rule", "value"), SETTINGS)
def test_settings_of_parameters_that_break_a_rule_are_refused(given, rule, value, fault):
    message = fault("parameter_settings", lambda self, run: given)
    assert "hook parameter_settings, stage 'cold'" in message
    assert rule in message
    assert value in message.partition(", got ")[2]


ROWS = [
    (
        lambda run: run.training_ids.astype(np.int32),
        "must be row ids, a NumPy array of int64",
        "an array of shape (4,)",
    ),
    (lambda run: run.training_ids.astype(float), "must be row ids", "float64"),
    (lambda run: run.training_ids[:, None], "must be row ids", "shape (4, 1)"),
    (lambda run: torch.from_numpy(run.training_ids), "must be row ids", "a tensor of shape (4,), int64 on cpu"),
    (lambda run: run.training_ids.tolist(), "must be row ids", "(list)"),
    (lambda run: run.training_ids + 4, "must name training rows that there are, of stages 0 to 1", "an array"),
    (lambda run: -run.training_ids - 1, "must name training rows that there are", "an array"),
    (lambda run: pack_row_ids(7, [0]), "must name training rows that there are", "an array"),
    (lambda run: pack_row_ids(1, [0]), "must name rows of this stage (0) or earlier ones, unless `needs`", "an array"),
]


@pytest.mark.parametrize(("ids_of", "rule", "value"), ROWS)
def test_ids_that_are_none_of_rows_to_train_on_are_refused(ids_of, rule, value, fault):
    class Now:
        training_ids = pack_row_ids(0, range(4))

    message = fault("training_data", lambda self, run, stage: ids_of(Now))
    assert "hook training_data" in message
    assert rule in message
    assert value in message.partition(", got ")[2]
    uses = {name: lambda run, name=name: getattr(run, name)(ids_of(Now)) for name in ("rows", "lengths", "by_task")}
    for ask in (*uses.values(), lambda run: list(run.batches(ids_of(Now), 2))):
        message = fault("memory", lambda self, run, batch, ask=ask: ask(run))
        assert f"hook memory, stage 'cold', step 1: the ids asked for {rule}" in message
        assert f"({__file__}:" in message


def test_rows_that_a_stream_withholds_are_refused(make_run, train):
    run = make_run(strategy("training_data", lambda self, run, stage: pack_row_ids(0, [0])), **SHORT)
    object.__setattr__(run.stream, "withheld", ("old_rows",))
    with pytest.raises(OwnCodeError, match="holds old_rows"):
        train(run)


def test_a_row_is_trained_on_as_often_as_it_is_named_and_a_stage_may_have_none(make_run, train):
    run = make_run(strategy("training_data", lambda self, run, stage: pack_row_ids(0, [1, 1, 1])), **SHORT)
    assert train(run).examples == 6
    run = make_run(strategy("training_data", lambda self, run, stage: pack_row_ids(0, [])), **SHORT)
    assert train(run).examples == 0
    assert run.cost.flags == ["trained on no rows: 0 steps"]


RETURNED = [
    ("allowed_classes", lambda self, run, batch: torch.ones(4, 2), "must be None or a bool tensor"),
    ("allowed_classes", lambda self, run, batch: [[True, True]] * 4, "must be None or a bool tensor"),
    ("allowed_classes", lambda self, run, batch: torch.ones(3, 2, dtype=torch.bool), "4 rows here"),
    ("allowed_classes", lambda self, run, batch: torch.ones(4, 9, dtype=torch.bool), "2 classes known here"),
    ("allowed_classes", lambda self, run, batch: torch.ones(4, 2, dtype=torch.bool, device="meta"), "on cpu"),
    ("memory", lambda self, run, batch: None, "must be a list of pairs of a weight and a batch"),
    ("memory", lambda self, run, batch: batch, "must be a list of pairs"),
    ("memory", lambda self, run, batch: [batch], "must be pairs of a weight and a batch"),
    ("memory", lambda self, run, batch: [(1.0, run.training_ids)], "must be pairs of a weight and a batch"),
    ("memory", lambda self, run, batch: [(math_nan, batch)], "the weight of a batch must be a finite number, got nan"),
    ("memory", lambda self, run, batch: [("1", batch)], "the weight of a batch must be a finite number, got '1'"),
    ("memory", lambda self, run, batch: [(1.0, batch._piece(slice(0, 0)))], "a batch must have rows"),
    ("memory", lambda self, run, batch: (boom(self) for _ in "x"), "raised ValueError: boom"),
    ("loss_terms", lambda self, run, *rest: None, "must be a mapping by name; {} where there is nothing, got None"),
    ("loss_terms", lambda self, run, *rest: torch.zeros(()), "must be a mapping by name"),
    ("loss_terms", first(lambda run: torch.zeros(3)), "'x' must be a floating-point tensor without axes on cpu"),
    ("loss_terms", first(lambda run: torch.zeros(1)), "got a tensor of shape (1,), float32 on cpu"),
    ("loss_terms", first(lambda run: 3), "got 3 (int)"),
    ("loss_terms", first(lambda run: np.float32(3)), "'x' must be a floating-point tensor"),
    ("loss_terms", first(lambda run: torch.tensor(3)), "'x' must be a floating-point tensor"),
    ("loss_terms", first(lambda run: torch.zeros((), device="meta")), "got a tensor of shape (), float32 on meta"),
    ("loss_terms", lambda self, run, *rest: {3: torch.zeros(())}, "a value's name must be a printable text, got 3"),
    ("loss_terms", lambda self, run, *rest: {"a\nb": torch.zeros(())}, "a value's name must be a printable text"),
    ("loss_terms", lambda self, run, *rest: {" ": torch.zeros(())}, "a value's name must be a printable text"),
    ("adjust_gradients", lambda self, run: None, "must be a mapping by name"),
    ("adjust_gradients", lambda self, run: {"x": 0.5}, "'x' must be a floating-point tensor without axes"),
    ("evaluation", lambda self, run, columns: None, "must be a context manager"),
    ("evaluation", contextmanager(lambda self, run, columns: iter(())), "raised RuntimeError: generator didn't yield"),
    ("before_stage", lambda self, run, stage: (yield), "must be an ordinary function without `yield`"),
    ("after_stage", lambda self, run, stage: (yield), "must be an ordinary function without `yield`"),
    ("after_step", lambda self, run: (yield), "must be an ordinary function without `yield`"),
    ("buffer_bytes", lambda self, run: -1, "must be a whole number from 0, got -1"),
    ("buffer_bytes", lambda self, run: 1.5, "must be a whole number from 0, got 1.5"),
    ("state_dict", lambda self: [1], "must be a mapping by name"),
    ("state_dict", lambda self: {"f": boom}, "state/f: must be tensors and plain values only, got <function"),
    ("state_dict", lambda self: {"m": torch.nn.Linear(1, 1)}, "state/m: must be tensors and plain values only"),
    ("state_dict", lambda self: {"a": [{1}]}, "state/a/0: must be tensors and plain values only, got {1} (set)"),
    ("state_dict", lambda self: {"n": np.int64(1)}, "state/n: must be tensors and plain values only"),
    ("state_dict", lambda self: {"b": b"x"}, "state/b: must be tensors and plain values only"),
    ("state_dict", lambda self: {"t": datetime(2020, 1, 1, tzinfo=UTC)}, "state/t: must be tensors and plain"),
    ("state_dict", lambda self: {"e": Colour.RED}, "state/e: must be tensors and plain values only"),
    ("state_dict", lambda self: {"p": Pair(1)}, "state/p: must be tensors and plain values only"),
    (
        "state_dict",
        lambda self: {"o": np.array([None])},
        "state/o: must be numbers or bool in this machine's order of bytes",
    ),
    ("state_dict", lambda self: {"l": np.ones(3, np.longdouble)}, "state/l: must be numbers or bool in this"),
    ("state_dict", lambda self: {"l": [np.ones(3, ">f4")]}, "state/l/0: must be numbers or bool in this machine's"),
    ("state_dict", lambda self: {"l": np.ones(3, np.complex128)}, "state/l: must be numbers or bool in this"),
    ("state_dict", lambda self: {"c": torch.ones(3, dtype=torch.complex128)}, "state/c: must be a dense tensor"),
    ("state_dict", lambda self: {"\ud800": torch.ones(2)}, "keys must be texts"),
    ("state_dict", lambda self: {"n": 10**5000}, "state/n: must be tensors and plain values"),
    ("memory", lambda self, run, batch: [(10**400, batch)], "the weight of a batch must be a finite number"),
    ("memory", lambda self, run, batch: [(1j, batch)], "the weight of a batch must be a finite number, got 1j"),
    ("state_dict", lambda self: {"s": torch.eye(2).to_sparse()}, "state/s: must be a dense tensor"),
    ("state_dict", lambda self: {"k": {3: 1.0}}, "state/k: keys must be texts, which are read back as they are, got 3"),
    ("state_dict", lambda self: {"k": {"$tensor": "x"}}, "state/k: keys must be texts, which are read back"),
    ("state_dict", lambda self: {"d": nested(200)}, "must be nested at most 100 levels deep"),
]
math_nan = float("nan")


@pytest.mark.parametrize(("hook", "work", "rule"), RETURNED)
def test_what_breaks_the_rule_of_its_hook_is_refused(hook, work, rule, fault):
    message = fault(hook, work)
    assert message.startswith(f"strategy mine.Own, hook {hook}, stage '")
    assert rule in message
    assert "docs/how-to/own_strategy.md" in message.rpartition("; ")[2]


def freeze(self, run, stage):
    run.model.requires_grad_(requires_grad=False)


CHANGED = [
    ("before_stage", freeze, "must leave a parameter to train"),
    (
        "before_stage",
        lambda self, run, stage: setattr(run.model, "classifier", torch.nn.Identity()),
        "must leave the model's parameters their names, shapes, types and devices: classifier.weight is gone",
    ),
    (
        "after_stage",
        lambda self, run, stage: run.model.register_parameter("extra", torch.nn.Parameter(torch.zeros(2))),
        "extra is new, and no checkpoint would keep it",
    ),
    ("before_stage", lambda self, run, stage: run.model.double() and None, ", torch.float64 on cpu' (str)"),
    ("after_step", lambda self, run: run.model.eval() and None, "run.model.training must be True again"),
    ("after_step", lambda self, run: torch.set_grad_enabled(False) and None, "torch.is_grad_enabled() must be True"),
    ("after_stage", lambda self, run, stage: torch.set_default_dtype(torch.float64), "torch.get_default_dtype() must"),
    ("before_stage", lambda self, run, stage: torch.set_num_threads(3), "torch.get_num_threads() must be 1 again"),
    ("memory", lambda self, run, batch: torch.use_deterministic_algorithms(True) or (), "are_deterministic_alg"),
]


@pytest.fixture
def same_torch():
    """Leaves torch as it was."""
    kept = torch.get_num_threads()
    yield
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(kept)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("hook", "work", "rule"), CHANGED)
def test_a_hook_leaves_torch_and_the_form_of_the_model_as_they_were(hook, work, rule, fault, same_torch):
    message = fault(hook, work)
    assert f"hook {hook}" in message
    assert rule in message


def test_a_state_is_not_the_models_own_tensor_which_goes_on_changing(make_run, train):
    own = strategy("before_stage", lambda self, run, stage: setattr(self, "kept", run.trainable()))
    run = make_run(own, **SHORT)
    train(run, [0])
    for kept in (lambda p: p, torch.Tensor.detach, lambda p: p.detach().numpy(), lambda p: [p.detach()[:1]]):
        type(own).state_dict = lambda self, kept=kept: {"kept": {name: kept(p) for name, p in self.kept.items()}}
        with pytest.raises(OwnCodeError, match=r"state/kept/.*must be a copy \(`.detach\(\).clone\(\)`\)"):
            hooks.states_of(run)
    type(own).state_dict = lambda self: {"kept": {name: p.detach().clone() for name, p in self.kept.items()}}
    hooks.states_of(run)


def test_two_values_of_one_name_are_refused(make_run, train):
    class First(Strategy):
        def loss_terms(self, run, batch, outputs):
            return {"x": outputs.logits.sum()}

    class Second(Strategy):
        def adjust_gradients(self, run):
            return {"x": torch.zeros(())}

    with pytest.raises(OwnCodeError, match=r"Second, hook adjust_gradients.*must be its own; .*First, hook loss_terms"):
        train(make_run(First(), Second(), **SHORT))


def test_a_term_without_gradient_is_said_to_train_nothing(make_run, train):
    run = make_run(strategy("loss_terms", first(lambda run: torch.zeros(()))), **SHORT)
    train(run)
    assert run.cost.flags == ["strategy mine.Own: x has no gradient, so that it is logged and trains nothing"]


def shuffle_all(self, *arguments):
    """Seeds every global generator, and draws from it."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    torch.rand(3), random.random(), np.random.rand()


@pytest.mark.parametrize("hook", ["before_stage", "after_step", "after_stage"])
def test_a_seed_that_a_hook_sets_moves_no_draw_of_the_run(hook, assert_same_run):
    assert_same_run(strategy(hook, shuffle_all))


def test_gradients_that_a_hook_takes_away_move_nothing(make_run, train, weights_of):
    def work(self, run):
        for parameter in run.trainable().values():
            parameter.grad = None
        return {}

    run = make_run(strategy("adjust_gradients", work), **SHORT)
    run.place.stage_index = 0
    run.grow()
    before = weights_of(run)
    train(run, [0])
    assert all(torch.equal(before[name], value) for name, value in weights_of(run).items())


def test_an_error_of_scoring_passes_a_strategy_that_would_swallow_it(make_run, train, monkeypatch):
    class Swallows:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return True

    run = make_run(strategy("evaluation", lambda self, run, columns: Swallows()), **SHORT)
    monkeypatch.setattr("cl_mlm.training.evaluation.torch.inference_mode", lambda: boom(None))
    with pytest.raises(ValueError, match="boom"):
        train(run)


def test_a_tuple_in_a_state_comes_back_as_a_tuple(tmp_path):
    from cl_mlm.storage.state_files import read_entry, write_entry

    state = {"a": (1, [2, (3, "x")]), "t": (torch.ones(2),), "": {}, "a/b": None}
    write_entry(tmp_path / "entry", state)
    found = read_entry(tmp_path / "entry")
    assert found["a"] == state["a"]
    assert torch.equal(found["t"][0], torch.ones(2))
    assert found[""] == {}
