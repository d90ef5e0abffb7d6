"""Lists every key of a config with its default, what is allowed and its help.

The keys that any config may have are those of the schema and the stream keys. Those of a stream, strategy or objective
are the arguments of its function or class; their help is in its docstring.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from cl_mlm.config.checking import bounds_in_words, describe, section_of
from cl_mlm.config.components import COMPONENT_PACKAGES, find, names, parameters
from cl_mlm.config.schema import Config, Overlap
from cl_mlm.config.stream_keys import LABEL_KEYS, SCENARIO_KEYS
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.stream import Scenario, Withheld

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# Of the keys that any `stream` section may have; those of single scenarios have their types in `SCENARIO_KEYS`.
STREAM_KEYS: Final[Mapping[str, tuple[Any, Any, Mapping[str, float], str]]] = {
    "name": (str, ..., {}, "which stream; its own arguments: `cl-mlm list keys NAME`"),
    "overlap": (Overlap, "error", {}, "what happens to a row that stands in two splits"),
    "labels": (LABEL_KEYS["labels"], "error", {}, "what happens to labels that look the same"),
    "unseen_labels": (LABEL_KEYS["unseen_labels"], "error", {}, "what happens to rows of labels that train lacks"),
    "first_stages": (int | None, None, {"min": 1}, "only so many stages; null: all"),
    "as_text": (bool, False, {}, "a class is a text that the model writes"),
    "template": (
        str | dict[str, str] | None,
        None,
        {},
        "jinja2 text to read, `{source, target}`, or a shipped set (`cl-mlm list templates`): docs/instructions.md",
    ),
    "templates": (dict[str, Any], {}, {}, "name or task of a stage -> its template, instead of `template`"),
    "text_options": (dict[str, Any], {}, {}, "options of text_to_text where `as_text` or `template` makes texts"),
    "withhold": (list[Withheld], [], {}, "what no strategy is given"),
    "scenario": (str | None, None, {}, f"one of the stream's own, or {', '.join(SCENARIO_KEYS)}"),
    "base_scenario": (Scenario | None, None, {}, "scenario of the stream whose rows are dealt out; null: its default"),
    "scenario_seed": (int, 0, {"min": 0}, "draws which row goes into which stage"),
    "order": (list[Any] | str | None, None, {}, "the stages by name or by index from 0, or a key of `orders`"),
    "orders": (dict[str, Any], {}, {}, "key -> a list of stages"),
    "probes": (dict[str, Any], {}, {}, "name -> a folder or a stream section that is scored and never trained on"),
}
SCENARIO_HELP: Final[Mapping[str, str]] = {
    "num_stages": "stages that the rows are dealt out to",
    "chunk_rows": "rows of a stage",
    "evaluate_every": "chunks between two evaluations",
    "blur": "fraction of a stage's rows that have labels of other stages",
}
# Where the arguments of a component stand in a config.
ARGUMENT_PATHS: Final[Mapping[str, str]] = {
    "stream": "stream.{argument}",
    "strategy": "strategies.{name}.{argument}",
    "objective": "stream.options.{argument}",
}
ENTRY: Final = re.compile(r"\*{0,2}(\w+)(?: \([^)]*\))?:\s*(.*)")  # of an `Args:` section: `name: text`


@dataclass(frozen=True)
class Key:
    """One key of a config.

    Attributes:
        path: such as `training.epochs`.
        default: as YAML writes it; `needed`: there is none.
        allowed: the values that the key takes, in words.
        help: what it means.
    """

    path: str
    default: str
    allowed: str
    help: str


def keys(part: str = "") -> list[Key]:
    """Returns the keys of a part of a config; all that any config may have where it is empty.

    Args:
        part: a section or key, else a stream, strategy or objective, else a word that paths hold, else an argument of
            any stream, strategy or objective, by its name or its path.

    Raises:
        ConfigError: there is no such key.
    """
    every = list(_section_keys(Config, ""))
    if not part:
        return every
    if found := _below(part, every):
        return found
    kinds = [kind for kind in COMPONENT_PACKAGES if part in names(kind)]
    if kinds:
        return [key for kind in kinds for key in component_keys(kind, part)]
    if found := [key for key in every if part in key.path]:
        return found
    # Only now, for this imports every component.
    arguments = [
        # The path of a strategy's argument names the strategy; many streams have arguments of the same name.
        key if kind == "strategy" else replace(key, help=f"{key.help}; with {kind} {name}")
        for kind in COMPONENT_PACKAGES
        for name in names(kind)
        for key in component_keys(kind, name)
    ]
    found = _below(part, arguments) or [key for key in arguments if key.path.endswith(f".{part}")]
    if not found:
        paths = [key.path for key in (*every, *arguments)]
        known = [name for path in paths for name in (path.partition(".")[0], path, path.rpartition(".")[2])]
        known += [name for kind in COMPONENT_PACKAGES for name in names(kind)]
        raise ConfigError(f"list keys: no key of a config is called {part!r}{nearest(part, dict.fromkeys(known))}")
    return found


def component_keys(kind: str, name: str) -> list[Key]:
    """Returns the arguments of a stream, strategy or objective (`kind`), each by its path in a config.

    Raises:
        ConfigError: there is no such component.
    """
    component = find(kind, name)
    helps = argument_helps(inspect.getdoc(component) or "")
    found = []
    for argument, parameter in parameters(component).items():
        default = ... if parameter.default is parameter.empty else parameter.default
        path = ARGUMENT_PATHS[kind].format(name=name, argument=argument)
        found.append(_key(path, parameter.annotation, default, {}, helps.get(argument, "")))
    return found


def argument_helps(docstring: str) -> dict[str, str]:
    """Returns what the `Args:` section of a docstring in Google style says of every argument, each in one line.

    Args:
        docstring: without the indentation of its code, as `inspect.getdoc` gives it.
    """
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\s*\n)*)", docstring, re.MULTILINE)
    lines = inspect.cleandoc(f"\n{section[1]}").splitlines() if section else []
    texts: dict[str, list[str]] = {}
    said: list[str] = []
    for line in lines:
        entry = ENTRY.match(line)
        if entry:
            said = texts.setdefault(entry[1], [entry[2]])
        else:
            said.append(line.strip())
    return {name: " ".join(filter(None, words)).rstrip(".") for name, words in texts.items()}


def _below(part: str, every: Iterable[Key]) -> list[Key]:
    """Returns the key with this path, or those of the section with it."""
    return [key for key in every if f"{key.path}.".startswith(f"{part}.")]


def _section_keys(schema: type[Any], prefix: str) -> Iterator[Key]:
    hints = get_type_hints(schema)
    for field in fields(schema):
        path, section = f"{prefix}{field.name}", section_of(hints[field.name])
        if section is not None:
            yield from _section_keys(section, f"{path}.")
            continue
        if path == "stream":
            yield from _stream_keys()
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        yield _key(path, hints[field.name], default, field.metadata, field.metadata["help"])


def _stream_keys() -> Iterator[Key]:
    for name, (annotation, default, bounds, text) in STREAM_KEYS.items():
        yield _key(f"stream.{name}", annotation, default, bounds, text)
    for scenario, known in SCENARIO_KEYS.items():
        for name, (annotation, default, bounds) in known.items():
            text = f"{SCENARIO_HELP[name]}; with stream.scenario={scenario}"
            yield _key(f"stream.{name}", annotation, default, bounds, text)


def _key(path: str, annotation: Any, default: Any, bounds: Mapping[str, Any], text: str) -> Key:
    allowed = ", ".join(filter(None, [describe(annotation), bounds_in_words(bounds)]))
    return Key(path, "needed" if default is ... else _as_yaml(default), allowed, text)


def _as_yaml(value: Any) -> str:
    """Returns a default as it is written in a config file."""
    import json

    if isinstance(value, str):
        return value if value.strip() and value.isprintable() else json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return json.dumps(value)
