"""The reference pages say what the code says: every key of the config, every option of the command line, every name."""

import ast
import importlib
import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MOST_WORDS = 40
CLASSES = {
    **{name: f"cl_mlm.stream.{name}" for name in ("Stage", "Column", "Stream")},
    **{name: f"cl_mlm.batch.{name}" for name in ("Batch", "Outputs", "Sites")},
    **{name: f"cl_mlm.strategy.{name}" for name in ("Strategy", "RunView")},
    "Objective": "cl_mlm.objective.Objective",
    "Result": "cl_mlm.Result",
}


def section_of(kind):
    """Returns the dataclass of a config's section; None where the key holds a plain value."""
    found = [each for each in (kind, *get_args(kind)) if is_dataclass(each)]
    return found[0] if found else None


def shown_type(kind):
    """Returns an annotation in words: `integer or null`, `full or head`."""
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "anything"}
    if kind in plain:
        return plain[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is list:
        return f"list of: {shown_type(arguments[0])}"
    return "mapping" if origin is dict else " or ".join(map(shown_type, arguments))


def settings_table():
    """Returns a line for every key of the config: type, default, help."""
    from cl_mlm.config import Config

    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]

    def add(kind, prefix):
        hints = get_type_hints(kind)
        for field in fields(kind):
            section = section_of(hints[field.name])
            if section is not None:
                add(section, f"{prefix}{field.name}.")
                continue
            default = field.default if not callable(field.default_factory) else field.default_factory()
            cells = [f"`{prefix}{field.name}`", f"{shown_type(hints[field.name])}", f"`{json.dumps(default)}`"]
            text = " | ".join([*(cell.replace("|", "\\|") for cell in cells), field.metadata["help"]])
            lines.append(f"| {text} |")

    add(Config, "")
    return "\n".join(lines)


def test_the_config_page_holds_every_key():
    assert settings_table() in (DOCS / "reference" / "config.md").read_text(), settings_table()


def test_the_command_line_page_holds_every_command_and_option():
    from typer.main import get_command

    from cl_mlm.cli.app import app

    page = (DOCS / "reference" / "command_line.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    told = {
        (command, option.split()[0])
        for _, named, options, *_ in rows
        for command in CODE.findall(named)
        for option in CODE.findall(options)
    }
    commands = get_command(app).commands
    options = {
        (name, option.opts[0])
        for name, command in commands.items()
        for option in command.params
        if option.opts[0].startswith("--") and option.name != "help"
    }
    assert options == {pair for pair in told if pair[1].startswith("--")}
    assert {*commands} == {words.split()[1] for words in CODE.findall(page) if re.match("cl-mlm [A-Za-z]", words)} - {
        "COMMAND"
    }


def resolves(name):
    """Says whether a dotted name leads to a module or to something in one."""
    module, names = name, []
    while module:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            names.insert(0, last)
            continue
        for each in names:
            if not hasattr(found, each) and each not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, each, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_and_files_that_a_page_names_are_there(page):
    text = FENCED.sub("", page.read_text())
    named = [name.removesuffix("()") for name in CODE.findall(text)]
    code = [name for name in named if re.fullmatch(r"cl_mlm(\.\w+)+", name)]
    of_classes = [re.fullmatch(r"([A-Z]\w+)(\.\w+)", name) for name in named]
    code += [f"{CLASSES[found[1]]}{found[2]}" for found in of_classes if found and found[1] in CLASSES]
    assert [name for name in code if not resolves(name)] == []
    files = [name for name in named if re.fullmatch(r"[\w-]+(/[\w.-]+)*/[\w-]+\.(py|md|yaml)", name)]
    assert [name for name in files if not any((root / name).is_file() for root in (ROOT, ROOT / "cl_mlm"))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page):
    links = LINK.findall(FENCED.sub("", page.read_text()))
    inside = [link for link in links if not link.startswith("http")]
    assert [link for link in inside if not (page.parent / link).exists()] == []


def test_the_glossary_is_short():
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert 20 <= len(terms) <= MOST_WORDS
    assert len({*terms}) == len(terms)


def test_the_picture_of_the_rooms_has_them_in_their_order():
    text = (DOCS / "architecture.md").read_text()
    picture = text.partition("```text\n")[2].partition("```")[0]
    shown = re.findall(r"^   (\w+) +[A-Z].*\?", picture, re.MULTILINE)
    tree = ast.parse((ROOT / "tests" / "test_structure.py").read_text())
    named = [node for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "ROOMS"]
    assert shown == [*reversed(ast.literal_eval(named[0].value))]
    assert sorted(shown) == sorted(path.parent.name for path in (ROOT / "cl_mlm").glob("*/__init__.py"))
    contracts = {path.stem for path in (ROOT / "cl_mlm").glob("*.py")} - {"__init__", "__main__", "api"}
    assert contracts == {*picture.partition("cl_mlm/*.py")[2].partition("beside the house")[0].split()}
