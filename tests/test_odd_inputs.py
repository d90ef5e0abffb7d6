"""Bad and odd inputs: what is said and the exit code; no traceback, and nothing silently wrong.

The cases are data, one module a field in `tests/odd_inputs/`; `docs/odd_inputs.md` shows them as tables.
"""

import importlib
import re
import sys

import pytest

from tests.odd_inputs.case import Case
from tests.odd_inputs.page import PAGE, modules, page

CASES = [(name, case) for name, module in modules().items() for case in module.CASES]


@pytest.fixture(autouse=True)
def forgotten(tmp_path):
    """Leaves no module of a case's folder loaded."""
    yield
    forget(tmp_path)


def forget(folder):
    """Unloads the modules of a folder: the next command finds them as another process would."""
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(folder))]:
        del sys.modules[name]
    importlib.invalidate_caches()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    forget(folder)


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{name}-{case.given}") for name, case in CASES])
def test_an_odd_input_is_answered_in_words(case: Case, cli, own_store, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    write(folder, case.files)
    for command in case.before:
        assert cli(*command).code == 0
    write(folder, case.edits)
    said = cli(*case.command)
    text = re.sub(r"\s+", " ", f"{said.out} {said.err}")
    assert re.sub(r"\s+", " ", case.says) in text
    assert said.code == case.code
    assert "Traceback" not in text


def test_the_page_shows_every_case(tmp_path):
    new = tmp_path / "odd_inputs.md"
    new.write_text(page(), encoding="utf-8")
    assert PAGE.is_file(), f"cp {new} {PAGE}"
    assert PAGE.read_text(encoding="utf-8") == page(), f"cp {new} {PAGE}"


def test_there_are_at_least_sixty_cases():
    assert len(CASES) >= 60
