"""The page docs/odd_inputs.md, made from the cases; where it is not the same, the test says what to copy."""

import importlib
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "odd_inputs.md"
HEAD = """\
# Bad and odd inputs

What is said, and the exit code: 0 where the command did its work, 1 where a port is taken or a repeated run differs, 2
where the input is at fault. Every line of the tables is a test that runs the command line; none ends in a traceback.
A message may say more than is shown: which folder, what else is allowed.
"""
TABLE = "| input | what is said | exit code |\n|---|---|---|\n"


def modules():
    """Returns the modules that hold cases, by name."""
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    return {name: importlib.import_module(f"tests.odd_inputs.{name}") for name in names if name not in ("case", "page")}


def page():
    """Returns the page as text."""
    parts = [HEAD]
    for module in modules().values():
        parts.append(f"\n## {module.__doc__.splitlines()[0].rstrip('.')}\n\n{TABLE}")
        parts += [f"| {_cell(case.given)} | {_code(case.says)} | {case.code} |\n" for case in module.CASES]
    return "".join(parts)


def _code(text):
    quotes = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return quotes + space + _cell(text) + space + quotes


def _cell(text):
    return " ".join(text.split()).replace("|", "\\|")
