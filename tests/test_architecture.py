"""Rules of the source tree itself: which way dependencies point, what importing costs, how long files may be."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cl_mlm", "streams", "strategies")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "transformers", "mlflow", "torchvision", "avalanche", "datasets", "pandas", "pyarrow", "matplotlib")
MAX_LINES, MAX_FUNCTION_LINES = 400, 60
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def shown(path):
    return str(path.relative_to(ROOT))


def imported_modules(path):
    """Returns every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(path)}: imports are absolute"
            found.add(node.module or "")
    return found


def code_lines(function, source_lines):
    """Returns the number of lines with code: no docstring, no comment, no blank."""
    text = "\n".join(source_lines[function.lineno - 1 : function.end_lineno]) + "\n"
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text.expandtabs()).readline)
        if token.type not in NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= set(range(first.lineno - function.lineno + 1, first.end_lineno - function.lineno + 2))
    return len(lines)


def loaded_by(*arguments):
    """Returns which heavy packages a new process has loaded when it ends, and the process."""
    tell = "import atexit, sys; atexit.register(lambda: print('LOADED', *sorted(sys.modules)))\n"
    run = subprocess.run(
        [sys.executable, "-c", tell + "\n".join(arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    modules = run.stdout.rpartition("LOADED")[2].split()
    return sorted({name.partition(".")[0] for name in modules} & set(HEAVY)), run


def test_the_tree_is_found():
    assert {"cl_mlm/api.py", "streams/phrasebook.py", "strategies/ewc.py"} <= {shown(path) for path in SOURCES}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name not in PACKAGES[1:]], ids=shown)
def test_the_platform_imports_no_stream_and_no_strategy(path):
    inward = {name for name in imported_modules(path) if name.partition(".")[0] in ("streams", "strategies")}
    assert inward == set()


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name == "strategies"], ids=shown)
def test_a_strategy_imports_no_other_strategy_and_no_stream(path):
    assert not {name for name in imported_modules(path) if name.partition(".")[0] in ("streams", "strategies")}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name == "streams"], ids=shown)
def test_a_stream_imports_no_strategy(path):
    assert not {name for name in imported_modules(path) if name.partition(".")[0] == "strategies"}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name != "avalanche.py"], ids=shown)
def test_only_its_adapters_import_avalanche(path):
    assert not {name for name in imported_modules(path) if name.partition(".")[0] == "avalanche"}


def test_importing_the_package_loads_nothing_heavy():
    heavy, run = loaded_by("import cl_mlm; cl_mlm.run, cl_mlm.Strategy, cl_mlm.Stream")
    assert (heavy, run.returncode) == ([], 0)


def test_help_loads_nothing_heavy():
    heavy, run = loaded_by("from cl_mlm.cli.app import main; main(['--help'])")
    assert (heavy, run.returncode) == ([], 0)
    assert "rerun" in run.stdout


def test_what_is_loaded_is_seen():
    heavy, _ = loaded_by("import sys, types; sys.modules['torch.nn'] = types.ModuleType('torch.nn')")
    assert heavy == ["torch"]


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_a_function_has_at_most_60_lines_of_code(path):
    text = path.read_text()
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {function.name: code_lines(function, text.splitlines()) for function in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_lines_of_code_leave_out_docstrings_comments_and_blanks():
    text = 'def f(x):\n    """Says.\n\n    More.\n    """\n    # why\n\n    return (\n        x\n    )\n'
    (function,) = ast.parse(text).body
    assert code_lines(function, text.splitlines()) == 4


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name == "__init__.py"], ids=shown)
def test_an_init_file_holds_no_logic(path):
    allowed = (ast.Expr, ast.ImportFrom, ast.Assign)
    body = ast.parse(path.read_text()).body
    assert all(isinstance(node, allowed) for node in body)
    assigned = [target.id for node in body if isinstance(node, ast.Assign) for target in node.targets]
    assert set(assigned) <= {"__all__"}


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_no_file_has_a_name_that_says_nothing(path):
    assert path.stem not in ("utils", "helpers", "common", "misc")
