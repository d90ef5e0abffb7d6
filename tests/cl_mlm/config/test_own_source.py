"""Which edits change the digests of own code: of files and what they import, of cells and what they reach."""

import functools
import importlib
import re
import sys
import types

import pytest

from cl_mlm.config.own_source import outdated, own_source
from strategies.replay import Replay

MINE = """
from cl_mlm.strategy import Strategy

class Mine(Strategy):
    def after_step(self, run):
        return 1
"""
IMPORTED = 'from importlib import import_module\ndef f(): return import_module(".inner", __package__)'


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes modules into a folder on the path and returns `Mine` of the first one, freshly imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def write_and_import(**sources):
        for name, source in sources.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        forget()
        importlib.invalidate_caches()
        name = next(iter(sources)).replace("__", ".")
        return importlib.import_module(name).Mine

    def forget():
        for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(tmp_path))]:
            del sys.modules[name]

    yield write_and_import
    forget()


def test_the_projects_own_code_has_no_part():
    assert own_source([Replay]) == {}


def test_a_class_counts_by_its_file(write):
    before = own_source([write(mine_a=MINE)])
    assert list(before) == ["mine_a"]
    assert own_source([write(mine_a=MINE)]) == before
    assert own_source([write(mine_a=MINE + "\nx = 1\n")]) != before


@pytest.mark.parametrize(
    "line",
    ["import helping", "from helping import rate", "import helping as h", "def f():\n    from helping import rate"],
)
def test_a_module_that_the_file_imports_counts_too(write, line):
    before = own_source([write(mine_a=f"{line}\n{MINE}", helping="rate = 1\n")])
    after = own_source([write(mine_a=f"{line}\n{MINE}", helping="rate = 2\n")])
    assert [name for name in before if before[name] != after[name]] == ["helping"]


@pytest.mark.parametrize(
    "line",
    [
        'import importlib\nhelp = importlib.import_module("helping")',
        'from importlib import import_module\ndef f(): return import_module(name="helping")',
        'help = __import__("helping")',
        'import importlib\nhelp = importlib.import_module("help" + "ing")',
    ],
)
def test_a_module_that_the_file_imports_by_a_call_counts_too(write, line):
    before = own_source([write(mine_a=f"{line}\n{MINE}", helping="rate = 1\n")])
    after = own_source([write(mine_a=f"{line}\n{MINE}", helping="rate = 2\n")])
    assert [name for name in before if before[name] != after[name]] == ["helping"]


@pytest.mark.parametrize(
    "line", ["from . import inner", "from .inner import rate", "from mypack.inner import rate", IMPORTED]
)
def test_a_module_beside_it_in_a_package_counts_too(write, line):
    before = own_source([write(mypack__mine=f"{line}\n{MINE}", mypack__inner="rate = 1\n")])
    after = own_source([write(mypack__mine=f"{line}\n{MINE}", mypack__inner="rate = 2\n")])
    assert [name for name in before if before[name] != after[name]] == ["mypack.inner"]


def test_modules_that_import_each_other_are_followed_once(write):
    found = own_source(
        [write(mine_a=f"import helping\n{MINE}", helping="import deeper, torch", deeper="import mine_a")]
    )
    assert list(found) == ["deeper", "helping", "mine_a"]


def test_a_base_class_in_another_file_counts_too(write):
    derived = "import basic\nclass Mine(basic.Mine):\n    pass\n"
    before = own_source([write(mine_a=derived, basic=MINE)])
    assert own_source([write(mine_a=derived, basic=MINE.replace("1", "2"))]) != before


def made(source, **scope):
    """Returns `Mine` as a cell of a notebook makes it, without source; `scope` is what other cells hold."""
    exec(compile(MINE.replace("return 1", source), "<cell>", "exec"), scope)
    return scope["Mine"]


def test_a_class_without_a_file_counts_by_what_it_does():
    assert own_source([made("return 1")]) == own_source([made("\n\n        # why\n        return 1")])
    assert own_source([made("return 2")]) != own_source([made("return 1")])


@pytest.mark.parametrize("name", ["__main__", "a_notebook", "strategies.replay"])
def test_it_does_not_matter_which_name_its_module_bears(name):
    first, second = (own_source([made(f"return {i}", __name__=name)]) for i in (1, 2))
    assert first != second
    assert list(first) == [f"{name}.Mine"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, 2),
        ([1], [1, 2]),
        ({"a": 1}, {"a": 2}),
        ({"a"}, {"b"}),
        (functools.partial(print, 1), functools.partial(print, 2)),
        (re.compile("a"), re.compile("b")),
        (types.SimpleNamespace(rate=1), types.SimpleNamespace(rate=2)),
    ],
)
def test_what_a_class_without_a_file_reaches_by_name_counts(first, second):
    digests = [own_source([made("return rate", rate=rate)]) for rate in (first, second)]
    assert digests[0] != digests[1]


def test_an_array_counts_by_its_numbers():
    import numpy as np
    import torch

    for array in (np.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16)):
        other = array + 1
        assert own_source([made("return rate", rate=array)]) != own_source([made("return rate", rate=other)])


def test_a_function_of_another_cell_counts():
    def with_function(value):
        scope = {}
        exec(f"def rate(): return {value}", scope)
        return own_source([made("return rate()", **scope)])

    assert with_function(1) == with_function(1) != with_function(2)


def test_what_a_class_without_a_file_does_not_use_does_not_count():
    assert own_source([made("return run.rate", rate=1, x=1)]) == own_source([made("return run.rate", rate=2)])


def test_a_base_class_and_a_decorator_without_a_file_count():
    def derived(value):
        scope = {"Base": made(f"return {value}")}
        exec("class Mine(Base):\n    def x(self): pass\n", scope)
        return own_source([scope["Mine"]])

    def decorated(value):
        scope = {}
        exec(
            "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def g(*a):\n"
            f"        return f(*a), {value}\n    return g\n",
            scope,
        )
        exec("class Mine:\n    @twice\n    def x(self): pass\n", scope)
        return own_source([scope["Mine"]])

    assert derived(1) != derived(2)
    assert decorated(1) != decorated(2)


@pytest.mark.parametrize("line", ["import helping", "from helping import rate"])
def test_a_file_that_a_class_without_one_uses_counts(write, tmp_path, line):
    found = []
    for value in (1, 2):
        write(mine_a=MINE, helping=f"def rate(): return {value}\n")
        scope = {}
        exec(line, scope)
        found.append(own_source([made("return helping.rate()" if "from" not in line else "return rate()", **scope)]))
    assert {name for name in found[0] if found[0][name] != found[1][name]} == {"helping"}


def test_a_value_that_a_class_encloses_counts(write):
    source = f"def make(size):\n    class Mine:\n        def x(self): return size\n    return Mine\n{MINE}"
    write(mine_a=source)
    make = sys.modules["mine_a"].make
    assert own_source([make(1)]) != own_source([make(2)])


def test_a_method_put_into_a_class_elsewhere_counts(write):
    kind = write(mine_a=MINE)
    before = own_source([kind])
    kind.after_step = lambda self, run: 3
    assert own_source([kind]) != before


@pytest.mark.parametrize("edit", [("return 1", "return 2"), ("X = 1", "X = 2")])
def test_a_file_edited_after_it_was_loaded_is_refused_until_it_is_loaded_again(write, tmp_path, edit):
    kind = write(mine_a=f"X = 1\n{MINE}")
    assert outdated([kind]) == []
    before = own_source([kind])
    (tmp_path / "mine_a.py").write_text(f"X = 1\n{MINE}".replace(*edit) + "# longer\n")
    assert own_source([kind]) == before
    (line,) = outdated([kind])
    assert line.startswith(f"mine_a: {tmp_path / 'mine_a.py'} was edited after Python had imported it")
    kind = importlib.reload(sys.modules["mine_a"]).Mine
    assert outdated([kind]) == []
    assert own_source([kind]) != before


def test_a_file_edited_before_it_was_first_looked_at_is_refused(write, tmp_path):
    kind = write(mine_a=MINE)
    (tmp_path / "mine_a.py").write_text(MINE.replace("return 1", "return 2"))
    assert len(outdated([kind])) == 1


def test_a_helper_edited_after_it_was_loaded_is_refused(write, tmp_path):
    kind = write(mine_a=f"import helping\n{MINE}", helping="rate = 1\n")
    assert outdated([kind]) == []
    (tmp_path / "helping.py").write_text("rate = 22\n")
    (line,) = outdated([kind])
    assert line.startswith("helping: ")


def test_the_digest_is_the_same_in_another_process(write, tmp_path):
    import subprocess

    source = MINE.replace("return 1", "return {'a', 'b', 'c'} | {(1, 2)}, run in {'x', 'y'}, rate, {'k', 'l'}")
    (tmp_path / "told.py").write_text(
        "from cl_mlm.config.own_source import own_source\n"
        f"scope = {{'rate': {{'p', 'q', 'r'}}}}\nexec({source!r}, scope)\nprint(own_source([scope['Mine']]))\n"
    )
    seen = {
        subprocess.run(
            [sys.executable, tmp_path / "told.py"],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
