"""The example strategy and the example stream of CONTRIBUTING.md are real: they are run as they stand there."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import cl_mlm
from cl_mlm.config.components import find
from cl_mlm.stream import Stream

# MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

TEXT = Path(__file__).parents[1] / "CONTRIBUTING.md"
FENCE = re.compile(r"^```python\n# (strategies|streams)/(\w+)\.py\b.*?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MAX_EXAMPLE_LINES = 40


def examples(kind):
    """Returns the fenced examples of `strategies` or `streams`, module name to source."""
    assert TEXT.is_file(), "CONTRIBUTING.md is missing"
    return {name: source for folder, name, source in FENCE.findall(TEXT.read_text()) if folder == kind}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `contributed` with every example as a module; returns the dotted path of what a module holds."""
    folder = tmp_path / "contributed"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for kind in ("strategies", "streams"):
        for name, source in examples(kind).items():
            (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()

    def path_of(kind, name):
        module = importlib.import_module(f"contributed.{name}")
        own = [v for v in vars(module).values() if getattr(v, "__module__", "") == module.__name__]
        if kind == "strategy":
            (found,) = [v.__name__ for v in own if isinstance(v, type) and not v.__name__.startswith("_")]
        else:
            returned = {v.__name__: v.__annotations__.get("return") for v in own if callable(v)}
            (found,) = [k for k, v in returned.items() if v in ("Stream", Stream) and not k.startswith("_")]
        return f"contributed.{name}.{found}"

    yield path_of
    for name in [name for name in sys.modules if name.partition(".")[0] == "contributed"]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", ["strategies", "streams"])
def test_there_is_an_example_of_about_thirty_lines(kind):
    found = examples(kind)
    assert found, f"CONTRIBUTING.md has no ```python block that begins with `# {kind}/<name>.py`"
    assert all(len(source.splitlines()) <= MAX_EXAMPLE_LINES for source in found.values())


def test_the_example_strategies_train_two_stages(fast, package):
    for name in examples("strategies"):
        result = cl_mlm.run(fast, strategies=[package("strategy", name)])
        assert result.matrix.shape == (2, 2)
        assert result.summary["strategies"][0]["name"].startswith(f"contributed.{name}.")


def test_the_example_strategies_do_something(package):
    from cl_mlm.strategy import Strategy

    hooks = {name for name in vars(Strategy) if not name.startswith("_")}
    for name in examples("strategies"):
        strategy = find("strategy", package("strategy", name))
        assert hooks & set(vars(strategy)), f"{name} overrides no hook"


def test_the_example_streams_train(fast, package):
    for name in examples("streams"):
        fast["training"] = {"steps": 2, "batch_size": 4, "threads": 1, "device": "cpu"}
        result = cl_mlm.run(fast | {"stream": package("stream", name)})
        assert len(result.matrix) >= 2
        assert result.summary["stream"]["fingerprint"]


def test_an_example_strategy_runs_on_an_example_stream(fast, package):
    strategies = [package("strategy", name) for name in examples("strategies")]
    (stream, *_) = [package("stream", name) for name in examples("streams")]
    fast["training"] = {"steps": 2, "batch_size": 4, "threads": 1, "device": "cpu"}
    assert cl_mlm.run(fast | {"stream": stream, "strategies": strategies}).is_new
