"""The keys that any `stream` section may have beside the arguments of its factory: scenario, order, probes and others.

No factory knows of them, so that every new stream has them, too.

An optional key that is not set stays out of the resolved section: a new key then does not change the hash of existing
runs, and so not the name of their folders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from cl_mlm.config.checking import check, yaml_hint
from cl_mlm.config.schema import Labels, Overlap, UnseenLabels
from cl_mlm.stream import SCENARIOS, WITHHELD, Scenario, Withheld

# Scenarios that deal out the rows of an ordinary stream, each with the keys that it reads beside `scenario_seed`:
# type, default (`...`: needed), bounds.
SCENARIO_KEYS: Final[Mapping[str, Mapping[str, tuple[Any, Any, Mapping[str, float]]]]] = {
    "instance_incremental": {"num_stages": (int, ..., {"min": 1})},
    "online": {"chunk_rows": (int, ..., {"min": 1}), "evaluate_every": (int, 1, {"min": 1})},
    "blurry": {"blur": (float, ..., {"min": 0, "max": 1})},
}
HANDLING_KEYS: Final = ("overlap", "first_stages")  # in every resolved section, set or not
LABEL_KEYS: Final[Mapping[str, Any]] = {"labels": Labels, "unseen_labels": UnseenLabels}  # unset: error
TEMPLATE_KEYS: Final = ("template", "templates")
WORDING_FIELDS: Final = ("source", "target")
SWITCH_KEYS: Final = (
    "as_text",
    *TEMPLATE_KEYS,
    "text_options",
    "withhold",
    *LABEL_KEYS,
)  # also beside a stream that is handed over as an object
OPTIONAL_KEYS: Final = (*SWITCH_KEYS, "base_scenario", "scenario_seed", "order", "orders", "probes")
# Arguments of factories that were added later: like an optional key, one at its default stays out of the section.
LATER_ARGUMENTS: Final = ("delimiter", "encoding", "missing", "test_fraction", "uneven")
SECTION_KEYS: Final = (
    *HANDLING_KEYS,
    *OPTIONAL_KEYS,
    *dict.fromkeys(key for keys in SCENARIO_KEYS.values() for key in keys),
)


def take_handling(arguments: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Takes `overlap` and `first_stages` out of `arguments` and returns them, checked, with their defaults."""
    overlap = check("stream.overlap", arguments.pop("overlap", "error"), Overlap, {}, problems)
    first_stages = check("stream.first_stages", arguments.pop("first_stages", None), int | None, {"min": 1}, problems)
    return {"overlap": overlap, "first_stages": first_stages}


def take_switches(arguments: dict[str, Any], problems: list[str], factory: Collection[str] = ()) -> dict[str, Any]:
    """Takes the SWITCH_KEYS, which go with any stream, out of `arguments`; returns them where they are set.

    Of LABEL_KEYS those stay that are arguments of the factory.
    """
    taken: dict[str, Any] = {}
    for key, kind in LABEL_KEYS.items():
        if key not in factory and key in arguments:
            value = check(f"stream.{key}", arguments.pop(key), kind, {}, problems)
            if value != "error":
                taken[key] = value
    if check("stream.as_text", arguments.pop("as_text", False), bool, {}, problems):
        taken["as_text"] = True
    taken |= _take_wordings(arguments, factory, problems, is_written="as_text" in taken)
    withhold = _take_withhold(arguments, problems)
    if withhold:
        taken["withhold"] = withhold
    return taken


def _take_wordings(
    arguments: dict[str, Any], factory: Collection[str], problems: list[str], *, is_written: bool
) -> dict[str, Any]:
    """Takes `template`, `templates` and `text_options`, unless they are the factory's; returns those that are set."""
    taken: dict[str, Any] = {}
    template = None if "template" in factory else arguments.pop("template", None)
    if template is not None:
        taken["template"] = _wording("stream.template", template, problems)
    named = None if "templates" in factory else arguments.pop("templates", None)
    if named is not None and not isinstance(named, Mapping):
        problems.append(f"stream.templates: must map names of stages or tasks to templates, got {named!r}")
    elif named:
        taken["templates"] = {str(k): _wording(f"stream.templates.{k}", v, problems) for k, v in named.items()}
    options = None if "text_options" in factory else arguments.pop("text_options", None)
    if options is not None and not isinstance(options, Mapping):
        problems.append(f"stream.text_options: must be a mapping of options of text_to_text, got {options!r}")
    elif options and not (is_written or taken):
        problems.append(
            f"stream.text_options: needs stream.as_text or stream.template, got {dict(options)} without; rows that are "
            "texts already have stream.options"
        )
    elif options:
        taken["text_options"] = {str(name): value for name, value in options.items()}
    return taken


def _wording(key: str, value: Any, problems: list[str]) -> Any:
    """Returns a template, the name of a shipped one, or `{source, target}`; adds what is none of these as a fault."""
    form = "a template, the name of a shipped one, or {source: ..., target: ...}"
    if isinstance(value, Mapping):
        given = {str(name): text for name, text in value.items()}
        if (
            "source" in given
            and {*given} <= {*WORDING_FIELDS}
            and all(isinstance(text, str) for text in given.values())
        ):
            return given
    elif isinstance(value, str):
        return value
    problems.append(f"{key}: must be {form}, got {value!r}")
    return value


def take_keys(arguments: dict[str, Any], factory: Collection[str], problems: list[str]) -> dict[str, Any]:
    """Takes the optional keys out of `arguments` and returns those that are set, checked.

    Args:
        arguments: of a section; mutated: the arguments of the factory are left.
        factory: names of the factory's own arguments; where one is also a key of the platform, the factory gets it.
        problems: faults are added here.
    """
    taken = take_switches(arguments, problems, factory)
    taken |= _take_scenario(arguments, factory, problems)
    taken |= _take_order(arguments, factory, problems)
    if "probes" not in factory and "probes" in arguments:
        probes = arguments.pop("probes") or {}
        if not isinstance(probes, Mapping):
            problems.append(f"stream.probes: must map names to paths or stream sections, got {probes!r}")
        elif probes:
            taken["probes"] = {str(name): value for name, value in probes.items()}
    return taken


def _take_withhold(arguments: dict[str, Any], problems: list[str]) -> list[str]:
    """Returns each withheld thing once, in a fixed order: the same set gives the same hash."""
    names = check("stream.withhold", arguments.pop("withhold", None), list[Withheld] | None, {}, problems)
    return [name for name in WITHHELD if name in names] if isinstance(names, list) else []


def _take_scenario(arguments: dict[str, Any], factory: Collection[str], problems: list[str]) -> dict[str, Any]:
    """Takes a scenario that deals out rows anew, with its keys; the other scenarios are the factory's."""
    scenario = arguments.get("scenario")
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
    elif scenario is not None and scenario not in SCENARIOS and "scenario" in factory:
        allowed = ", ".join((*SCENARIOS, *SCENARIO_KEYS))
        problems.append(f"stream.scenario: must be one of {allowed}, got {arguments.pop('scenario')!r}")
    _refuse_keys_of_other_scenarios(arguments, factory, problems)
    return taken


def _refuse_keys_of_other_scenarios(arguments: dict[str, Any], factory: Collection[str], problems: list[str]) -> None:
    """Takes out the keys of scenarios that are not set, and adds a fault for each."""
    scenarios_of: dict[str, list[str]] = {}
    for scenario, keys in SCENARIO_KEYS.items():
        for key in keys:
            scenarios_of.setdefault(key, []).append(scenario)
    scenarios_of |= {key: [*SCENARIO_KEYS] for key in ("base_scenario", "scenario_seed")}
    for key, scenarios in scenarios_of.items():
        if key in arguments and key not in factory:
            wanted = " or ".join(scenarios)
            problems.append(f"stream.{key}: needs stream.scenario={wanted}, got {arguments.pop(key)!r} without")


def _take_order(arguments: dict[str, Any], factory: Collection[str], problems: list[str]) -> dict[str, Any]:
    """Takes `orders` and `order`, unless they are the factory's.

    A factory that has an `order` gets one that names its stages, for it may choose among them; one by index, or by a
    key of `orders`, is the platform's.
    """
    order = arguments.get("order")
    orders = None if "orders" in factory else arguments.pop("orders", None)
    if orders is not None:
        return _take_one_of(orders, arguments, problems)
    if order is None or ("order" in factory and names_stages(order)):
        if "order" not in factory:
            arguments.pop("order", None)
        return {}
    del arguments["order"]
    if not _is_order(order):
        listed = "a list of stages, by name or by index from 0, or with stream.orders a key"
        hint = yaml_hint(order) if isinstance(order, list) else ""
        problems.append(f"stream.order: must be {listed}, got {order!r}{hint}")
    return {"order": order}


def _take_one_of(orders: Any, arguments: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Takes `order`, which must be a key of `orders`, and returns both."""
    order = arguments.pop("order", None)
    if not isinstance(orders, Mapping) or not all(_is_order(each) for each in orders.values()):
        problems.append(f"stream.orders: must be a mapping from a key to a list of stages, got {orders!r}")
        return {}
    keys = [str(key) for key in orders]
    if isinstance(order, list) or str(order) not in keys:
        problems.append(f"stream.order: must be a key of stream.orders ({', '.join(keys)}), got {order!r}")
    return {"orders": dict(orders), "order": order}


def _is_order(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) in (int, str) for item in value)


def names_stages(value: Any) -> bool:
    """Says whether an order gives every stage by its name, instead of its index."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def prefixed(fault: str, probe: str) -> str:
    """Returns a fault of a probe's section with the key path of the probe, `stream.probes.<name>`."""
    key = f"stream.probes.{probe}"
    return f"{key}.{fault.removeprefix('stream.')}" if fault.startswith("stream.") else f"{key}: {fault}"
