"""The keys of a `stream` section that every stream has, whatever its factory takes: scenario, order, probes.

A key that is not set stays out of the resolved section: the settings of other runs, and so their folders, stay what
they were.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from cl_mlm.config.checking import check
from cl_mlm.stream import SCENARIOS, Scenario

# Scenarios that deal out the rows of an ordinary stream, each with the keys that it reads beside `scenario_seed`:
# type, default (`...`: needed), bounds.
SCENARIO_KEYS: Final[Mapping[str, Mapping[str, tuple[Any, Any, Mapping[str, float]]]]] = {
    "instance_incremental": {"num_stages": (int, ..., {"min": 1})},
    "online": {"chunk_rows": (int, ..., {"min": 1}), "evaluate_every": (int, 1, {"min": 1})},
    "blurry": {"blur": (float, ..., {"min": 0, "max": 1})},
}
# Keys of the hygiene gate, which are no argument of a factory either.
GATE: Final = ("overlap", "first_stages")
OWN: Final = ("as_text", "base_scenario", "scenario_seed", "order", "orders", "probes")
SECTION: Final = (*GATE, *OWN, *dict.fromkeys(key for keys in SCENARIO_KEYS.values() for key in keys))


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
    allowed = (*SCENARIOS, *SCENARIO_KEYS)
    taken: dict[str, Any] = {}
    if isinstance(scenario, str) and scenario in SCENARIO_KEYS:
        taken["scenario"] = arguments.pop("scenario")
        base = check("stream.base_scenario", arguments.pop("base_scenario", None), Scenario | None, {}, problems)
        if base is not None:
            taken["base_scenario"] = base
        seed = arguments.pop("scenario_seed", 0)
        taken["scenario_seed"] = check("stream.scenario_seed", seed, int, {"min": 0}, problems)
        for key, (kind, default, bounds) in SCENARIO_KEYS[scenario].items():
            value = arguments.pop(key, default)
            if value is ...:
                problems.append(f"stream.{key}: is needed where stream.scenario is {scenario}")
            else:
                taken[key] = check(f"stream.{key}", value, kind, bounds, problems)
    elif scenario is not None and scenario not in allowed and "scenario" in factory:
        known = ", ".join(allowed)
        problems.append(f"stream.scenario: must be one of {known}, got {arguments.pop('scenario')!r}")
    readers = {
        key: [name for name, keys in SCENARIO_KEYS.items() if key in keys]
        for keys in SCENARIO_KEYS.values()
        for key in keys
    }
    readers |= {key: [*SCENARIO_KEYS] for key in ("base_scenario", "scenario_seed")}
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
    if order is None or ("order" in factory and names_stages(order)):
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


def names_stages(value: Any) -> bool:
    """Says whether an order names its stages, instead of counting them."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def prefixed(problem: str, probe: str) -> str:
    """Returns a fault of a probe's section with the key path where it stands."""
    key = f"stream.probes.{probe}"
    return f"{key}.{problem.removeprefix('stream.')}" if problem.startswith("stream.") else f"{key}: {problem}"
