"""Checks plain values, as YAML gives them, against type annotations; every fault begins with its key path."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cl_mlm.errors import nearest

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    dict: "a mapping",
    Any: "anything",
}


def check(path: str, value: Any, annotation: Any, bounds: Mapping[str, Any], problems: list[str]) -> Any:
    """Returns `value` in the annotated type; where it does not fit, adds a fault and returns it unchanged.

    Args:
        path: key path for the fault.
        value: from YAML or the command line.
        annotation: the type that is asked for.
        bounds: `min`, `max` (inclusive) and `above` (exclusive) for a number, or for every number of a list.
        problems: faults are added here.
    """
    converted, ok = _convert(value, annotation)
    if not ok:
        hints = f"{_near(value, annotation)}{_unquoted(value, annotation)}"
        problems.append(f"{path}: must be {describe(annotation)}, got {value!r}{hints}")
        return value
    for item in converted if isinstance(converted, list) else [converted]:
        fault = _out_of_bounds(item, bounds)
        if fault:
            problems.append(f"{path}: must be {fault}, got {item!r}")
    return converted


def build(path: str, values: Any, schema: type[Any], problems: list[str]) -> Any:
    """Returns `values` as an object of the dataclass `schema`; adds unknown keys and wrong values to `problems`."""
    if not isinstance(values, Mapping):
        problems.append(f"{path}: must be a mapping, got {values!r}")
        return schema()
    hints = get_type_hints(schema)
    known = {field.name: field for field in fields(schema)}
    unknown_keys(path, values, known, problems)
    arguments = {}
    for name, field in known.items():
        if name not in values:
            continue
        value, where = values[name], f"{path}.{name}" if path else name
        section = section_of(hints[name])
        is_absent = value is None and section is not hints[name]  # null, where the annotation allows it
        if section is None or is_absent:
            arguments[name] = check(where, value, hints[name], field.metadata, problems)
        else:
            arguments[name] = build(where, value, section, problems)
    return schema(**arguments)


def section_of(annotation: Any) -> type[Any] | None:
    """Returns the dataclass in an annotation such as `Section` or `Section | None`; None for a plain value."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((option for option in options if is_dataclass(option) and isinstance(option, type)), None)


def unknown_keys(path: str, values: Mapping[str, Any], known: Mapping[str, Any], problems: list[str]) -> None:
    """Adds a fault for every key that is not in `known`, with the nearest name and all allowed ones."""
    for key in values:
        if key not in known:
            where = f"{path}.{key}" if path else str(key)
            problems.append(f"{where}: unknown key{nearest(str(key), known)}; allowed: {', '.join(known)}")


def defaults(schema: type[Any]) -> dict[str, Any]:
    """Returns the default of every field, sections as nested dicts."""
    hints = get_type_hints(schema)
    values: dict[str, Any] = {}
    for field in fields(schema):
        if is_dataclass(hints[field.name]):
            values[field.name] = defaults(hints[field.name])
        else:
            values[field.name] = field.default if field.default_factory is MISSING else field.default_factory()
    return values


def describe(annotation: Any) -> str:
    """Returns in words which values an annotation allows."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in inner)
    if origin in (list, tuple, Sequence):
        return f"a list ({describe(inner[0])} each)"
    if origin in (dict, Mapping):
        return "a mapping"
    return _WORDS.get(annotation, str(annotation))


def _convert(value: Any, annotation: Any) -> tuple[Any, bool]:  # noqa: PLR0911 - one return a kind of annotation
    """Returns the value in the annotated type and True, or a value that does not fit and False."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value, True
    if origin is Literal:
        # By type, too: `True == 1`, but `true` is no allowed value where 1 is one.
        return value, any(value == option and type(value) is type(option) for option in inner)
    if origin in (Union, types.UnionType):
        attempts = [_convert(value, option) for option in inner]
        return next((attempt for attempt in attempts if attempt[1]), (value, False))
    if origin in (list, tuple, Sequence):
        if not isinstance(value, list | tuple):
            return value, False
        items = [_convert(item, inner[0]) for item in value]
        return [item for item, _ in items], all(ok for _, ok in items)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            return value, False
        pairs = {key: _convert(item, inner[1]) for key, item in value.items()}
        return {key: item for key, (item, _) in pairs.items()}, all(ok for _, ok in pairs.values())
    if annotation is str and isinstance(value, PurePath):
        return str(value), True
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value), True
    return value, type(value) is annotation or (annotation is type(None) and value is None)


def _out_of_bounds(value: Any, bounds: Mapping[str, Any]) -> str:
    """Returns what a number must be (`at least 1 and at most 5`); empty where it is, or where this is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    low, high, above = bounds.get("min"), bounds.get("max"), bounds.get("above")
    is_low = low is not None and value < low
    is_high = high is not None and value > high
    is_not_above = above is not None and value <= above
    if math.isfinite(value) and not (is_low or is_high or is_not_above):
        return ""
    return bounds_in_words(bounds) or "finite"


def bounds_in_words(bounds: Mapping[str, Any]) -> str:
    """Returns what numbers with these bounds must be, such as `at least 1 and at most 5`; empty without bounds."""
    limits = {"at least": bounds.get("min"), "at most": bounds.get("max"), "above": bounds.get("above")}
    return " and ".join(f"{words} {limit}" for words, limit in limits.items() if limit is not None)


def _near(value: Any, annotation: Any) -> str:
    """Returns a hint at the allowed text that is nearest to `value`; empty where there is none."""
    options = [option for option in get_args(annotation) if isinstance(option, str)]
    return nearest(value, options) if isinstance(value, str) and options else ""


def _unquoted(value: Any, annotation: Any) -> str:
    """Returns why a name is none where YAML has read a word without quotes as something else; empty where it has not.

    Only names in lists and mappings are looked at, and truth values where one name is asked for.
    """
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    if isinstance(value, list | tuple | Mapping):
        kinds = (dict, Mapping) if isinstance(value, Mapping) else (list, tuple, Sequence)
        return yaml_hint(value) if any(get_origin(o) in kinds and _names_inside(o) for o in options) else ""
    return yaml_hint([value]) if isinstance(value, bool) and str in options else ""


def _names_inside(annotation: Any) -> bool:
    """Says whether the items of a list, or the values of a mapping, may be texts, also in lists in lists."""
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_names_inside(option) for option in get_args(annotation))
    return annotation is str or (get_origin(annotation) is not None and _names_inside(get_args(annotation)[-1]))


def yaml_hint(names: Any) -> str:
    """Returns what YAML has made of the first name, in lists in lists, that is no text; empty where all are."""
    values = names.values() if isinstance(names, Mapping) else names
    for value in values:
        if isinstance(value, list | tuple | Mapping):
            inner = yaml_hint(value)
            if inner:
                return inner
        elif isinstance(value, bool):
            return "; YAML reads yes, no, on, off, true and false as truth values: put names in quotes, such as 'yes'"
        elif value is None:
            return "; YAML reads null, ~ and an empty place as no value: put names in quotes, such as 'null'"
        elif isinstance(value, float):
            return f"; YAML reads {value!r} as a number: put names in quotes, such as '{value!r}'"
    return ""
