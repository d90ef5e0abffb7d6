"""One data set of the hub, at a pinned revision, as a stream: one stage, or cut into stages by label or by a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from cl_mlm.config import make_objective
from cl_mlm.data import (
    StageFields,
    arrow_batches,
    by_field,
    by_labels,
    by_source,
    carve_validation,
    find_folder,
    pick_rows,
    picked_notes,
    read_splits,
    rows_faults,
)
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.stream import SPLITS, Scenario, Stream
from streams._hub import open_hub, with_names

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["hub"]

CARVE_SEED = 0  # the carved rows are part of the data: the same for every run seed


def hub(
    *,
    dataset: str,
    revision: str,
    subset: str | None = None,
    path: str | None = None,
    splits: dict[str, str] | None = None,
    rows: dict[str, int] | None = None,
    columns: dict[str, str] | None = None,
    stages_by: Literal["whole", "labels", "field"] = "whole",
    labels_per_stage: int | None = None,
    field: str | None = None,
    order_seed: int | None = 0,
    scenario: Scenario | None = None,
    validation_fraction: float = 0.1,
    objective: str = "classification",
    options: dict[str, Any] | None = None,
) -> Stream:
    """Returns a stream over one data set of the hub, read without running any code that comes with it.

    Args:
        dataset: its id, such as `stanfordnlp/sst2`.
        revision: the commit that is read; it must be given, as data sets change.
        subset: one of the data set's configurations; null: its only one.
        path: a folder with train, validation and test files that have our columns, read instead of the hub; as given or
            inside `CL_MLM_DATA`.
        splits: our `train`, `validation` and `test` to the hub's names; one that is not named is not read. Null: the
            same names. A missing validation split is carved from train.
        rows: how many rows of a split to use, such as `{train: 700}`; the same ones in every run.
        columns: our names of columns to the hub's: `{text: sentence}`.
        stages_by: `whole`: one stage; `labels`: every stage brings new labels; `field`: one stage for each value of a
            column.
        labels_per_stage: for `labels`: how many a stage brings.
        field: for `field`: the column.
        order_seed: shuffles labels or values; null: sorted.
        scenario: null: domain_incremental for `field`, else class_incremental.
        validation_fraction: fraction of the training rows (0-1) to carve.
        objective: what a row means: a name of `cl-mlm list objectives`.
        options: arguments of the objective.

    Raises:
        ConfigError: arguments that do not fit each other or the data set.
        DataError: faults of the rows, or a hub out of reach.
    """
    required = make_objective(objective, options or {}).columns
    _check(stages_by, labels_per_stage, field, splits, rows)
    if path is None:
        raw = _from_hub(dataset, subset, revision, splits or {split: split for split in SPLITS}, columns or {})
    else:
        raw = read_splits(find_folder(path), required=required)
    notes = []
    if "validation" not in raw:
        raw["train"], raw["validation"] = carve_validation(raw["train"], validation_fraction, CARVE_SEED)
        notes.append(f"validation carved from train: {100 * validation_fraction:g} % of rows")
    raw = pick_rows(raw, rows)
    notes += picked_notes(rows)
    fields: StageFields = {"task": objective, "objective": objective, "options": options or {}, "source": dataset}
    name = dataset.rpartition("/")[2]
    if stages_by == "labels":
        return by_labels(
            raw,
            name=name,
            labels_per_stage=labels_per_stage,
            order_seed=order_seed,
            scenario=scenario or "class_incremental",
            notes=notes,
            **fields,
        )
    if stages_by == "field":
        return by_field(
            raw,
            str(field),
            name=name,
            order_seed=order_seed,
            scenario=scenario or "domain_incremental",
            notes=notes,
            **fields,
        )
    return by_source({name: raw}, name=name, scenario=scenario or "class_incremental", notes=notes, **fields)


def _check(
    stages_by: str,
    labels_per_stage: int | None,
    field: str | None,
    splits: Mapping[str, str] | None,
    rows: Mapping[str, int] | None,
) -> None:
    problems = []
    if stages_by not in ("whole", "labels", "field"):
        problems.append(f"stream.stages_by: must be whole, labels or field, got {stages_by!r}")
    if (field is None) == (stages_by == "field"):
        problems.append(
            f"stream.field: must name a column where stream.stages_by is field, else be null, got {field!r}"
        )
    if labels_per_stage is not None and stages_by != "labels":
        problems.append(f"stream.labels_per_stage: must be null where stages_by is {stages_by}, got {labels_per_stage}")
    problems += [
        f"stream.splits: must name train, validation or test, got {name!r}{nearest(name, SPLITS)}"
        for name in splits or {}
        if name not in SPLITS
    ]
    missing = [name for name in ("train", "test") if splits is not None and name not in splits]
    problems += [f"stream.splits: must name {name}, got {dict(splits or {})}" for name in missing]
    problems += rows_faults(rows)
    if problems:
        raise ConfigError(problems)


def _from_hub(
    dataset: str, subset: str | None, revision: str, splits: Mapping[str, str], columns: Mapping[str, str]
) -> dict[str, Dataset]:
    """Returns the wanted splits with our names of columns, and labels as names.

    Raises:
        ConfigError: there is no such split, except for validation, which can be carved from train.
        DataError: the hub is out of reach.
    """
    whole = open_hub(dataset, subset, revision, "stream.dataset", "stream.path names a local copy")
    known = [str(name) for name in whole]
    lacking = [name for name in splits.values() if name not in known]
    if lacking and splits.get("validation") not in lacking:
        raise ConfigError(f"stream.splits: {dataset} has {', '.join(known)}, got {', '.join(lacking)}")
    return {ours: _ours(whole[name], columns) for ours, name in splits.items() if name in known}


def _ours(dataset: Dataset, columns: Mapping[str, str]) -> Dataset:
    """Returns the rows with our names of columns, and names of classes in place of their numbers; -1 is no label."""
    import pyarrow as pa
    from datasets import ClassLabel, Dataset

    missing = [name for name in columns.values() if name not in dataset.column_names]
    if missing:
        raise ConfigError(f"stream.columns: no column {missing[0]!r}; allowed: {', '.join(dataset.column_names)}")
    renamed = {theirs: ours for ours, theirs in columns.items()}
    # Without an indices mapping the table is used as it lies on disk.
    has_mapping = dataset._indices is not None
    table: pa.Table = pa.concat_tables(arrow_batches(dataset)) if has_mapping else dataset.data.table
    arrays, names = [], []
    for name, feature in dataset.features.items():
        column = table.column(name)
        if isinstance(feature, ClassLabel):
            column = pa.array(with_names(column.to_pylist(), feature), pa.string())
        arrays.append(column)
        names.append(renamed.get(name, name))
    return Dataset(pa.table(arrays, names=names))
