"""An objective or stream of a user's own that raises or breaks a rule: what is said names it and the user's line."""

import re

import numpy as np
import pytest
import torch

from cl_mlm.batch import Predictions
from cl_mlm.config.components import make_objective, make_stream
from cl_mlm.config.own_objectives import METHODS, watched
from cl_mlm.errors import ConfigError, DataError, OwnCodeError
from cl_mlm.objectives.classification import Classification

ROWS = {"text": ["a b", "c"], "label": ["x", "y"]}


def own(**methods):
    return watched(type("Own", (Classification,), {"__module__": "mine", **methods})())


def boom(self, *arguments, **named):
    raise KeyError("label")


@pytest.mark.parametrize("name", sorted({*METHODS} - {"options"}))
def test_a_method_that_raises_is_named_with_its_line_and_its_error(name):
    with pytest.raises(OwnCodeError) as caught:
        getattr(own(**{name: boom}), name)(ROWS)
    line = boom.__code__.co_firstlineno + 1
    assert re.match(
        rf"objective mine\.Own, method {name}: raised KeyError: 'label' \({re.escape(__file__)}:{line}, in boom\); ",
        str(caught.value),
    )
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_a_method_yields_is_watched_too():
    def encode_split(self, chunks, *rest):
        yield {"input_ids": [[1]]}
        raise ValueError("later")

    found = own(encode_split=encode_split).encode_split([ROWS], None, {}, 8)
    assert next(found) == {"input_ids": [[1]]}
    with pytest.raises(OwnCodeError, match="method encode_split: raised ValueError: later"):
        next(found)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("validate", "no text", "must be a list of texts, got 'no text'"),
        ("validate", None, "must be a list of texts, got None"),
        ("key", ["a"], "must be a list of 2, one for each row"),
        ("key", [1, 2], "must be a list of texts"),
        ("references", ["x"], "must be a list of 2, one for each row"),
        ("labels_of", ["x", "y"], "must be a list of labels for each row, not one label"),
        ("encode", {}, "must be columns, each a list of 2"),
        ("encode", {"input_ids": [[1]]}, "must be columns, each a list of 2"),
        ("encode", [[1], [2]], "must be columns, each a list of 2"),
        ("loss", torch.zeros(()), r"must be a float tensor of shape \(2,\), got a tensor of shape \(\)"),
        ("loss", torch.zeros(3), r"must be a float tensor of shape \(2,\)"),
        ("loss", [0.0, 0.0], r"must be a float tensor of shape \(2,\)"),
        ("predict", ["x", "y"], "must be Predictions with 2 values, one for each row"),
        ("predict", Predictions(["x"]), "must be Predictions with 2 values, one for each row"),
        ("predict", Predictions(["x", "y"], torch.zeros(2, 3)), r"probabilities must be tensors of shape \(2,\)"),
        ("score", 0.5, "must be numbers by name, `score` among them"),
        ("score", {"accuracy": 0.5}, "must be numbers by name, `score` among them"),
        ("score", {"score": "high"}, "must be numbers by name, `score` among them"),
        ("score", {"score": float("nan")}, "`score` must be in 0-1"),
        ("score", {"score": 97.0}, "`score` must be in 0-1"),
        ("sites", None, "must be Sites"),
        ("varied", None, "must be Batch"),
        ("collate", {}, "must be a Batch with ids and count of 2 rows"),
    ],
)
def test_what_breaks_the_rule_of_its_method_is_refused(name, value, rule):
    two = {"loss": (None, ROWS["text"]), "predict": (None, ROWS["text"]), "collate": ({}, [0, 1], None)}
    with pytest.raises(OwnCodeError, match=rf"objective mine\.Own, method {name}: {rule}"):
        getattr(own(**{name: lambda self, *arguments: value}), name)(*two.get(name, (ROWS, ROWS, [])))


def test_scores_and_predictions_that_keep_their_rules_are_taken():
    good = {"score": np.float64(1.0), "errors": 3}
    assert own(score=lambda self, *arguments: good).score([], [], []) is good
    predicted = Predictions(["x", "y"], torch.zeros(2))
    assert own(predict=lambda self, *arguments: predicted).predict(None, ["a", "b"]) is predicted


@pytest.mark.parametrize(
    ("attributes", "rule"),
    [
        ({"columns": "text"}, "columns must be a tuple of texts, got 'text'"),
        ({"heads": "sequence"}, "heads must be a tuple of texts, got 'sequence'"),
        ({"heads": ("classifier",)}, "heads must be some of sequence, token"),
        ({"heads": ()}, "heads must be some of sequence, token"),
        ({"reference_columns": (1,)}, "reference_columns must be a tuple of texts"),
    ],
)
def test_attributes_of_other_types_are_refused(attributes, rule):
    with pytest.raises(ConfigError, match=rule):
        own(**attributes)


def test_the_projects_own_objectives_are_left_as_they_are():
    assert not {*METHODS} & {*vars(make_objective("classification", {}))}


MODULE = """
from cl_mlm.stream import Stage, Stream

def raises(*, rows: int = 3):
    return {}["train"]

def yields(*, rows: int = 3):
    yield Stream("x", ())

def lists(*, rows: int = 3):
    stage = Stage("one", [{"text": "a"}], [], [], ("x",))
    return Stream("x", (stage,))

def nothing(*, rows: int = 3):
    pass
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_broken_streams.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_broken_streams"


def test_a_stream_function_that_raises_is_named_with_its_line(module, tmp_path):
    place = re.escape(str(tmp_path / "my_broken_streams.py"))
    rule = rf"stream my_broken_streams\.raises: raised KeyError: 'train' \({place}:5, in raises\); see docs"
    with pytest.raises(OwnCodeError, match=rule):
        make_stream(f"{module}.raises", {})


@pytest.mark.parametrize(("name", "kind"), [("yields", "generator"), ("nothing", "NoneType")])
def test_a_stream_function_that_returns_no_stream_is_refused(module, name, kind):
    with pytest.raises(ConfigError, match=f"{module}.{name}' must return a Stream, got {kind}"):
        make_stream(f"{module}.{name}", {})


def test_a_stream_whose_splits_are_no_data_sets_is_refused(module):
    from cl_mlm.data.stream_building import make_base

    with pytest.raises(DataError, match=r"stage 'one' train: must be a datasets.Dataset, got list"):
        make_base({"name": f"{module}.lists"})
