"""Wordings: how the rows of a stage become a text to read and a text to write; given in a config, or shipped."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cl_mlm.data.templates import Template
from cl_mlm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cl_mlm.stream import Column, Stage

SHIPPED = "streams._instructions"  # has `WORDING_SETS`
REFERENCE = re.compile(r"[\w.-]+(/[\w.-]+)?")  # `o_lora`, or one wording of it: `o_lora/yelp`


@dataclass(frozen=True)
class WordingSet:
    """The wordings of one paper or benchmark.

    Attributes:
        about: what it is, in one line, with the paper.
        sources: name of a stage -> the template of its source; `""`: of any other stage.
        options: of `text_to_text`, where the paper's form needs other ones than the defaults.
        prefixes: what the name of a stage may begin with beside the names of `sources`.
    """

    about: str
    sources: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()

    def source(self, stage: str) -> str | None:
        """Returns the template for a stage of this name; None: there is none."""
        for prefix in ("", *self.prefixes):
            name = stage.removeprefix(prefix)
            if name in self.sources:
                return self.sources[name]
        return self.sources.get("")


@dataclass(frozen=True)
class Wording:
    """The templates of one stage.

    Attributes:
        source: of the text to read.
        target: of the text to write; None: as the objective writes the answer.
    """

    source: Template
    target: Template | None = None


@dataclass(frozen=True)
class Wordings:
    """The wordings that a `stream` section asks for, parsed.

    Attributes:
        default: for every stage that has none of its own, by the stage's name; None: there is none.
        named: by the name or the task of a stage.
        shipped: the set that `stream.template` names, with its name.
        options: of `text_to_text`: those of the shipped set, and over them those of the section.
    """

    default: Wording | None
    named: Mapping[str, Wording]
    shipped: tuple[str, WordingSet] | None
    options: Mapping[str, Any]

    def of(self, owner: Stage | Column) -> Wording | None:
        """Returns the wording of a stage, column or probe; None where there is none."""
        for name in (owner.name, owner.task):
            if name in self.named:
                return self.named[name]
        if self.shipped is not None:
            text = self.shipped[1].source(owner.name)
            return None if text is None else Wording(Template(text, "stream.template"))
        return self.default

    def lacking(self, owner: Stage | Column) -> str:
        """Returns the fault that a stage, column or probe has no wording."""
        remedy = f"stream.templates.{owner.name} gives it one"
        if self.shipped is None:
            return f"stream.templates: none for {owner.name!r}, and stream.template is null; {remedy}"
        name, known = self.shipped
        return f"stream.template: {name} has none for {owner.name!r}, but for {', '.join(known.sources)}; {remedy}"

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Returns a fault for each of `named` that is none of these names of stages, columns, probes and tasks."""
        return [
            f"stream.templates.{name}: no stage or task is called so{nearest(name, names)}; allowed: {', '.join(names)}"
            for name in self.named
            if name not in names
        ]


def parse_wordings(section: Mapping[str, Any]) -> Wordings | None:
    """Returns the wordings of a resolved `stream` section; None where it has none. No row is read.

    Raises:
        ConfigError: every text that is no template, and every name that is not shipped.
    """
    given, named = section.get("template"), section.get("templates") or {}
    if given is None and not named:
        return None
    problems: list[str] = []
    shipped, default = None, None
    if isinstance(given, str) and REFERENCE.fullmatch(given) and "/" not in given:
        if (found := _shipped_set(given, "stream.template", problems)) is not None:
            shipped = (given, found)
    elif given is not None:
        default = _wording(given, "stream.template", problems)
    parsed = {name: _wording(value, f"stream.templates.{name}", problems) for name, value in named.items()}
    if problems:
        raise ConfigError(problems)
    options = {**(shipped[1].options if shipped else {}), **(section.get("text_options") or {})}
    return Wordings(default, {name: each for name, each in parsed.items() if each is not None}, shipped, options)


def wording_sets() -> Mapping[str, WordingSet]:
    """Returns the shipped sets by their names."""
    sets: Mapping[str, WordingSet] = importlib.import_module(SHIPPED).WORDING_SETS
    return sets


def _wording(given: str | Mapping[str, str], key: str, problems: list[str]) -> Wording | None:
    """Returns one wording: a source, `{source, target}`, or `set/stage` of a shipped set; adds faults to `problems`."""
    texts = {"source": given} if isinstance(given, str) else dict(given)
    if isinstance(given, str) and REFERENCE.fullmatch(given):
        name, _, stage = given.partition("/")
        found = _shipped_set(name, key, problems)
        if found is None:
            return None
        source = found.source(stage)
        if source is None:
            allowed = ", ".join(f"{name}/{known}" for known in found.sources if known)
            problems.append(f"{key}: {name} has no {stage!r}{nearest(stage, found.sources)}; allowed: {allowed}")
            return None
        texts = {"source": source}
    templates = {}
    for name, text in texts.items():
        try:
            templates[name] = Template(text, key if isinstance(given, str) else f"{key}.{name}")
        except ConfigError as error:
            problems += error.problems
    return Wording(**templates) if len(templates) == len(texts) else None


def _shipped_set(name: str, key: str, problems: list[str]) -> WordingSet | None:
    known = wording_sets()
    if name in known:
        return known[name]
    problems.append(
        f"{key}: must be a template, which names a field ({{{{ text }}}}), or a shipped set "
        f"({', '.join(known)}), got {name!r}{nearest(name, known)}"
    )
    return None


def names_of(owners: Iterable[Stage | Column]) -> list[str]:
    """Returns the names and then the tasks of stages, columns and probes, each once."""
    listed = list(owners)
    return list(dict.fromkeys([*(owner.name for owner in listed), *(owner.task for owner in listed)]))
