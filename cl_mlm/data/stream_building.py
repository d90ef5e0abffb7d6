"""Builds the stream of a `stream` section: from files to stages that may be trained on.

`build_stream` is the whole path; every step of it takes a stream and returns a stream.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.arrow import pick
from cl_mlm.config.components import find, make_objective, make_stream, parameters
from cl_mlm.config.stream_keys import HANDLING_KEYS, OPTIONAL_KEYS, SCENARIO_KEYS, names_stages, prefixed
from cl_mlm.data.conversation_form import as_scored
from cl_mlm.data.files import find_folder, read_splits
from cl_mlm.data.hygiene import clean, with_sound_labels
from cl_mlm.data.in_memory import check_form
from cl_mlm.data.label_folding import fold_labels
from cl_mlm.data.ordering import reordered
from cl_mlm.data.sampling import limit
from cl_mlm.data.scenarios import RESTAGING
from cl_mlm.data.staging import by_source
from cl_mlm.data.tasks import foreign_columns, objectives_of
from cl_mlm.data.text_form import as_text
from cl_mlm.data.wording_form import worded
from cl_mlm.data.wordings import names_of, parse_wordings
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import WITHHELD, Column, Stage, Stream, column_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cl_mlm.config.schema import UnseenLabels


def build_stream(
    section: Mapping[str, Any],
    limit_rows: int | None = None,
    given: Stream | None = None,
    folds_case: Callable[[], bool] = lambda: False,
) -> tuple[Stream, dict[str, int]]:
    """Returns the stream of a resolved `stream` section, ready to train on, and the counts of overlapping rows.

    Args:
        section: the arguments of the stream's factory and the keys of `config/stream_keys.py`.
        limit_rows: rows a split at most, for a smoke run; None: all.
        given: a stream object in place of the factory's; the section then says what is done to it.
        folds_case: says whether the model's tokenizer folds letter case; asked only where it matters.

    Raises:
        ConfigError, DataError: every fault of the section or of the rows.
    """
    num_first = section.get("first_stages")
    deals_anew = section.get("scenario") in SCENARIO_KEYS
    wordings = parse_wordings(section)  # before any row is read
    stream = make_base(section) if given is None else given
    known = names_of([*stream.stages, *stream.columns])
    if not deals_anew:
        # Before any row is read: settings chosen on the first stages must not depend on later ones. A scenario that
        # deals out rows anew makes its stages from the whole stream, so that it is cut last.
        stream = first_stages(stream, num_first)
    folds = _folds(section)
    if folds:
        stream = fold_labels(stream, keeps_stages=given is not None)
    unseen_labels: UnseenLabels = "drop" if section.get("unseen_labels") == "drop" else "error"
    if section.get("as_text") and wordings is None:
        stream = as_text(with_sound_labels(stream, unseen_labels), section.get("text_options", {}))
    stream = with_probes(stream, section.get("probes", {}), folds)
    if wordings is not None and (unknown := wordings.unknown([*known, *names_of(stream.probes)])):
        raise ConfigError(unknown)
    stream, overlap = clean(
        stream, section.get("overlap", "error"), unseen_labels, folds_case, are_classes=wordings is None
    )
    if limit_rows is not None:
        # Rows for every stage that is yet to be dealt out.
        num_to_fill = section.get("num_stages", 1) if deals_anew else 1
        stream = limit(stream, limit_rows * num_to_fill)
    if wordings is not None:
        # Behind the gate: which rows are kept does not depend on the words around them.
        stream = worded(stream, wordings)
    stream = as_scored(stream)
    _check_objectives(stream, section)
    if deals_anew:
        stream = first_stages(restage(stream, section), num_first)
    if section.get("withhold"):
        stream = withholding(stream, section["withhold"])
    return stream, overlap


def _folds(section: Mapping[str, Any]) -> bool:
    return section.get("labels") == "fold"  # a factory's own argument of that name has other values


def make_base(section: Mapping[str, Any]) -> Stream:
    """Returns the stream that the section's factory builds, in the order that the section asks for.

    Scenarios that deal out rows anew, `as_text` and `first_stages` are left to the caller.

    Raises:
        ConfigError, DataError: faults found by the factory, or an order that is no permutation of the stages.
    """
    factory = parameters(find("stream", section["name"]))
    arguments = {key: value for key, value in section.items() if key not in (*HANDLING_KEYS, "name")}
    if arguments.get("scenario") in SCENARIO_KEYS:
        for key in ("scenario", "scenario_seed", *SCENARIO_KEYS[arguments["scenario"]]):
            arguments.pop(key, None)
        base = arguments.pop("base_scenario", None)
        if base is not None:
            arguments["scenario"] = base
    order = arguments.get("order")
    orders = None if "orders" in factory else arguments.get("orders")
    if order is not None and orders is not None:
        order = next(named for key, named in orders.items() if str(key) == str(order))
    if order is not None and arguments.get("mask_others") is False:
        raise ConfigError("stream.order: must be null where mask_others is false: tags of earlier stages depend on it")
    # Its own arguments win over the platform's keys, but for an order by index, which is the platform's.
    for_factory = {key: value for key, value in arguments.items() if key in factory or key not in OPTIONAL_KEYS}
    for_factory.pop("order", None)
    factory_orders = "order" in factory and (order is None or names_stages(order))
    if factory_orders:
        for_factory["order"] = order
    stream = make_stream(section["name"], for_factory)
    if "." in section["name"]:
        check_form(stream)
    if orders is not None:
        _check_orders(stream, orders)
    return stream if order is None or factory_orders else reordered(stream, order)


def _check_orders(stream: Stream, orders: Mapping[Any, Any]) -> None:
    """Refuses orders that are no permutation of the stages, also those that are not chosen now.

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


def first_stages(stream: Stream, num_stages: int | None) -> Stream:
    """Returns the first `num_stages` stages of a stream; None: all.

    Raises:
        ConfigError: there are fewer, or no column would be scored.
    """
    if num_stages is not None and num_stages > len(stream):
        raise ConfigError(f"stream.first_stages: must be at most {len(stream)} here, got {num_stages}")
    cut = stream.first(num_stages)
    if stream.given_columns and not cut.given_columns:
        raise ConfigError(f"stream.first_stages: no column is learned after {num_stages} stages, so nothing is scored")
    return cut


def with_probes(stream: Stream, probes: Mapping[str, str | Mapping[str, Any]], folds: bool = False) -> Stream:
    """Returns the stream with further probes behind its own.

    Args:
        stream: gets the probes.
        probes: by name: the path of a folder, or a resolved `stream` section, whose every stage becomes a probe.
        folds: whether labels of all probes are folded; else of those whose section says so.

    Raises:
        ConfigError, DataError: every probe that cannot be read, or whose objective the stream does not have.
    """
    problems: list[str] = []
    columns: list[Column] = []
    known = list(dict.fromkeys(map(_objective_text, stream.stages)))
    for name, source in probes.items():
        try:
            new = _probes_of(stream, name, source, folds)
        except (ConfigError, DataError) as error:
            problems += [prefixed(line, name) for line in error.problems]
            continue
        if new and _objective_text(new[0]) not in known:
            allowed, asked = " or ".join(known), _objective_text(new[0])
            problems.append(f"stream.probes.{name}: must have the stream's objective {allowed}, got {asked}")
        columns += new
    if problems:
        raise ConfigError(problems)
    return replace(stream, probes=(*stream.probes, *columns))


def _objective_text(owner: Stage | Column) -> str:
    return f"{owner.objective} {dict(owner.options)}" if owner.options else owner.objective


def _probes_of(stream: Stream, name: str, source: str | Mapping[str, Any], folds: bool) -> list[Column]:
    if isinstance(source, str):
        return [_probe_of_folder(stream, name, source, folds)]
    return _probes_of_section(name, source, folds)


def _probe_of_folder(stream: Stream, name: str, path: str, folds: bool) -> Column:
    """Returns a folder's test rows, and its validation rows where it has some, read for the first stage's objective."""
    import numpy as np

    first = stream.stages[0]
    objective = make_objective(first.objective, first.options)
    folder = find_folder(path, key="stream.path")
    read = read_splits(folder, required=objective.columns, needed=("test",))
    no_rows = pick(read["test"], np.zeros(0, dtype=np.int64))
    splits = {"train": no_rows, "validation": read.get("validation", no_rows), "test": read["test"]}
    probe = by_source({name: splits}, name=name, objective=first.objective, options=first.options, task=first.task)
    return column_of((fold_labels(probe) if folds else probe).stages[0], home=None)


def _probes_of_section(name: str, section: Mapping[str, Any], folds: bool) -> list[Column]:
    """Returns one probe for each stage of a section's stream: `name`, or `name/stage` where there are several."""
    stream = make_base(section).first(section.get("first_stages"))
    if folds or _folds(section):
        stream = fold_labels(stream)
    if section.get("as_text"):
        stream = as_text(stream, section.get("text_options", {}))
    names: Sequence[str] = [name] if len(stream) == 1 else [f"{name}/{stage.name}" for stage in stream.stages]
    columns = [column_of(stage, home=None) for stage in stream.stages]
    return [replace(column, name=probe_name) for column, probe_name in zip(columns, names, strict=True)]


def _check_objectives(stream: Stream, section: Mapping[str, Any]) -> None:
    """Refuses columns that no head could answer, and scenarios that would mix the rows of several objectives.

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


def restage(stream: Stream, section: Mapping[str, Any]) -> Stream:
    """Returns the stream in the section's scenario where that deals out rows anew, else as it is.

    Raises:
        ConfigError, DataError: the stream cannot be dealt out like that.
    """
    scenario = str(section.get("scenario"))
    if scenario not in RESTAGING or stream.given_columns:
        return stream
    arguments = {key: section[key] for key in SCENARIO_KEYS[scenario] if key in section}
    return RESTAGING[scenario](stream, **arguments, seed=section.get("scenario_seed", 0))


def withholding(stream: Stream, names: Sequence[str]) -> Stream:
    """Returns the stream with `names` withheld beside those that it withholds already."""
    return replace(stream, withheld=tuple(name for name in WITHHELD if name in (*stream.withheld, *names)))
