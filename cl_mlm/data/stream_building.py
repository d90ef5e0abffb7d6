"""From a `stream` section to a stream that may be trained on.

The order of steps is that of `build_stream`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cl_mlm.arrow import pick
from cl_mlm.config.components import find, make_objective, make_stream, parameters
from cl_mlm.config.stream_keys import GATE, OWN, SCENARIO_KEYS, names_stages, prefixed
from cl_mlm.data.as_text import as_text
from cl_mlm.data.files import find_folder, read_splits
from cl_mlm.data.hygiene import clean
from cl_mlm.data.sampling import limit
from cl_mlm.data.scenarios import RESTAGING
from cl_mlm.data.staging import by_source, reordered
from cl_mlm.data.tasks import foreign_columns, objectives_of
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.objective import Objective
from cl_mlm.stream import Column, Stream, column_of


def build_stream(
    section: Mapping[str, Any], limit_rows: int | None = None, given: Stream | None = None
) -> tuple[Stream, dict[str, int]]:
    """Returns the stream of a resolved `stream` section, ready to train on, and the counts of overlapping rows.

    Args:
        section: the keys of the stream's factory and those of `config/stream_keys.py`.
        limit_rows: rows a split at most, for a smoke run; None: all.
        given: a stream object in place of the factory's; the section then says what is done to it.

    Raises:
        ConfigError, DataError: every fault of the section or of the rows.
    """
    num_first = section.get("first_stages")
    deals_anew = section.get("scenario") in SCENARIO_KEYS
    stream = make_base(section) if given is None else given
    if not deals_anew:
        # Before any row is read: settings chosen on the first stages must not depend on later ones. A scenario that
        # deals out rows anew makes its stages from the whole stream, so that there the gate sees all of it.
        stream = first_stages(stream, num_first)
    if section.get("as_text"):
        stream = as_text(stream)
    stream = with_probes(stream, section.get("probes", {}))
    stream, overlap = clean(stream, section.get("overlap", "error"))
    if limit_rows is not None:
        # Every stage that is dealt out gets some of the rows.
        stream = limit(stream, limit_rows * section.get("num_stages", 1) if deals_anew else limit_rows)
    _check_objectives(stream, section)
    if deals_anew:
        stream = first_stages(restage(stream, section), num_first)
    return stream, overlap


def _check_objectives(stream: Stream, section: Mapping[str, Any]) -> None:
    """Refuses columns that no head could answer, and scenarios that cannot mix the rows of several objectives.

    Raises:
        ConfigError: every such fault.
    """
    problems = foreign_columns(stream)
    objectives = objectives_of(stream)[1]
    if section.get("scenario") in SCENARIO_KEYS and len(objectives) > 1:
        problems.append(
            f"stream.scenario: {section['scenario']} deals out the rows of one objective, got {', '.join(objectives)}"
        )
    if problems:
        raise ConfigError(problems)


def make_base(section: Mapping[str, Any]) -> Stream:
    """Returns the ordinary stream of a resolved section in its order; `as_text` is left to the caller.

    Raises:
        ConfigError, DataError: what the factory finds, or an order that is no permutation of the stages.
    """
    arguments = {key: value for key, value in section.items() if key not in (*GATE, "name")}
    factory = parameters(find("stream", section["name"]))
    if arguments.get("scenario") in RESTAGING:
        for key in ("scenario", "scenario_seed", *SCENARIO_KEYS[arguments["scenario"]]):
            arguments.pop(key, None)
        base = arguments.pop("base_scenario", None)
        arguments |= {} if base is None else {"scenario": base}
    order = arguments.get("order")
    if order is not None and "orders" in arguments and "orders" not in factory:
        order = next(each for key, each in arguments["orders"].items() if str(key) == str(order))
    if order is not None and arguments.get("mask_others") is False:
        raise ConfigError("stream.order: must be null where mask_others is false: tags of earlier stages depend on it")
    by_factory = "order" in factory and (order is None or names_stages(order))
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
    """Returns the stream in the section's scenario where that deals out rows anew, else as it is.

    Raises:
        ConfigError, DataError: the stream cannot be staged so.
    """
    scenario = str(section.get("scenario"))
    if scenario not in RESTAGING or stream.given_columns:
        return stream
    arguments = {key: section[key] for key in SCENARIO_KEYS[scenario] if key in section}
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


def first_stages(stream: Stream, num_stages: int | None) -> Stream:
    """Returns the first `num_stages` stages of a stream; None: all.

    Raises:
        ConfigError: there are fewer, or nothing would be scored.
    """
    if num_stages is not None and num_stages > len(stream):
        raise ConfigError(f"stream.first_stages: must be at most {len(stream)} here, got {num_stages}")
    cut = stream.first(num_stages)
    if stream.given_columns and not cut.given_columns:
        raise ConfigError(f"stream.first_stages: no column is learned after {num_stages} stages, so nothing is scored")
    return cut
