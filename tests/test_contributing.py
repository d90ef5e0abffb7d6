"""The examples of CONTRIBUTING.md are real: strategy, stream and their tests are run as they stand there."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cl_mlm
from cl_mlm.config.components import find
from cl_mlm.stream import Stream

# MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

ROOT = Path(__file__).parents[1]
TEXT = ROOT / "CONTRIBUTING.md"
FENCE = re.compile(r"^```python\n# (strategies|streams)/(\w+)\.py\b.*?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ANY_FILE = re.compile(r"^```python\n(# ([\w/]+\.py)\n.*?)^```$", re.DOTALL | re.MULTILINE)
MAX_EXAMPLE_LINES = 40
MAX_LINES = 80


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


@pytest.fixture
def written(tmp_path):
    """A copy of what a contributor adds to, with every example in its place; returns the folder and the new files."""
    for name in ("strategies", "streams", "tests/strategies"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "test_*.py"))
    (tmp_path / "cl_mlm").symlink_to(ROOT / "cl_mlm")
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    new = {path: text.partition("\n")[2] for text, path in ANY_FILE.findall(TEXT.read_text())}
    for path, text in new.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path, list(new)


def run_in(folder, *arguments):
    """Runs a module of Python in a folder, whose packages come before those of the project."""
    paths = os.pathsep.join([str(folder), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "MYPYPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_each_example_has_a_test(written):
    _, files = written
    tests = [path for path in files if path.startswith("tests/")]
    sources = [Path(path) for path in files if path not in tests]
    assert sorted(tests) == sorted(f"tests/{path.parent}/test_{path.name}" for path in sources)


def test_the_example_tests_pass(written):
    folder, files = written
    tests = [path for path in files if path.startswith("tests/")]
    said = run_in(folder, "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert f"{len(tests)} passed" in said


def test_the_examples_pass_the_linter(written):
    folder, files = written
    run_in(folder, "ruff", "check", "--no-cache", *files)
    run_in(folder, "ruff", "format", "--check", "--no-cache", *files)


@pytest.mark.slow
def test_the_examples_pass_the_type_checker(written):
    folder, files = written
    run_in(folder, "mypy", "--cache-dir", "mypy", *(path for path in files if not path.startswith("tests/")))


def test_the_page_is_short():
    assert len(TEXT.read_text().splitlines()) <= MAX_LINES
