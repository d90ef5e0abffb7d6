"""Checks plain values (from YAML) against annotations and names every fault by its key path."""

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
}


def check(path: str, value: Any, annotation: Any, bounds: Mapping[str, Any], problems: list[str]) -> Any:
    """Returns `value` in the annotated type; a fault is added to `problems` and the value returned as it is."""
    converted, ok = _convert(value, annotation)
    if not ok:
        problems.append(f"{path}: must be {describe(annotation)}, got {value!r}{_near(value, annotation)}")
        return value
    for item in converted if isinstance(converted, list) else [converted]:
        fault = _out_of_bounds(item, bounds)
        if fault:
            problems.append(f"{path}: must be {fault}, got {item!r}")
    return converted


def build(path: str, values: Any, schema: type[Any], problems: list[str]) -> Any:
    """Returns a `schema` dataclass made of `values`; unknown keys and wrong values are added to `problems`."""
    if not isinstance(values, Mapping):
        problems.append(f"{path}: must be a mapping, got {values!r}")
        return schema()
    hints = get_type_hints(schema)
    known = {f.name: f for f in fields(schema)}
    unknown_keys(path, values, known, problems)
    made = {}
    for name, f in known.items():
        if name not in values:
            continue
        where = f"{path}.{name}" if path else name
        section = _section(hints[name])
        if section is not None and (values[name] is not None or section is hints[name]):
            made[name] = build(where, values[name], section, problems)
        else:
            made[name] = check(where, values[name], hints[name], f.metadata, problems)
    return schema(**made)


def _section(annotation: Any) -> type[Any] | None:
    """Returns the dataclass that an annotation asks for, also one that may be null; None: it asks for a plain value."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((option for option in options if is_dataclass(option) and isinstance(option, type)), None)


def unknown_keys(path: str, values: Mapping[str, Any], known: Mapping[str, Any], problems: list[str]) -> None:
    """Adds a problem for every key that `known` lacks, with the nearest name and what is allowed."""
    for key in values:
        if key not in known:
            where = f"{path}.{key}" if path else str(key)
            problems.append(f"{where}: unknown key{nearest(str(key), known)}; allowed: {', '.join(known)}")


def defaults(schema: type[Any]) -> dict[str, Any]:
    """Returns the default of every field, sections as nested dicts."""
    hints = get_type_hints(schema)
    found: dict[str, Any] = {}
    for f in fields(schema):
        if is_dataclass(hints[f.name]):
            found[f.name] = defaults(hints[f.name])
        else:
            found[f.name] = f.default_factory() if f.default_factory is not MISSING else f.default
    return found


def describe(annotation: Any) -> str:
    """Returns what an annotation allows, in words."""
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
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value, True
    if origin is Literal:
        return value, any(value == option and type(value) is type(option) for option in inner)
    if origin in (Union, types.UnionType):
        tried = [_convert(value, option) for option in inner]
        return next(((v, ok) for v, ok in tried if ok), (value, False))
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
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    low, high, above = bounds.get("min"), bounds.get("max"), bounds.get("above")
    finite = math.isfinite(value)
    good = (
        finite
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )
    if good:
        return ""
    limits = (
        [f"at least {low}"] * (low is not None)
        + [f"at most {high}"] * (high is not None)
        + [f"above {above}"] * (above is not None)
    )
    return " and ".join(limits) or "finite"


def _near(value: Any, annotation: Any) -> str:
    options = [o for o in get_args(annotation) if isinstance(o, str)]
    return nearest(value, options) if isinstance(value, str) and options else ""
