"""The order of the rooms: imports point to the same room, a contract, or a lower room, and never run in a circle."""

import ast
import importlib
from pathlib import Path

import pytest

import cl_mlm

ROOT = Path(__file__).parents[1]
# From the lowest to the highest. Below all stand the contracts: the files directly in `cl_mlm/`.
ROOMS = (
    "scores",
    "tracking",
    "results",
    "config",
    "data",
    "models",
    "tokens",
    "prompting",
    "objectives",
    "mechanisms",
    "storage",
    "training",
    "experiment",
    "check",
    "cli",
)
DOOR = ("cl_mlm", "cl_mlm.__main__", "cl_mlm.api")  # what users import; above every room
FACES = ("cl_mlm.config", "cl_mlm.data", "cl_mlm.mechanisms")  # what those who write streams and strategies import
MOST_DOOR_FILES = 16
SAYS_NOTHING = {
    *("utils", "helpers", "common", "misc"),
    *("again", "answers", "parts", "rows", "texts", "words", "section", "soundness", "sameness", "delivery"),
    *("store", "plan", "view", "tables", "picking"),
}


PACKAGES = ("cl_mlm", "streams", "strategies")
BESIDE = ("streams", "strategies", "tests", "benchmarks")  # what the platform does not know


def modules(root):
    """Returns every module of the packages in the folder `root`, by its dotted name."""
    found = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    paths = {path: path.relative_to(root).with_suffix("").parts for path in found}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in paths.items()}


def asked_for(path, name, node):
    """Returns the dotted names that one node of a module's syntax tree imports, by a statement or by a call."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        start = ".".join(filter(None, [package if node.level else "", node.module or ""]))
        return [f"{start}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return [node.args[0].value] if called in ("import_module", "__import__") else []
    return []


def imports(root):
    """Returns the modules that each module imports, lazy imports and those for types included.

    What is of another package of the repository stays in as it is named.
    """
    known = modules(root)
    edges = {}
    for name, path in known.items():
        edges[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for asked in asked_for(path, name, node):
                target = asked
                while target and target not in known:
                    target = target.rpartition(".")[0]  # `a.b.Name` is of the module `a.b`
                if not target and asked.partition(".")[0] in BESIDE:
                    target = asked
                if target and target != name:
                    edges[name].add(target)
    return edges


def height(module):
    """Returns the floor of a module: -1 for contracts, the room's place, above it the door, and what is not cl_mlm."""
    if module.partition(".")[0] != "cl_mlm":
        return len(ROOMS) + 1
    if module in DOOR:
        return len(ROOMS)
    room = module.split(".")[1]
    return ROOMS.index(room) if room in ROOMS else -1


def against_the_order(edges):
    return sorted((a, b) for a, targets in edges.items() for b in targets if height(b) > height(a))


def in_circles(edges):
    """Returns the modules that reach themselves."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            new = edges.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    return sorted(module for module in edges if module in reached(module))


@pytest.fixture(scope="module")
def edges():
    return {a: targets for a, targets in imports(ROOT).items() if a.split(".")[0] == "cl_mlm"}


@pytest.fixture
def planted(tmp_path):
    """Makes a small package `cl_mlm` of files, name to source, and returns its imports."""

    def plant(**files):
        for name, source in files.items():
            path = tmp_path / "cl_mlm" / Path(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return imports(tmp_path)

    return plant


def test_every_room_is_named_and_in_order():
    assert {path.parent.name for path in (ROOT / "cl_mlm").glob("*/__init__.py")} == set(ROOMS)


def test_no_import_points_to_a_higher_room(edges):
    assert against_the_order(edges) == []


def test_no_imports_run_in_a_circle(edges):
    assert in_circles(edges) == []


@pytest.mark.parametrize(
    "source",
    [
        "from cl_mlm.training.loop import train_stage\n",
        "def f():\n    import cl_mlm.training.loop\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cl_mlm.training.loop import train_stage\n",
        "import cl_mlm.api\n",
        "import cl_mlm.training.loop as it\n",
        "from cl_mlm.training.loop import *\n",
        "from ..training.loop import train_stage\n",
        "from ..training import loop\n",
        "import importlib\nimportlib.import_module('cl_mlm.training.loop')\n",
        "from importlib import import_module\nimport_module('cl_mlm.training.loop')\n",
        "__import__('cl_mlm.training.loop')\n",
        "import strategies.ewc\n",
        "from tests import conftest\n",
        "from benchmarks.startup import main\n",
    ],
)
def test_an_import_against_the_order_is_found(planted, source):
    edges = planted(data__files=source, training__loop="", api="")
    assert [a for a, _ in against_the_order(edges)] == ["cl_mlm.data.files"]


def test_a_contract_that_imports_a_room_is_found(planted):
    edges = planted(stream="from cl_mlm.data.files import read_table\n", data__files="")
    assert against_the_order(edges) == [("cl_mlm.stream", "cl_mlm.data.files")]


def test_a_circle_of_relative_imports_is_found(planted):
    edges = planted(data__files="from . import cache\n", data__cache="from .files import f\n")
    assert in_circles(edges) == ["cl_mlm.data.cache", "cl_mlm.data.files"]


def test_a_circle_is_found(planted):
    edges = planted(
        data__files="from cl_mlm.data import cache\n",
        data__cache="def f():\n    from cl_mlm.data.staging import g\n",
        data__staging="from cl_mlm.data.files import h\n",
        data__tasks="from cl_mlm.data import files\n",
    )
    assert in_circles(edges) == ["cl_mlm.data.cache", "cl_mlm.data.files", "cl_mlm.data.staging"]


def test_few_files_stand_at_the_door():
    assert len([*(ROOT / "cl_mlm").glob("*.py")]) <= MOST_DOOR_FILES


def test_no_module_takes_the_name_of_a_public_name():
    # Importing `cl_mlm.run.x` would put a module in place of the function `cl_mlm.run`.
    names = {path.stem for path in (ROOT / "cl_mlm").iterdir()}
    assert names.isdisjoint(cl_mlm.__all__)


def test_streams_and_strategies_import_contracts_and_faces_only():
    outside = {}
    for package in ("streams", "strategies"):
        for name, targets in imports(ROOT).items():
            if name.split(".")[0] == package:
                allowed = {t for t in targets if height(t) < 0 or t in FACES or t.partition(".")[0] == package}
                outside |= {name: targets - allowed} if targets - allowed else {}
    assert outside == {}


def test_no_module_of_a_face_takes_the_name_of_what_the_face_hands_out():
    for face in FACES:
        module = importlib.import_module(face)
        assert {path.stem for path in Path(module.__file__).parent.glob("*.py")}.isdisjoint(module.__all__)


def test_a_room_that_is_no_face_exports_nothing():
    for path in (ROOT / "cl_mlm").glob("*/__init__.py"):
        body = ast.parse(path.read_text()).body
        assert ast.get_docstring(ast.parse(path.read_text())), path
        assert len(body) == 1 or f"cl_mlm.{path.parent.name}" in FACES, path


def test_names_of_modules_tell_what_is_inside():
    assert SAYS_NOTHING.isdisjoint(path.stem for path in (ROOT / "cl_mlm").rglob("*.py"))
