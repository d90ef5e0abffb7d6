"""What may be handed over from Python in place of names, and what is said of the rest."""

import numpy as np
import pytest

import cl_mlm
from cl_mlm.errors import ConfigError
from cl_mlm.experiment.handed_over import strategy_objects
from cl_mlm.strategy import Strategy
from strategies.replay import Replay


class Plain(Strategy):
    """Does nothing."""


class Needy(Strategy):
    """Needs two arguments."""

    def __init__(self, weight, *, path):
        self.weight, self.path = weight, path


class Forgetful(Strategy):
    """Does not keep its argument."""

    def __init__(self, weight=1):
        self.mine = weight


def test_classes_and_single_strategies_are_taken():
    assert [type(s) for s in strategy_objects([Plain, Replay(capacity=3)])] == [Plain, Replay]
    assert [s.capacity for s in strategy_objects(Replay(capacity=3))] == [3]
    assert [type(s) for s in strategy_objects(Plain)] == [Plain]
    assert strategy_objects([]) is strategy_objects(["replay"]) is strategy_objects(None) is None


def watched():
    strategy = Plain()
    strategy.after_stage = print
    return strategy


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (5, r"strategies: must be strategies or their names, got 5 \(int\)"),
        ([5], "strategies: must be strategies or their names, got 5; a strategy's class is a subclass"),
        ([None], "got None"),
        ([dict], "got <class 'dict'>"),
        (dict, "got <class 'dict'>"),
        ([print], "got <built-in function print>"),
        (["replay", Plain], "must be all objects or all names"),
        (Needy, r"Needy needs arguments, so give an object: Needy\(weight=..., path=...\)"),
        (Forgetful(), r"Forgetful must keep its arguments \['weight'\]"),
        (watched(), "Plain: hooks must be methods of the class, .* got after_stage set on the object"),
        (Needy(np.float32(1), path="x"), r"strategies\.needy\.weight: must be a plain value .* got float32"),
        (Needy([print], path={"a": 1}), "strategies.needy.weight: must be a plain value .* got list"),
    ],
)
def test_what_is_no_strategy_is_told(given, said, fast):
    with pytest.raises(ConfigError, match=said):
        cl_mlm.run(fast, strategies=given)


def test_a_hook_on_the_object_counts_as_its_own():
    assert watched().overrides("after_stage")
    assert not Plain().overrides("after_stage")


def my_stream():
    return None


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (my_stream, r"stream: must be a Stream, a name or a section, got the function; call it: stream=my_stream\(\)"),
        ([1], "stream: must be a Stream, a name or a section, got list; cl_mlm.data.by_labels"),
    ],
)
def test_what_is_no_stream_is_told(stream, said, fast):
    with pytest.raises(ConfigError, match=said):
        cl_mlm.run(fast, stream=stream)


@pytest.mark.parametrize("config", [None, ["a"], 3])
def test_what_is_no_config_is_told(config):
    with pytest.raises(ConfigError, match="config: must be a YAML file or a mapping of settings, got"):
        cl_mlm.run(config)
