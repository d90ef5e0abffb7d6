"""Cuts splits into the stages of a stream: by label, by the values of a column, or one stage for each data set.

Columns are read through Arrow, and rows are picked as index mappings over the same tables: no text is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from cl_mlm.arrow import arrow_batches, pick
from cl_mlm.config.components import make_objective
from cl_mlm.data.given_labels import no_value, with_text_labels
from cl_mlm.data.in_memory import as_dataset, check_arguments, given_splits
from cl_mlm.data.label_columns import places
from cl_mlm.data.label_forms import cut_spellings, label_form, with_forms
from cl_mlm.data.ordering import check_once, stage_order
from cl_mlm.errors import ConfigError, DataError, nearest
from cl_mlm.randomness import numpy_generator
from cl_mlm.stream import SPLITS, Scenario, Stage, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

    Indices = npt.NDArray[np.int64]


class StageFields(TypedDict, total=False):
    """Fields of `Stage` that are the same for every stage of a stream."""

    task: str
    objective: str
    options: Mapping[str, Any]
    domain: str | None
    language: str | None
    source: str | None
    licence: str | None


def by_labels(
    splits: Mapping[str, Dataset],
    *,
    name: str,
    labels_per_stage: int | None = None,
    order_seed: int | None = None,
    groups: Sequence[Sequence[str | int]] | None = None,
    uneven: bool | None = None,
    scenario: Scenario = "class_incremental",
    notes: Sequence[str] = (),
    **stage_fields: Unpack[StageFields],
) -> Stream:
    """Returns a stream whose stages `labels-01`, `labels-02` ... have disjoint labels.

    Args:
        splits: `train`, `validation` and `test` with the column `label`; a data set each, or a list of dicts, a dict of
            columns, or a pandas frame. Whole numbers become strings, class numbers of `datasets` their names.
        name: the stream's name.
        labels_per_stage: how many labels a stage brings; must divide their number. Labels that look the same
            (`label_form`) count once and come in one stage. Rows with a label that no stage
            brings (`Objective.unlearned`) are dealt out to all stages in turn.
        order_seed: shuffles the labels, sorted by name, before they are cut; None: keeps them sorted.
        groups: the labels of every stage, in order, instead of `labels_per_stage`; `order_seed` is then not used.
        uneven: whether the last stage may bring fewer labels; None: no, and messages do not name the way out.
        scenario: how rows are predicted.
        notes: what was done to the rows before.
        stage_fields: further fields of every `Stage`.

    Raises:
        ConfigError: the labels cannot be cut like that, or an argument is of another type.
        DataError: a row without label, or labels that are no strings and no whole numbers.
    """
    numbers = {"labels_per_stage": labels_per_stage, "order_seed": order_seed}
    check_arguments(name, scenario, notes, numbers=numbers, flags={"uneven": uneven}, groups=groups)
    splits = with_text_labels(given_splits(splits, name, ["label"]), name)
    coded = {split: column_codes(splits[split], "label", f"{name} {split}") for split in SPLITS}
    objective = make_objective(stage_fields.get("objective", "classification"), stage_fields.get("options", {}))
    unlearned = {label_form(label) for label in objective.unlearned}
    labels = {label for _, names in coded.values() for label in names if label_form(label) not in unlearned}
    cut = cut_spellings(labels, labels_per_stage, groups, order_seed, uneven=uneven)
    stage_of = {label: i for i, group in enumerate(cut) for label in group}
    splits_of_stages = _splits_of_stages(splits, coded, stage_of, len(cut))
    width = max(2, len(str(len(cut))))
    stages = tuple(
        Stage(name=f"labels-{i:0{width}d}", labels=tuple(group), **stage_splits, **stage_fields)
        for i, (group, stage_splits) in enumerate(zip(cut, splits_of_stages, strict=True), 1)
    )
    return Stream(name, stages, scenario, tuple(notes))


def by_field(
    splits: Mapping[str, Dataset],
    field: str,
    *,
    name: str,
    order_seed: int | None = None,
    order: Sequence[str] | None = None,
    scenario: Scenario = "domain_incremental",
    notes: Sequence[str] = (),
    **stage_fields: Unpack[StageFields],
) -> Stream:
    """Returns a stream with one stage for each value of the column `field`, named by that value.

    Args:
        splits: `train`, `validation` and `test`, each with the column; in the forms of `by_labels`.
        field: the column; `domain` and `language` also fill the field of that name in every `Stage`.
        name: the stream's name.
        order_seed: shuffles the values, sorted; None: keeps them sorted.
        order: every value once, in the wanted order; `order_seed` is then not used.
        scenario: how rows are predicted.
        notes: what was done to the rows before.
        stage_fields: further fields of every `Stage`.

    Raises:
        ConfigError: there is no such column, or `order` does not name every value once.
        DataError: a row without value, or with a blank one.
    """
    check_arguments(name, scenario, notes, numbers={"order_seed": order_seed}, order=order)
    splits = _given(splits, name, stage_fields)
    for split in SPLITS:
        columns = splits[split].column_names
        if field not in columns:
            allowed = f"allowed: {', '.join(columns)}"
            raise ConfigError(f"stream.field: {split} has no column {field!r}{nearest(field, columns)}; {allowed}")
    coded = {split: column_codes(splits[split], field, f"{name} {split}") for split in SPLITS}
    if blank := [split for split, (_, names) in coded.items() if any(not value.strip() for value in names)]:
        raise DataError(f"{name} {' and '.join(blank)}: must have a {field} in every row, got blank ones")
    values = sorted(set().union(*(names for _, names in coded.values())))
    if order is None:
        values = stage_order(values, order_seed)
    else:
        check_once("stream.order", f"value of {field!r}", order, values)
        values = list(order)
    stage_of = {value: i for i, value in enumerate(values)}
    stages = []
    for value, stage_splits in zip(values, _splits_of_stages(splits, coded, stage_of, len(values)), strict=True):
        fields = stage_fields.copy()
        if field == "domain":
            fields.setdefault("domain", value)
        elif field == "language":
            fields.setdefault("language", value)
        labels = _labels(stage_splits, f"{name} {value}", fields)
        stages.append(Stage(name=value, labels=labels, **stage_splits, **fields))
    return Stream(name, tuple(stages), scenario, tuple(notes))


def by_source(
    parts: Mapping[str, Mapping[str, Dataset]],
    *,
    name: str,
    scenario: Scenario = "domain_incremental",
    notes: Sequence[str] = (),
    **stage_fields: Unpack[StageFields],
) -> Stream:
    """Returns a stream with one stage for each data set of `parts`, in their order; its labels are those of its rows.

    Args:
        parts: name of a stage to its `train`, `validation` and `test` split.
        name: the stream's name.
        scenario: how rows are predicted.
        notes: what was done to the rows before.
        stage_fields: further fields of every `Stage`.

    Raises:
        DataError: a row without label, or labels that are no strings.
    """
    check_arguments(name, scenario, notes)
    if not isinstance(parts, Mapping):
        raise DataError(f"{name}: must be given a mapping from stages to their splits, got {type(parts).__name__}")
    parts = {stage: _given(splits, f"{name} {stage}", stage_fields) for stage, splits in parts.items()}
    stages = tuple(
        Stage(
            name=stage,
            labels=_labels(splits, f"{name} {stage}", stage_fields),
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            **stage_fields,
        )
        for stage, splits in parts.items()
    )
    return Stream(name, stages, scenario, tuple(notes))


def _given(splits: Any, where: str, fields: StageFields) -> dict[str, Dataset]:
    """Returns train, validation and test as data sets, with labels as strings where the objective has labels."""
    given = given_splits(splits, where)
    objective = make_objective(fields.get("objective", "classification"), fields.get("options", {}))
    return with_text_labels(given, where) if "label" in objective.columns else given


def carve_validation(
    train: Dataset, fraction: float, seed: int, strata: Indices | None = None
) -> tuple[Dataset, Dataset]:
    """Returns a smaller training split, and the rows taken out of it as validation split; see `carve_rows`."""
    return carve_rows(train, "validation", fraction, seed, strata)


def carve_rows(
    train: Dataset,
    split: str,
    fraction: float,
    seed: int,
    strata: Indices | None = None,
    *,
    spread: int | None = None,
) -> tuple[Dataset, Dataset]:
    """Returns a smaller training split, and the rows taken out of it as another split; both keep their order.

    Every stratum gives about `fraction` of its rows and keeps at least one.

    Args:
        train: the rows.
        split: what the rows that are taken out become: validation or test.
        fraction: of the rows that are taken out, 0-1.
        seed: of the choice.
        strata: the stratum of every row, int64 (N,), from 0; None: by the column `label`, where there is one.
        spread: every stratum with so many rows or more gives at least one, even where that is more than `fraction`;
            None: a small one may give none.

    Raises:
        ConfigError: `fraction` is not between 0 and 1.
        DataError: no row can be spared.
    """
    import numpy as np

    if not 0 < fraction < 1:
        raise ConfigError(f"stream.{split}_fraction: must be above 0 and below 1, got {fraction}")
    train = as_dataset(train, "train")
    codes = _label_strata(train) if strata is None else strata
    sizes = np.bincount(codes)
    quota = _quotas(sizes, fraction)
    if spread is not None:
        quota[(quota == 0) & (sizes >= max(2, spread))] = 1
    if not quota.sum():
        raise DataError(
            f"{split}: no row of {len(train)} can be spared from train, as every label must keep one; "
            f"give a {split} split"
        )
    shuffled = numpy_generator(seed, split).permutation(len(codes))
    chosen = places(codes, shuffled) < quota[codes]
    return pick(train, np.flatnonzero(~chosen)), pick(train, np.flatnonzero(chosen))


def _label_strata(dataset: Dataset) -> Indices:
    """Returns a number for every row's label, (N,); all 0 where there is no column `label` of strings."""
    import numpy as np

    if "label" in dataset.column_names and str(dataset.features["label"].dtype) in ("string", "large_string"):
        return column_codes(dataset, "label", "train")[0]
    return np.zeros(len(dataset), dtype=np.int64)


def column_codes(dataset: Dataset, column: str, where: str) -> tuple[Indices, tuple[str, ...]]:
    """Returns the code of every row's value, int64 (rows,), and the sorted distinct values that the codes index.

    Raises:
        DataError: a row has no value, or the values are no strings; begins with `where`.
    """
    import numpy as np
    import pyarrow as pa

    values = dataset.data.column(column)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DataError(f"{where}: column {column!r} must hold strings, got {values.type}")
    encoded = values.dictionary_encode().unify_dictionaries()
    names: list[str] = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    no_codes = np.zeros(0, dtype=np.int64)  # a split may have no rows, and then no chunk
    codes = np.concatenate([no_codes, *(chunk.indices.fill_null(-1).to_numpy() for chunk in encoded.chunks)])
    if dataset._indices is not None:  # the table holds more rows, in another order, than the data set shows
        codes = codes[dataset._indices.column(0).to_numpy()]
    if (codes < 0).any():
        raise DataError(no_value(where, column, np.flatnonzero(codes < 0).tolist()))
    used = sorted(names[code] for code in np.unique(codes))
    position = {value: i for i, value in enumerate(used)}
    sorted_code = np.array([position.get(value, -1) for value in names], dtype=np.int64)
    return sorted_code[codes], tuple(used)


def _splits_of_stages(
    splits: Mapping[str, Dataset],
    coded: Mapping[str, tuple[Indices, tuple[str, ...]]],
    stage_of: Mapping[str, int],
    num_stages: int,
) -> list[dict[str, Dataset]]:
    """Returns the three splits of every stage; rows keep their order.

    Args:
        splits: all rows.
        coded: `column_codes` of each split.
        stage_of: the stage of each value; rows with other values are dealt out to all stages in turn.
        num_stages: of the stream.
    """
    import numpy as np

    splits_of_stages: list[dict[str, Dataset]] = [{} for _ in range(num_stages)]
    for split, (codes, names) in coded.items():
        stages = np.array([stage_of.get(value, -1) for value in names], dtype=np.int64)[codes]
        stages[stages < 0] = np.arange((stages < 0).sum()) % num_stages
        by_stage = np.argsort(stages, kind="stable")
        bounds = np.searchsorted(stages[by_stage], np.arange(num_stages + 1))
        for i, stage_splits in enumerate(splits_of_stages):
            stage_splits[split] = pick(splits[split], by_stage[bounds[i] : bounds[i + 1]])
    return splits_of_stages


def _labels(splits: Mapping[str, Dataset], where: str, fields: StageFields) -> tuple[str, ...]:
    """Returns the sorted labels of all splits; none where the objective's rows have no labels."""
    objective = make_objective(fields.get("objective", "classification"), fields.get("options", {}))
    labels: set[str] = set()
    if not objective.min_labels:
        return ()
    for split in SPLITS:
        if "label" in splits[split].column_names and "label" in objective.columns:
            labels.update(column_codes(splits[split], "label", f"{where} {split}")[1])
            continue
        for table in arrow_batches(splits[split]):
            rows = table.to_pydict()
            # Faulty rows are left out here: the hygiene gate names them.
            if not objective.validate(with_forms(rows, objective), where):
                labels.update(label for row_labels in objective.labels_of(rows) for label in row_labels)
    return tuple(sorted(labels.difference(objective.unlearned)))


def _quotas(counts: Indices, fraction: float) -> Indices:
    """Returns how many rows of each stratum go to validation: `fraction` of all, shared out by largest remainders.

    Every stratum keeps at least one row, so that fewer may go than `fraction` asks for.
    """
    import numpy as np

    exact = counts * fraction
    quota: Indices = np.minimum(np.floor(exact).astype(np.int64), np.maximum(counts - 1, 0))
    missing = max(1, round(float(exact.sum()))) - int(quota.sum())
    by_remainder = np.argsort(-(exact - np.floor(exact)), kind="stable")
    spare = by_remainder[quota[by_remainder] < counts[by_remainder] - 1][: max(missing, 0)]
    quota[spare] += 1
    return quota
