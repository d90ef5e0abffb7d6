"""Returns the lines that `cl-mlm list` and `cl-mlm check` print."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

from cl_mlm.config.components import COMPONENT_PACKAGES, find, names
from cl_mlm.config.key_reference import Key, keys
from cl_mlm.config.shipped import shipped_configs
from cl_mlm.data.wordings import wording_sets
from cl_mlm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from cl_mlm.experiment.preparation import Prepared

KINDS = {"strategies": "strategy", "streams": "stream", "objectives": "objective"}
# What `cl-mlm list` lists, each with what it is good for.
LISTS = {
    "strategies": "against forgetting",
    "streams": "where data come from",
    "objectives": "what a row means",
    "configs": "shipped experiments",
    "templates": "instructions of papers, for stream.template",
    "keys": "of a config: default, range",
}


def describe(prepared: Prepared, measured_steps: int = 0, width: int | None = None) -> list[str]:
    """Returns what a prepared run would do, in lines; `measured_steps` steps are timed on the real model."""
    from cl_mlm.check.look import early_look
    from cl_mlm.check.look_text import look_lines

    return look_lines(early_look(prepared, measured_steps), width)


def overview() -> list[str]:
    """Returns a line for each list that there is: how many it holds, and what they are."""
    numbers = {kind: len(names(KINDS[kind])) for kind in KINDS}
    numbers |= {"configs": len(shipped_configs()), "templates": len(wording_sets()), "keys": len(keys())}
    lines = [f"cl-mlm list {what:<10}  {numbers[what]:3d}  {text}" for what, text in LISTS.items()]
    return [
        *lines,
        "",
        "A section of the keys: cl-mlm list keys training",
        "Arguments of a stream, strategy or objective: cl-mlm list keys files",
        "A copy of a config: cl-mlm init quickstart",
    ]


def listing(what: str, part: str = "") -> list[str]:
    """Returns a line for each strategy, stream, objective or shipped config, or two for each key of a config.

    Args:
        what: a key of `LISTS`.
        part: of `keys`: a section, a part of a key, a stream, strategy or objective, or an argument of one; of the
            others: a part of a name. Empty: all.

    Raises:
        ConfigError: `what` is none of these, or nothing matches `part`.
    """
    if what not in LISTS:
        raise ConfigError(f"list: must be one of {', '.join(LISTS)}, got {what!r}{nearest(what, LISTS)}")
    if what == "keys":
        lines = [line for key in keys(part) for line in _key_lines(key)] or [f"{part}: takes no arguments"]
        return [*lines, *_more_keys(part)]
    known = (
        list({"configs": shipped_configs, "templates": wording_sets}[what]())
        if what not in KINDS
        else names(KINDS[what])
    )
    found = [name for name in known if part in name]
    if not found:
        raise ConfigError(f"list {what}: none is called {part!r}{nearest(part, known)}; there are {', '.join(known)}")
    if what == "configs":
        return [f"{name}: {_first_comment(shipped_configs()[name])}" for name in found]
    if what == "templates":
        return [line for name in found for line in _wording_lines(name)]
    lines = [f"{name}: {_first_line(KINDS[what], name)}{_arguments(KINDS[what], name)}" for name in found]
    return [*lines, "", f"What the arguments mean: cl-mlm list keys {found[0] if len(found) == 1 else 'NAME'}"]


def _key_lines(key: Key) -> list[str]:
    """Returns a key with its default, and indented below it what it means and what is allowed."""
    return [f"{key.path}: {key.default}", f"    {key.help} ({key.allowed})"]


def _more_keys(part: str) -> list[str]:
    """Returns whose arguments are keys, too, where a list of keys holds those of any config."""
    kinds = {"": [*KINDS], "stream": ["streams", "objectives"], "strategies": ["strategies"]}.get(part, [])
    named = [f"  {kind}: {', '.join(names(KINDS[kind]))}" for kind in kinds]
    return ["", "The arguments of each of these: cl-mlm list keys NAME", *named] if named else []


def _wording_lines(name: str) -> list[str]:
    """Returns a shipped set of templates with the stages that it is for, those with one template in one line."""
    known = wording_sets()[name]
    stages: dict[str, list[str]] = {}
    for stage, text in known.sources.items():
        stages.setdefault(text, []).append(stage)
    options = [f"    text_options: {dict(known.options)}"] if known.options else []
    return [f"{name}: {known.about}", *options, *(f"    {', '.join(of)}: {text!r}" for text, of in stages.items())]


def _first_line(kind: str, name: str) -> str:
    """Returns the first line of a module's docstring."""
    module = importlib.import_module(f"{COMPONENT_PACKAGES[kind]}.{name}")
    return (inspect.getdoc(module) or "").partition("\n")[0]


def _arguments(kind: str, name: str) -> str:
    """Returns the arguments that a config may set, with their defaults."""
    parameters = inspect.signature(find(kind, name)).parameters.values()
    arguments = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f" ({', '.join(arguments)})" if arguments else ""


def _first_comment(path: Path) -> str:
    first_line = path.read_text(encoding="utf-8").partition("\n")[0]
    return first_line.removeprefix("#").strip()
