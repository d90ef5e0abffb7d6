"""One data set of the hub, at a pinned revision, as a stream: one stage, or cut into stages by label or by a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from cl_mlm.config import make_objective
from cl_mlm.data import (
    Missing,
    Reading,
    StageFields,
    arrow_batches,
    as_conversations,
    by_field,
    by_labels,
    by_source,
    carve_rows,
    lacks_value,
    pick,
    pick_rows,
    picked_notes,
    rows_faults,
)
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.stream import SPLITS, Scenario, Stream
from streams._hub import open_hub, with_names
from streams._own_files import (
    CARVE_SEED,
    OwnFiles,
    cut_with_validation,
    fraction_faults,
    optional_columns,
    read_own,
    validation_note,
    with_validation,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

    from cl_mlm.objective import Objective

__all__ = ["hub"]


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
    uneven: bool = False,
    field: str | None = None,
    order_seed: int | None = 0,
    scenario: Scenario | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    missing: Missing = "error",
    objective: str = "classification",
    options: dict[str, Any] | None = None,
) -> Stream:
    """Returns a stream over one data set of the hub, read without running any code that comes with it.

    Args:
        dataset: its id, such as `stanfordnlp/sst2`.
        revision: the commit that is read; it must be given, as data sets change.
        subset: one of the data set's configurations; null: its only one.
        path: a folder with train, validation and test files that have our columns, or one file, read instead of the hub
            as the stream `files` reads them; as given or inside `CL_MLM_DATA`.
        splits: our `train`, `validation` and `test` to the hub's names; one that is not named is not read. Null: the
            same names. A missing validation split is carved from train.
        rows: how many rows of a split to use, such as `{train: 700}`; the same ones in every run.
        columns: our names of columns to the hub's: `{text: sentence}`.
        stages_by: `whole`: one stage; `labels`: every stage brings new labels; `field`: one stage for each value of a
            column.
        labels_per_stage: for `labels`: how many a stage brings.
        uneven: for `labels`: whether the last stage may bring fewer.
        field: for `field`: the column.
        order_seed: shuffles labels or values; null: sorted.
        scenario: null: domain_incremental for `field`, else class_incremental.
        validation_fraction: fraction of the training rows (0-1) to carve.
        test_fraction: fraction of the training rows (0-1) to carve where there is no test split, before validation rows
            are carved; null: there must be one, and 0.2 of one file.
        delimiter: of files in `path`: what separates columns; null: it is told from the first lines.
        encoding: of files in `path`; null: UTF-8.
        missing: whether rows without a value of a needed column are an `error`, or are left out (`drop`) and counted.
        objective: what a row means: a name of `cl-mlm list objectives`.
        options: arguments of the objective.

    Raises:
        ConfigError: arguments that do not fit each other or the data set.
        DataError: faults of the rows, or a hub out of reach.
    """
    rows_objective = make_objective(objective, options or {})
    reading = Reading({}, delimiter, encoding, missing)
    problems = [*reading.faults(), *_of_files_only(path, delimiter, encoding)]
    problems += fraction_faults("stream", validation_fraction=validation_fraction, test_fraction=test_fraction)
    if uneven and stages_by != "labels":
        problems.append(f"stream.uneven: must be false where stages_by is {stages_by}, got {uneven}")
    _check(stages_by, labels_per_stage, field, splits, rows, test_fraction, problems)
    if path is None:
        own = _from_hub(dataset, subset, revision, splits, columns or {}, test_fraction)
        own = _complete(own, rows_objective, missing, test_fraction, field)
    else:
        own = read_own(path, reading, rows_objective, test_fraction, field)
    raw, is_carved = own.splits, "validation" not in own.splits
    notes = [*own.notes, *([validation_note(validation_fraction)] if is_carved else []), *picked_notes(rows)]
    fields: StageFields = {"task": objective, "objective": objective, "options": options or {}, "source": dataset}
    name = dataset.rpartition("/")[2]

    def cut(spread: bool) -> Stream:
        whole = with_validation(raw, validation_fraction, spread=spread) if is_carved else raw
        usual: Scenario = "domain_incremental" if stages_by == "field" else "class_incremental"
        arguments: dict[str, Any] = {"name": name, "notes": notes, "scenario": scenario or usual, **fields}
        picked = pick_rows(whole, rows)
        if stages_by == "labels":
            arguments |= {"labels_per_stage": labels_per_stage, "uneven": uneven}
            return by_labels(picked, order_seed=order_seed, **arguments)
        if stages_by == "field":
            return by_field(picked, str(field), order_seed=order_seed, **arguments)
        return by_source({name: picked}, **arguments)

    return cut_with_validation(cut, is_carved, own.has_carved_test)


def _of_files_only(path: str | None, delimiter: str | None, encoding: str | None) -> list[str]:
    """Returns a fault for each setting of files that is given where the hub is read."""
    given = {"delimiter": delimiter, "encoding": encoding}
    return [
        f"stream.{key}: must be null where stream.path is, as the hub is then read, got {value!r}"
        for key, value in given.items()
        if value is not None and path is None
    ]


def _check(
    stages_by: str,
    labels_per_stage: int | None,
    field: str | None,
    splits: Mapping[str, str] | None,
    rows: Mapping[str, int] | None,
    test_fraction: float | None,
    problems: list[str],
) -> None:
    """Adds to `problems`, and refuses all of them.

    Raises:
        ConfigError: there are some.
    """
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
    needed = ("train", "test") if test_fraction is None else ("train",)
    missing = [name for name in needed if splits is not None and name not in splits]
    hint = "; stream.test_fraction=0.2 carves test rows from train"
    problems += [
        f"stream.splits: must name {name}, got {dict(splits or {})}{hint if name == 'test' else ''}" for name in missing
    ]
    problems += rows_faults(rows)
    if problems:
        raise ConfigError(problems)


def _from_hub(
    dataset: str,
    subset: str | None,
    revision: str,
    given: Mapping[str, str] | None,
    columns: Mapping[str, str],
    test_fraction: float | None,
) -> OwnFiles:
    """Returns the wanted splits with our names of columns, and labels as names.

    Raises:
        ConfigError: there is no such split, except for validation and test, which can be carved from train.
        DataError: the hub is out of reach.
    """
    whole = open_hub(dataset, subset, revision, "stream.dataset", "stream.path names a local copy")
    known = [str(name) for name in whole]
    splits = given or {split: split for split in SPLITS}
    lacking = {ours: name for ours, name in splits.items() if name not in known}
    told = {ours for ours in lacking if ours == "train" or (ours == "test" and test_fraction is None)}
    if told:
        hint = "; stream.test_fraction=0.2 carves test rows from train" if told == {"test"} else ""
        raise ConfigError(f"stream.splits: {dataset} has {', '.join(known)}, got {', '.join(lacking.values())}{hint}")
    read = {ours: _ours(whole[name], columns) for ours, name in splits.items() if name in known}
    unread = [name for name in known if name not in splits.values()]
    notes = [f"not read, as stream.splits does not name them: {', '.join(unread)}"] if unread and given is None else []
    return OwnFiles(read, notes, has_carved_test=False)


def _complete(
    own: OwnFiles, objective: Objective, missing: str, test_fraction: float | None, field: str | None
) -> OwnFiles:
    """Returns rows of the hub without those that lack a value, where they are dropped, and with carved test rows."""
    splits = {split: as_conversations(rows, objective.columns) for split, rows in own.splits.items()}
    notes = list(own.notes)
    if missing == "drop":
        needed = [*objective.columns, *optional_columns(objective, field)]
        for split, rows in splits.items():
            needed_here = [name for name in needed if name in rows.column_names]
            kept = _filled(rows, needed_here)
            if len(kept) < len(rows):
                splits[split] = pick(rows, kept)
                number, names = len(rows) - len(kept), " or ".join(needed_here)
                first = f"the first is row {_first_gap(kept)}, counted from 0"
                notes.append(f"{split}: {number:,} row{'s' * (number > 1)} without {names} dropped, {first}")
    if test_fraction is None:
        return OwnFiles(splits, notes, has_carved_test=False)
    if "test" in splits:
        raise ConfigError(f"stream.test_fraction: must be null where there is a test split, got {test_fraction}")
    splits["train"], splits["test"] = carve_rows(splits["train"], "test", test_fraction, CARVE_SEED, spread=3)
    notes.append(f"test carved from train: {100 * test_fraction:g} % of rows")
    return OwnFiles(splits, notes, has_carved_test=True)


def _filled(dataset: Dataset, columns: Sequence[str]) -> npt.NDArray[np.int64]:
    """Returns the positions of the rows that have a value in all columns: neither null nor a blank text."""
    import numpy as np

    good = []
    for table in arrow_batches(dataset):
        values = [table.column(name).to_pylist() for name in columns]
        good += [not any(map(lacks_value, columns, row)) for row in zip(*values, strict=True)]
    return np.flatnonzero(good)


def _first_gap(kept: npt.NDArray[np.int64]) -> int:
    """Returns the first position that is not among `kept`, which are sorted."""
    return next((i for i, position in enumerate(kept) if i != position), len(kept))


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
