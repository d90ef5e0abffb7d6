"""Lists every key of a config with its default, what is allowed and its help: from the schema and the stream keys."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from cl_mlm.config.checking import bounds_in_words, describe, section_of
from cl_mlm.config.schema import Config, Overlap
from cl_mlm.config.stream_keys import LABEL_KEYS, SCENARIO_KEYS
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.stream import Scenario, Withheld

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Of the keys that any `stream` section may have; those of single scenarios have their types in `SCENARIO_KEYS`.
STREAM_KEYS: Final[Mapping[str, tuple[Any, Any, Mapping[str, float], str]]] = {
    "name": (str, ..., {}, "which stream; its own arguments: `cl-mlm list streams`"),
    "overlap": (Overlap, "error", {}, "what happens to a row that stands in two splits"),
    "labels": (LABEL_KEYS["labels"], "error", {}, "what happens to labels that look the same"),
    "unseen_labels": (LABEL_KEYS["unseen_labels"], "error", {}, "what happens to rows of labels that train lacks"),
    "first_stages": (int | None, None, {"min": 1}, "only so many stages; null: all"),
    "as_text": (bool, False, {}, "a class is a text that the model writes"),
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
    """Returns the keys below the section `part`, or those whose path holds the word; all where it is empty.

    Raises:
        ConfigError: there is no such key.
    """
    every = list(_section_keys(Config, ""))
    found = [key for key in every if f"{key.path}.".startswith(f"{part}.")] if part else every
    found = found or [key for key in every if part in key.path]
    if not found:
        names = [name for key in every for name in (key.path.partition(".")[0], key.path, key.path.rpartition(".")[2])]
        raise ConfigError(f"list keys: no key of a config is called {part!r}{nearest(part, dict.fromkeys(names))}")
    return found


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
