"""The keys of a `stream` section that every stream has, whatever its factory takes: scenario, order, probes.

A key that is not set stays out of the resolved section: the settings of other runs, and so their folders, stay what
they were.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cl_mlm.config.checking import check
from cl_mlm.config.components import find, make_objective, make_stream, parameters
from cl_mlm.data.as_text import as_text
from cl_mlm.data.files import find_folder, read_splits
from cl_mlm.data.scenarios import KEYS, RESTAGING
from cl_mlm.data.staging import by_source, reordered
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.fingerprint import pick
from cl_mlm.stream import SCENARIOS, Column, Scenario, Stream, column_of

if TYPE_CHECKING:
    from cl_mlm.objective import Objective

# Keys of `preparation`, which are no argument of a factory either.
GATE: Final = ("overlap", "first_stages")
OWN: Final = ("as_text", "base_scenario", "scenario_seed", "order", "orders", "probes")
SECTION: Final = (*GATE, *OWN, *dict.fromkeys(key for keys in KEYS.values() for key in keys))


def take_keys(arguments: dict[str, Any], factory: Collection[str], problems: list[str]) -> dict[str, Any]:
    """Takes the platform's keys that are set out of `arguments` of a factory and returns them, checked.

    Args:
        arguments: mutated: what is left is the factory's.
        factory: names of the factory's own arguments, which win.
        problems: faults are added.
    """
    taken: dict[str, Any] = {}
    if check("stream.as_text", arguments.pop("as_text", False), bool, {}, problems):
        taken["as_text"] = True
    taken |= _take_scenario(arguments, factory, problems)
    taken |= _take_order(arguments, factory, problems)
    if "probes" not in factory and "probes" in arguments:
        probes = arguments.pop("probes") or {}
        if not isinstance(probes, Mapping):
            problems.append(f"stream.probes: must map names to paths or stream sections, got {probes!r}")
        elif probes:
            taken["probes"] = {str(name): value for name, value in probes.items()}
    return taken


def _take_scenario(arguments: dict[str, Any], factory: Collection[str], problems: list[str]) -> dict[str, Any]:
    scenario = arguments.get("scenario")
    allowed = (*SCENARIOS, *RESTAGING)
    taken: dict[str, Any] = {}
    if isinstance(scenario, str) and scenario in RESTAGING:
        taken["scenario"] = arguments.pop("scenario")
        base = check("stream.base_scenario", arguments.pop("base_scenario", None), Scenario | None, {}, problems)
        if base is not None:
            taken["base_scenario"] = base
        seed = arguments.pop("scenario_seed", 0)
        taken["scenario_seed"] = check("stream.scenario_seed", seed, int, {"min": 0}, problems)
        for key, (kind, default, bounds) in KEYS[scenario].items():
            value = arguments.pop(key, default)
            if value is ...:
                problems.append(f"stream.{key}: is needed where stream.scenario is {scenario}")
            else:
                taken[key] = check(f"stream.{key}", value, kind, bounds, problems)
    elif scenario is not None and scenario not in allowed and "scenario" in factory:
        known = ", ".join(allowed)
        problems.append(f"stream.scenario: must be one of {known}, got {arguments.pop('scenario')!r}")
    readers = {key: [name for name, keys in KEYS.items() if key in keys] for keys in KEYS.values() for key in keys}
    readers |= {key: [*KEYS] for key in ("base_scenario", "scenario_seed")}
    for key, names in readers.items():
        if key in arguments and key not in factory:
            wanted = " or ".join(names)
            problems.append(f"stream.{key}: needs stream.scenario={wanted}, got {arguments.pop(key)!r} without")
    return taken


def _take_order(arguments: dict[str, Any], factory: Collection[str], problems: list[str]) -> dict[str, Any]:
    order = arguments.get("order")
    orders = None if "orders" in factory else arguments.pop("orders", None)
    if orders is not None:
        if not isinstance(orders, Mapping) or not all(_is_order(each) for each in orders.values()):
            problems.append(f"stream.orders: must be a mapping from a key to a list of stages, got {orders!r}")
            arguments.pop("order", None)
            return {}
        keys = [str(key) for key in orders]
        if isinstance(order, list) or str(order) not in keys:
            known = ", ".join(keys)
            problems.append(f"stream.order: must be a key of stream.orders ({known}), got {order!r}")
        arguments.pop("order", None)
        return {"orders": dict(orders), "order": order}
    if order is None or ("order" in factory and _of_names(order)):
        if "order" not in factory:
            arguments.pop("order", None)
        return {}
    del arguments["order"]
    if not _is_order(order):
        listed = "a list of stages, by name or by index from 0, or with stream.orders a key"
        problems.append(f"stream.order: must be {listed}, got {order!r}")
    return {"order": order}


def _is_order(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) in (int, str) for item in value)


def _of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def make_base(section: Mapping[str, Any]) -> Stream:
    """Returns the ordinary stream of a resolved section in its order; `as_text` is left to the caller.

    Raises:
        ConfigError, DataError: what the factory finds, or an order that is no permutation of the stages.
    """
    arguments = {key: value for key, value in section.items() if key not in (*GATE, "name")}
    factory = parameters(find("stream", section["name"]))
    if arguments.get("scenario") in RESTAGING:
        for key in ("scenario", "scenario_seed", *KEYS[arguments["scenario"]]):
            arguments.pop(key, None)
        base = arguments.pop("base_scenario", None)
        arguments |= {} if base is None else {"scenario": base}
    order = arguments.get("order")
    if order is not None and "orders" in arguments and "orders" not in factory:
        order = next(each for key, each in arguments["orders"].items() if str(key) == str(order))
    if order is not None and arguments.get("mask_others") is False:
        raise ConfigError("stream.order: must be null where mask_others is false: tags of earlier stages depend on it")
    by_factory = "order" in factory and (order is None or _of_names(order))
    kept = {key: value for key, value in arguments.items() if key not in OWN or (key in factory and key != "order")}
    stream = make_stream(section["name"], {**kept, "order": order} if by_factory else kept)
    if "orders" in arguments and "orders" not in factory:
        _check_orders(stream, arguments["orders"])
    if order is not None and not by_factory:
        stream = reordered(stream, order)
    return stream


def _check_orders(stream: Stream, orders: Mapping[Any, Any]) -> None:
    """Refuses orders that are no permutation, those that are not asked for now, too.

    Raises:
        ConfigError: every such order, by its key.
    """
    problems = []
    for key, order in orders.items():
        try:
            reordered(stream, order)
        except ConfigError as error:
            problems += [line.replace("stream.order", f"stream.orders.{key}", 1) for line in error.problems]
    if problems:
        raise ConfigError(problems)


def restage(stream: Stream, section: Mapping[str, Any]) -> Stream:
    """Returns the stream in the section's scenario where it is one of `scenarios.py`, else as it is.

    Raises:
        ConfigError, DataError: the stream cannot be staged so.
    """
    scenario = str(section.get("scenario"))
    if scenario not in RESTAGING or stream.given_columns:
        return stream
    arguments = {key: section[key] for key in KEYS[scenario] if key in section}
    return RESTAGING[scenario](stream, **arguments, seed=section.get("scenario_seed", 0))


def with_probes(stream: Stream, probes: Mapping[str, str | Mapping[str, Any]]) -> Stream:
    """Returns the stream with the probes of a resolved section behind its own.

    Raises:
        ConfigError, DataError: every probe that cannot be had or that asks for something else than the stream.
    """
    problems: list[str] = []
    found: list[Column] = []
    known = list(dict.fromkeys(map(_asked, stream.stages)))
    for name, source in probes.items():
        try:
            columns = _from_folder(stream, name, source) if isinstance(source, str) else _from_section(name, source)
        except (ConfigError, DataError) as error:
            problems += [prefixed(line, name) for line in error.problems]
            continue
        problems += [
            f"stream.probes.{name}: must have the stream's objective {' or '.join(known)}, got {_asked(column)}"
            for column in columns[:1]
            if _asked(column) not in known
        ]
        found += columns
    if problems:
        raise ConfigError(problems)
    return replace(stream, probes=(*stream.probes, *found))


def prefixed(problem: str, probe: str) -> str:
    """Returns a fault of a probe's section with the key path where it stands."""
    key = f"stream.probes.{probe}"
    return f"{key}.{problem.removeprefix('stream.')}" if problem.startswith("stream.") else f"{key}: {problem}"


def _asked(part: Any) -> str:
    return f"{part.objective} {dict(part.options)}" if part.options else str(part.objective)


def _from_folder(stream: Stream, name: str, path: str) -> list[Column]:
    """Returns the test rows of a folder, and its validation rows, read for the stream's objective."""
    import numpy as np

    first = stream.stages[0]
    objective: Objective = make_objective(first.objective, first.options)
    folder = find_folder(path, key="stream.path")
    splits = read_splits(folder, required=objective.columns, needed=("test",))
    none = pick(splits["test"], np.zeros(0, dtype=np.int64))
    parts = {name: {"train": none, "validation": splits.get("validation", none), "test": splits["test"]}}
    made = by_source(parts, name=name, objective=first.objective, options=first.options, task=first.task)
    return [column_of(made.stages[0], None)]


def _from_section(name: str, section: Mapping[str, Any]) -> list[Column]:
    made = make_base(section).first(section.get("first_stages"))
    made = as_text(made) if section.get("as_text") else made
    names: Sequence[str] = [name] if len(made) == 1 else [f"{name}/{stage.name}" for stage in made.stages]
    return [replace(column_of(stage, None), name=own) for own, stage in zip(names, made.stages, strict=True)]
