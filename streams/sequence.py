"""Several data sets, each a stage: the benchmarks of 4 and 15 tasks, TRACE, or any sets of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.config import make_objective
from cl_mlm.data import arrow_batches, by_source
from cl_mlm.errors import ConfigError, DataError, nearest
from cl_mlm.stream import SPLITS, Scenario, Stage, Stream
from streams._catalogue import SOURCES
from streams._sequences import SEQUENCES
from streams._sources import Limits, find_local, load_splits

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["sequence"]

BETWEEN = ": "  # between a stage's name and its label, where labels are not shared


def sequence(
    *,
    sets: str | list[str],
    published_order: int | None = None,
    without: list[str] | None = None,
    path: str | None = None,
    scenario: Scenario | None = None,
    shared_labels: bool = True,
    objective: str | None = None,
    options: dict[str, Any] | None = None,
    max_rows: dict[str, int] | None = None,
    max_rows_per_label: dict[str, int] | None = None,
) -> Stream:
    """Returns a stream with one stage for each data set.

    Args:
        sets: a published sequence (`standard4`, `long15`, `trace`), or names of data sets in the wanted order.
        published_order: the number of a published order; null: the first. The key `order` gives any other order.
        without: stages to leave out; the notes say so.
        path: a folder with a folder for each set, whose files have our columns; null: folders of these names in
            `CL_MLM_DATA` where there are such, else the hub.
        scenario: null: class_incremental where rows have labels, else domain_incremental.
        shared_labels: whether labels of the same name are one label, whichever set brings it; false: every stage has
            labels of its own, named `<stage>: <label>`.
        objective: null: that of the sets; `language_modelling` reads their column `text` only.
        options: arguments of the objective.
        max_rows: at most so many rows of a split in each stage, such as `{test: 7600}`; the same ones in every run.
        max_rows_per_label: at most so many rows of each label in a split.

    Raises:
        ConfigError: arguments that do not fit each other or the data sets.
        DataError: faults of the rows, or neither a local copy nor the hub in reach; of all sets at once.
    """
    set_of_stage = _chosen_sets(sets, published_order, without or [])
    name = sets if isinstance(sets, str) else "-".join(set_of_stage)
    objective_name = objective or _one_objective(set_of_stage)
    rows_objective = make_objective(objective_name, options or {})
    limits = Limits(max_rows or {}, max_rows_per_label or {})
    scenario = scenario or ("class_incremental" if rows_objective.min_labels else "domain_incremental")
    if not shared_labels and ("label" not in rows_objective.columns or scenario == "domain_incremental"):
        raise ConfigError(
            f"stream.shared_labels: must be true for objective {objective_name} in scenario {scenario}: stages cannot "
            "have labels of their own; got False"
        )
    stages: list[Stage] = []
    notes = [f"left out: {stage}" for stage in without or []]
    problems: list[str] = []
    for stage, key in set_of_stage.items():
        source = SOURCES[key]
        try:
            folder = find_local(key, source, path)
            if folder is None and path is not None:
                raise DataError(f"{key}: {path} must hold a folder {' or '.join((key, *source.folders))}")
            splits, new_notes = load_splits(key, source, folder, rows_objective, limits)
        except DataError as error:
            problems += [f"{fault}; or leave it out: stream.without=[{stage}]" for fault in error.problems]
            continue
        notes += new_notes
        stages += by_source({stage: splits}, name=name, **source.fields(objective_name, options or {})).stages
    if problems:
        raise DataError(problems)
    if not shared_labels:
        stages = [_with_own_labels(stage) for stage in stages]
    return Stream(name, tuple(stages), scenario, tuple(notes))


def _chosen_sets(sets: str | list[str], order: int | None, without: Sequence[str]) -> dict[str, str]:
    """Returns the name of every stage and of its set in the catalogue, in order."""
    if isinstance(sets, str):
        if sets not in SEQUENCES:
            raise ConfigError(
                f"stream.sets: no sequence is called {sets!r}{nearest(sets, SEQUENCES)}; allowed: "
                f"{', '.join(SEQUENCES)}, or a list of data sets"
            )
        known = SEQUENCES[sets].orders
        if order is not None and order not in known:
            raise ConfigError(f"stream.published_order: {sets} has order {', '.join(map(str, known))}, got {order}")
        stages = known[order if order is not None else next(iter(known))]
        named = {stage: SEQUENCES[sets].prefix + stage for stage in stages}
    else:
        problems = [
            f"stream.sets: no data set is called {key!r}{nearest(key, SOURCES)}; allowed: {', '.join(sorted(SOURCES))}"
            for key in dict.fromkeys(sets)
            if key not in SOURCES
        ]
        problems += [
            f"stream.sets: must name each set once, got {key!r} twice" for key in set(sets) if sets.count(key) > 1
        ]
        if order is not None:
            problems.append(f"stream.published_order: must be null where stream.sets is a list, got {order}")
        if problems:
            raise ConfigError(problems)
        named = {stage: stage for stage in sets}
    unknown = [f"stream.without: no stage is called {x!r}{nearest(x, named)}" for x in without if x not in named]
    remaining = {stage: key for stage, key in named.items() if stage not in without}
    if unknown or not remaining:
        raise ConfigError(unknown or "stream.sets: must leave at least one stage, got none")
    return remaining


def _one_objective(set_of_stage: dict[str, str]) -> str:
    """Returns the objective of all sets.

    Raises:
        ConfigError: they have several.
    """
    objectives = {stage: SOURCES[key].objective for stage, key in set_of_stage.items()}
    if len(set(objectives.values())) > 1:
        listed = ", ".join(f"{stage} is {objective}" for stage, objective in objectives.items())
        raise ConfigError(f"stream.sets: all must have one objective, or stream.objective must be set, got {listed}")
    return next(iter(objectives.values()))


def _with_own_labels(stage: Stage) -> Stage:
    prefix = stage.name + BETWEEN
    splits = {split: _prefixed(stage.split(split), prefix) for split in SPLITS}
    return replace(stage, labels=tuple(prefix + label for label in stage.labels), **splits)


def _prefixed(rows: Dataset, prefix: str) -> Dataset:
    """Returns the rows with `prefix` before every label; the other columns are not copied."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import Dataset as Table

    tables = list(arrow_batches(rows))
    if not tables:
        return rows
    whole = pa.concat_tables(tables)
    place = whole.column_names.index("label")
    label = whole.column(place).cast(pa.large_string())
    empty = pa.scalar("", pa.large_string())
    joined = pc.call_function("binary_join_element_wise", [pa.scalar(prefix, pa.large_string()), label, empty])
    # `datasets` keeps its description of the old column in the metadata.
    return Table(whole.set_column(place, "label", joined).replace_schema_metadata(None))
