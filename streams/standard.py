"""One data set of the catalogue, cut into stages; `cl-mlm list configs` shows examples."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from cl_mlm.config import make_objective
from cl_mlm.data import (
    by_field,
    by_labels,
    by_source,
    by_types,
    column_codes,
    find_folder,
    label_form,
    one_spelling,
    row_types,
    stage_order,
)
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.objective import Objective
from cl_mlm.stream import SPLITS, Scenario, Stream
from streams._catalogue import SOURCES
from streams._sources import Limits, find_local, load_splits

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["standard"]

StagesBy = Literal["labels", "types", "field", "whole"]


def standard(
    *,
    dataset: str,
    path: str | None = None,
    stages_by: StagesBy | None = None,
    stages: int | None = None,
    groups: list[list[str]] | None = None,
    field: str | None = None,
    mask_others: bool = True,
    order_seed: int | None = 0,
    scenario: Scenario | None = None,
    max_rows: dict[str, int] | None = None,
    max_rows_per_label: dict[str, int] | None = None,
    options: dict[str, Any] | None = None,
) -> Stream:
    """Returns a stream over one data set of the catalogue, from a local copy or the hub.

    Args:
        dataset: its name, such as `banking77`.
        path: a folder with train, validation and test files that have our columns; null: the folder of that name in
            `CL_MLM_DATA` where there is one, else the hub.
        stages_by: `labels` or `types` (entity types): every stage brings new ones; `field`: one stage for each value of
            a column; `whole`: one stage. Null: `types` for tagging, else `labels`.
        stages: for `labels` and `types`: how many stages; where labels or types cannot be shared out evenly, the first
            stages bring one more.
        groups: for `labels` and `types`: those of every stage, in order, instead of `stages`.
        field: for `field`: the column.
        mask_others: for `types`: whether tags of earlier stages' types are `O`, as those of later stages' types are.
        order_seed: shuffles labels, types or values; null: sorted by name.
        scenario: null: domain_incremental for `field`, else class_incremental.
        max_rows: at most so many rows of a split, such as `{train: 5000}`; the same ones in every run.
        max_rows_per_label: at most so many rows of each label in a split.
        options: arguments of the objective.

    Raises:
        ConfigError: arguments that do not fit each other or the data set.
        DataError: faults of the rows, or neither a local copy nor the hub in reach.
    """
    if dataset not in SOURCES:
        known = sorted(SOURCES)
        raise ConfigError(
            f"stream.dataset: no data set is called {dataset!r}{nearest(dataset, known)}; allowed: {', '.join(known)}"
        )
    source = SOURCES[dataset]
    objective = make_objective(source.objective, options or {})
    default = "types" if "tags" in objective.columns else "labels"
    kind = stages_by or default
    _check(kind, stages, groups, field, mask_others, objective)
    limits = Limits(max_rows or {}, max_rows_per_label or {})
    folder = find_folder(path) if path is not None else find_local(dataset, source, None)
    splits, notes = load_splits(dataset, source, folder, objective, limits)
    common: dict[str, Any] = {"name": dataset, "notes": notes, **source.fields(source.objective, options or {})}
    if kind == "whole":
        return by_source({dataset: splits}, scenario=scenario or "class_incremental", **common)
    if kind == "field":
        if field == "domain":
            del common["domain"]  # every stage has its own
        order: dict[str, Any] = {"order_seed": order_seed, "scenario": scenario or "domain_incremental"}
        return by_field(splits, str(field), **order, **common)
    common["scenario"] = scenario or "class_incremental"
    cut = groups
    if cut is None:
        cut = _even_groups(_names(splits, kind, objective, dataset), stages or 0, order_seed, kind)
    if kind == "types":
        return by_types(splits, groups=cut, mask_others=mask_others, **common)
    return by_labels(splits, groups=cut, **common)


def _check(
    kind: str,
    stages: int | None,
    groups: list[list[str]] | None,
    field: str | None,
    mask_others: bool,
    objective: Objective,
) -> None:
    problems = []
    column = {"labels": "label", "types": "tags"}.get(kind)
    if kind not in ("labels", "types", "field", "whole"):
        problems.append(f"stream.stages_by: must be labels, types, field or whole, got {kind!r}")
    elif column is None:
        given = {"stages": stages, "groups": groups}
        problems += [
            f"stream.{key}: must be null where stages_by is {kind}, got {value!r}"
            for key, value in given.items()
            if value is not None
        ]
    elif column not in objective.columns:
        problems.append(f"stream.stages_by: {kind} needs rows with {column}, got objective {objective.name}")
    elif (stages is None) == (groups is None):
        problems.append(f"stream.stages: needed, or stream.groups instead, where stages_by is {kind}, got {stages!r}")
    if (field is None) == (kind == "field"):
        problems.append(f"stream.field: must name a column where stages_by is field, else be null, got {field!r}")
    if not mask_others and kind != "types":
        problems.append(f"stream.mask_others: must be true where stages_by is {kind}, got False")
    if problems:
        raise ConfigError(problems)


def _names(splits: Mapping[str, Dataset], kind: str, objective: Objective, where: str) -> list[str]:
    """Returns all labels or entity types, sorted; of those that look the same one."""
    if kind == "types":
        types_of_rows = (row for rows in row_types(splits, objective, where).values() for row in rows)
        return one_spelling(name for row in types_of_rows for name in row)
    labels: set[str] = set()
    for split in SPLITS:
        labels.update(column_codes(splits[split], "label", f"{where} {split}")[1])
    unlearned = {label_form(label) for label in objective.unlearned}
    return one_spelling(label for label in labels if label_form(label) not in unlearned)


def _even_groups(names: list[str], stages: int, order_seed: int | None, kind: str) -> list[list[str]]:
    """Returns the names of every stage, in the order of the seed; the first stages get one more where they must."""
    if not 1 <= stages <= len(names):
        raise ConfigError(f"stream.stages: must be 1 to {len(names)}, the number of {kind}, got {stages}")
    ordered = stage_order(names, order_seed)
    size, num_larger = divmod(len(ordered), stages)
    ends = [size * i + min(i, num_larger) for i in range(stages + 1)]
    return [ordered[start:end] for start, end in pairwise(ends)]
