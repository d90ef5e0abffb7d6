"""Rules of what a name in a config means."""

import sys
import textwrap

import pytest

from cl_mlm.config.components import find, make_objective, make_stream, names, parameters
from cl_mlm.errors import ConfigError
from cl_mlm.strategy import Strategy
from strategies.ewc import Ewc

MODULE = """
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stream

class Mine(Strategy):
    "Does nothing."

def one() -> Stream:
    return Stream("one", ())

def wrong() -> Stream:
    return 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's own, importable as `my_components`."""
    (tmp_path / "my_components.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "my_components.py"
    sys.modules.pop("my_components", None)


def package_of(tmp_path, monkeypatch, source):
    """Puts a strategy module `new` where `strategies` looks for its files."""
    import strategies

    (tmp_path / "new.py").write_text(textwrap.dedent(source))
    monkeypatch.setattr(strategies, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "strategies.new", raising=False)


def test_a_bare_name_means_the_class_of_its_file():
    assert find("strategy", "ewc") is Ewc


@pytest.mark.parametrize("name", names("strategy"))
def test_every_strategy_file_holds_one_strategy(name):
    assert issubclass(find("strategy", name), Strategy)


@pytest.mark.parametrize("name", names("stream"))
def test_every_stream_file_holds_one_factory(name):
    assert find("stream", name).__name__ == name


def test_private_modules_have_no_name():
    assert not [name for name in names("stream") if name.startswith("_")]


@pytest.mark.parametrize("name", ["os", "json", "_phrasebook_grammar", "../ewc", ".ewc", "ewc."])
def test_a_bare_name_never_leaves_the_package(name):
    with pytest.raises(ConfigError, match="no strategy is called"):
        find("strategy", name)


def test_an_unknown_name_is_told_with_the_nearest_and_all_known():
    with pytest.raises(
        ConfigError, match=r"no strategy is called 'repley' \(did you mean 'replay'\?\); allowed: .*ewc"
    ):
        find("strategy", "repley")


def test_a_dotted_path_is_imported(mine):
    assert find("strategy", "my_components.Mine").__name__ == "Mine"


def test_a_dotted_path_to_no_module_is_named():
    with pytest.raises(ConfigError, match=r"cannot import 'no_such_module' for 'no_such_module.Mine'"):
        find("strategy", "no_such_module.Mine")


def test_a_dotted_path_to_nothing_names_the_file_and_what_is_near(mine):
    with pytest.raises(ConfigError, match=r"my_components.py has no 'Mind' \(did you mean 'Mine'\?\)"):
        find("strategy", "my_components.Mind")


def test_what_is_no_strategy_is_refused_with_its_origin():
    with pytest.raises(ConfigError, match=r"must be a subclass of cl_mlm.Strategy, got <class .*JSONDecoder.*json"):
        find("strategy", "json.JSONDecoder")


def test_a_factory_that_returns_no_stream_is_refused_with_its_origin(mine):
    with pytest.raises(ConfigError, match=r"'my_components.wrong' must return a Stream, got int from .*my_components"):
        make_stream("my_components.wrong", {})


def test_a_factory_gets_its_arguments(data_folder):
    stream = make_stream("files", {"path": str(data_folder), "labels_per_stage": 1})
    assert len(stream) == 4


def test_two_public_classes_in_a_file_are_refused(tmp_path, monkeypatch):
    source = """
        from cl_mlm.strategy import Strategy
        class One(Strategy): "One."
        class Two(Strategy): "Two."
    """
    package_of(tmp_path, monkeypatch, source)
    with pytest.raises(ConfigError, match="must hold exactly one public strategy, found One, Two"):
        find("strategy", "new")


def test_imported_and_private_classes_do_not_count(tmp_path, monkeypatch):
    source = """
        from cl_mlm.strategy import Strategy
        class _Part: "Hidden."
        class New(Strategy): "New."
    """
    package_of(tmp_path, monkeypatch, source)
    assert find("strategy", "new").__name__ == "New"


def test_arguments_have_evaluated_annotations():
    assert parameters(Ewc)["rows"].annotation == int | None


def test_the_classification_objective_is_found_by_name():
    assert make_objective("classification", {}).name == "classification"
