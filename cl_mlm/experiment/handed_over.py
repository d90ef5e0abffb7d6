"""Strategies that are handed over from Python as objects or classes: checked, and made anew."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from cl_mlm.errors import ConfigError
from cl_mlm.own_code import OwnCode, label_of
from cl_mlm.strategy import HOOKS, Strategy


def strategy_objects(given: Any) -> list[Strategy] | None:
    """Returns strategies handed over as objects or classes, made anew; None where names were given, or nothing.

    Raises:
        ConfigError: it is none of these, objects and names are mixed, a class needs arguments, or an object cannot be
            made again from its arguments.
    """
    if given is None:
        return None
    if isinstance(given, Strategy) or inspect.isclass(given):
        given = [given]
    if not isinstance(given, Iterable):
        raise ConfigError(f"strategies: must be strategies or their names, got {given!r} ({type(given).__name__})")
    found = list(given)
    odd = [item for item in found if not isinstance(item, str | Strategy) and not _is_strategy_class(item)]
    if odd:
        raise ConfigError(
            f"strategies: must be strategies or their names, got {odd[0]!r}; a strategy's class is a subclass of "
            "cl_mlm.Strategy"
        )
    names = [item for item in found if isinstance(item, str)]
    if names and len(names) != len(found):
        raise ConfigError("strategies: must be all objects or all names")
    return None if names or not found else [_made_anew(item) for item in found]


def _is_strategy_class(item: object) -> bool:
    return inspect.isclass(item) and issubclass(item, Strategy)


def _made_anew(item: Strategy | type[Strategy]) -> Strategy:
    """Returns a new strategy of a class, or with the arguments of an object."""
    if isinstance(item, type):
        needed = [
            name
            for name, p in inspect.signature(item).parameters.items()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if needed:
            example = ", ".join(f"{name}=..." for name in needed)
            raise ConfigError(
                f"strategies: {item.__name__} needs arguments, so give an object: {item.__name__}({example})"
            )
        with OwnCode("strategy", f"strategy {label_of(item)}, __init__"):
            item = item()
    kind = type(item)
    hooks = sorted(HOOKS & {*vars(item)})
    if hooks:
        raise ConfigError(
            f"strategies: {kind.__name__}: hooks must be methods of the class, for the object is made anew; "
            f"got {', '.join(hooks)} set on the object"
        )
    try:
        arguments = item.arguments()
    except TypeError as error:
        raise ConfigError(f"strategies: {error}") from error
    problems = [
        f"strategies.{item.name}.{name}: must be a plain value that a config can hold (number, text, list, mapping), "
        f"got {type(value).__name__}"
        for name, value in arguments.items()
        if not _is_plain(value)
    ]
    if problems:
        raise ConfigError(problems)
    with OwnCode("strategy", f"strategy {label_of(kind)}, __init__"):
        return kind(**arguments)


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
