"""Modules of one's own: where they are found, what is said where they are not, and what hides them."""

import sys
import textwrap

import pytest

from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError

STRATEGY = """
from own_helper import WEIGHT
from cl_mlm.strategy import Strategy

class Mine(Strategy):
    def __init__(self, weight: float = WEIGHT) -> None:
        self.weight = weight
"""


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    """Python looks for modules where it did, and forgets those of the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path):
    def make(folder, name="own_mine", text=STRATEGY):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(textwrap.dedent(text))
        (tmp_path / folder / "own_helper.py").write_text("WEIGHT = 2.0\n")
        return tmp_path / folder

    return make


@pytest.fixture
def config(fast, write_config, tmp_path):
    """A config file in the folder `beside`."""
    (tmp_path / "beside").mkdir()
    return write_config(tmp_path / "beside" / "exp.yaml", fast | {"strategies": ["own_mine.Mine"]})


def faults(*arguments, **named):
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments, **named)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("place", ["beside", "working", "code"])
def test_a_module_is_found_with_what_lies_beside_it(place, config, write, tmp_path, monkeypatch):
    folder = write(place)
    (tmp_path / "working").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "working")
    loaded = load_config(config, [f"code=[{folder}]"] if place == "code" else [])
    assert loaded.strategies == {"own_mine.Mine": {"weight": 2.0}}
    assert loaded.code == [str(folder)]
    assert sys.path[-1] == str(folder), "behind all others: it hides nothing"


def test_the_folder_is_no_part_of_what_makes_a_run(config, write):
    write("beside")
    loaded = load_config(config)
    assert "code" in loaded.to_dict()
    assert "code" not in loaded.identity()
    assert "code" not in load_config(config, ["strategies=[]"]).to_dict()


def test_a_resolved_config_finds_the_module_again_from_elsewhere(config, write, write_config, tmp_path, monkeypatch):
    write("beside")
    resolved = write_config(tmp_path / "resolved.yaml", load_config(config).to_dict())
    for name in ("own_mine", "own_helper"):
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not place.endswith("beside")])
    assert load_config(resolved).strategies == {"own_mine.Mine": {"weight": 2.0}}


def test_what_is_beside_the_config_comes_first(config, write, tmp_path, monkeypatch):
    write("beside")
    (write("working") / "own_helper.py").write_text("WEIGHT = 3.0\n")
    monkeypatch.chdir(tmp_path / "working")
    assert load_config(config).strategies["own_mine.Mine"]["weight"] == 2.0


def test_two_modules_of_one_name_are_told(config, write, fast, write_config):
    write("beside")
    load_config(config)
    other = write_config(write("other") / "exp.yaml", fast | {"strategies": ["own_mine.Mine"]})
    said = faults(other)
    assert "code: Python knows another module 'own_mine'" in said
    assert "other/own_mine.py cannot be meant by it; give that file another name" in said


@pytest.mark.parametrize(("name", "hidden_by"), [("json", "json"), ("streams", "streams"), ("pytest", "pytest")])
def test_a_module_named_like_an_installed_one_is_told(name, hidden_by, config, write):
    write("beside", name)
    said = faults(config, [f"strategies=[{name}.Mine]"])
    assert f"code: Python knows another module '{name}' (" in said
    assert f"beside/{name}.py cannot be meant by it; give that file another name" in said
    assert hidden_by in sys.modules


def test_streams_and_objectives_are_found_too(fast, write, write_config, tmp_path):
    write("beside", "own_stream", "def rows(size: int = 3) -> int: return size")
    stream = {"name": "own_stream.rows", "size": 4}
    path = write_config(tmp_path / "beside" / "exp.yaml", fast | {"stream": stream})
    assert load_config(path).stream["size"] == 4
    write("beside", "own_kind", "class Kind: pass")
    stages = [{"path": "a", "objective": "own_kind.Kind"}]
    section = {**fast["stream"], "stages_by": "files", "stages": stages}
    del section["labels_per_stage"], section["order_seed"]
    path = write_config(tmp_path / "beside" / "exp.yaml", fast | {"stream": section})
    assert load_config(path).code == [str(tmp_path / "beside")]


def test_a_module_that_is_nowhere_is_told_where_it_would_be_found(config):
    said = faults(config)
    assert said.startswith("strategies.own_mine.Mine: cannot import 'own_mine' for 'own_mine.Mine'")
    assert "a module of your own is found beside the config, in the working folder, and in the folders" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import own_nowhere", "No module named 'own_nowhere'"),
        ("x = 1\ny = z", "own_mine.py:2: NameError: name 'z' is not defined"),
        ("def (", "own_mine.py:1: SyntaxError: invalid syntax"),
        ("from own_helper import nothing", "own_mine.py:1: ImportError: cannot import name 'nothing'"),
        ("def f():\n    raise OSError('no')\nf()", "own_mine.py:2: OSError: no"),
    ],
)
def test_a_fault_in_a_module_is_told_with_its_line(text, said, config, write):
    write("beside", text=text)
    found = faults(config)
    assert said in found
    assert "a module of your own is found" not in found


@pytest.mark.parametrize("name", ["__main__.Mine", "a.f.<locals>.Mine"])
def test_a_class_that_only_a_notebook_knows_is_told(name, config):
    assert "was defined in a notebook, a script or a function" in faults(config, [{"strategies": [name]}])


def test_a_stream_that_was_an_object_is_told(fast, write_config, tmp_path):
    section = {"name": "small", "overlap": "error", "fingerprint": "ab"}
    path = write_config(tmp_path / "config.yaml", fast | {"stream": section})
    assert "stream: 'small' was handed over from Python as an object, which no name finds" in faults(path)
