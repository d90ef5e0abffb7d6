"""From splits to a stream: stages by label, by the values of a column, or one for each data set.

Columns are read through Arrow and rows are picked as index mappings over the same tables: staging copies no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from cl_mlm.arrow import arrow_batches, pick
from cl_mlm.config.components import make_objective
from cl_mlm.errors import ConfigError, DataError, nearest
from cl_mlm.randomness import numpy_generator
from cl_mlm.stream import SPLITS, Scenario, Stage, Stream

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

    Indices = npt.NDArray[np.int64]


class StageFields(TypedDict, total=False):
    """Fields that every stage of a stream gets alike; see `Stage`."""

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
    groups: Sequence[Sequence[str]] | None = None,
    scenario: Scenario = "class_incremental",
    notes: Sequence[str] = (),
    **stage_fields: Unpack[StageFields],
) -> Stream:
    """Returns a stream whose stages `labels-01`, `labels-02` ... have disjoint labels.

    Args:
        splits: `train`, `validation` and `test` with the column `label`.
        name: the stream's name.
        labels_per_stage: how many labels a stage brings; must divide their number. Rows whose label the objective
            never learns belong to no stage: they are dealt out to all in turn.
        order_seed: shuffles the labels, sorted by name, before they are cut; None: keeps them sorted.
        groups: the labels of every stage, in order, instead of `labels_per_stage`; `order_seed` is then not used.
        scenario: how rows are predicted.
        notes: what was done to the rows before.
        stage_fields: further fields of every `Stage`.

    Raises:
        ConfigError: the labels cannot be cut so.
        DataError: a row without label, or labels that are no strings.
    """
    coded = {split: column_codes(splits[split], "label", f"{name} {split}") for split in SPLITS}
    objective = make_objective(stage_fields.get("objective", "classification"), stage_fields.get("options", {}))
    labels = sorted(set().union(*(names for _, names in coded.values())).difference(objective.unlearned))
    cut = cut_labels(labels, labels_per_stage, groups, order_seed)
    stage_of = {label: i for i, group in enumerate(cut) for label in group}
    parts = _pick(splits, coded, stage_of, len(cut))
    width = max(2, len(str(len(cut))))
    stages = tuple(
        Stage(name=f"labels-{i + 1:0{width}d}", labels=tuple(group), **part, **stage_fields)
        for i, (group, part) in enumerate(zip(cut, parts, strict=True))
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
        splits: `train`, `validation` and `test`, each with the column.
        field: the column; `domain` and `language` also fill the field of that name in every `Stage`.
        name: the stream's name.
        order_seed: shuffles the values, sorted; None: keeps them sorted.
        order: every value once, in the wanted order; `order_seed` is then not used.
        scenario: how rows are predicted.
        notes: what was done to the rows before.
        stage_fields: further fields of every `Stage`.

    Raises:
        ConfigError: there is no such column, or `order` does not name every value once.
        DataError: a row without value.
    """
    for split in SPLITS:
        columns = splits[split].column_names
        if field not in columns:
            found = f"allowed: {', '.join(columns)}"
            raise ConfigError(f"stream.field: {split} has no column {field!r}{nearest(field, columns)}; {found}")
    coded = {split: column_codes(splits[split], field, f"{name} {split}") for split in SPLITS}
    values = sorted(set().union(*(names for _, names in coded.values())))
    if order is None:
        values = stage_order(values, order_seed)
    else:
        check_once("stream.order", f"value of {field!r}", order, values)
        values = list(order)
    parts = _pick(splits, coded, {value: i for i, value in enumerate(values)}, len(values))
    stages = []
    for value, part in zip(values, parts, strict=True):
        fields = stage_fields.copy()
        if field == "domain":
            fields.setdefault("domain", value)
        elif field == "language":
            fields.setdefault("language", value)
        stages.append(Stage(name=value, labels=_labels(part, f"{name} {value}", fields), **part, **fields))
    return Stream(name, tuple(stages), scenario, tuple(notes))


def by_source(
    parts: Mapping[str, Mapping[str, Dataset]],
    *,
    name: str,
    scenario: Scenario = "domain_incremental",
    notes: Sequence[str] = (),
    **stage_fields: Unpack[StageFields],
) -> Stream:
    """Returns a stream with one stage for each data set of `parts` (stage name to splits), in their order."""
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


def carve_validation(
    train: Dataset, fraction: float, seed: int, strata: Indices | None = None
) -> tuple[Dataset, Dataset]:
    """Returns `train` without some of its rows, and these rows as a validation split; both in the order of `train`.

    Every stratum gives about `fraction` of its rows and keeps at least one.

    Args:
        train: the rows.
        fraction: of the rows, 0-1.
        seed: of the choice.
        strata: of every row, int64 (N,), from 0; None: its `label`, where there is such a column.

    Raises:
        ConfigError: `fraction` is not between 0 and 1.
        DataError: no row can be spared.
    """
    import numpy as np

    if not 0 < fraction < 1:
        raise ConfigError(f"stream.validation_fraction: must be above 0 and below 1, got {fraction}")
    codes = np.zeros(len(train), dtype=np.int64) if strata is None else strata
    if (
        strata is None
        and "label" in train.column_names
        and str(train.features["label"].dtype) in ("string", "large_string")
    ):
        codes, _ = column_codes(train, "label", "train")
    quota = _quotas(np.bincount(codes), fraction)
    if not quota.sum():
        raise DataError(
            f"validation: no row of {len(train)} can be spared from train, as every label must keep one; "
            "give a validation split"
        )
    shuffled = numpy_generator(seed, "validation").permutation(len(codes))
    by_label = shuffled[np.argsort(codes[shuffled], kind="stable")]
    first = np.concatenate([[0], np.cumsum(np.bincount(codes))[:-1]])
    rank = np.arange(len(codes)) - first[codes[by_label]]
    chosen = np.zeros(len(codes), dtype=bool)
    chosen[by_label] = rank < quota[codes[by_label]]
    return pick(train, np.flatnonzero(~chosen)), pick(train, np.flatnonzero(chosen))


def reordered(stream: Stream, order: Sequence[str | int]) -> Stream:
    """Returns the stream with its stages in another order: `order` has each once, by name or by index from 0.

    Raises:
        ConfigError: it is no permutation of the stages.
    """
    names = [stage.name for stage in stream.stages]
    last = len(names) - 1
    problems = [
        f"stream.order: a stage's index must be 0 to {last}, got {item}"
        for item in order
        if isinstance(item, int) and not 0 <= item <= last
    ]
    if problems:
        raise ConfigError(problems)
    named = [names[item] if isinstance(item, int) else item for item in order]
    check_once("stream.order", "stage", named, names)
    return replace(stream, stages=tuple(stream.stages[names.index(name)] for name in named))


def stage_order(values: Sequence[str], order_seed: int | None) -> list[str]:
    """Returns `values` shuffled by `order_seed`, or as they are where it is None."""
    if order_seed is None:
        return list(values)
    return [values[int(i)] for i in numpy_generator(order_seed, "stage order").permutation(len(values))]


def column_codes(dataset: Dataset, column: str, where: str) -> tuple[Indices, tuple[str, ...]]:
    """Returns the values of a column as codes, int64 (rows,), into its sorted distinct values.

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
    none = np.zeros(0, dtype=np.int64)  # a split may have no rows, and then no chunk
    codes = np.concatenate([none, *(chunk.indices.fill_null(-1).to_numpy() for chunk in encoded.chunks)])
    if dataset._indices is not None:  # the table holds more rows, in another order, than the data set shows
        codes = codes[dataset._indices.column(0).to_numpy()]
    if (codes < 0).any():
        raise DataError(f"{where}: {int((codes < 0).sum())} rows have no {column}, first row {int(codes.argmin())}")
    used = sorted(names[code] for code in np.unique(codes))
    position = {value: i for i, value in enumerate(used)}
    recode = np.array([position.get(value, -1) for value in names], dtype=np.int64)
    return recode[codes], tuple(used)


def cut_labels(
    labels: Sequence[str],
    per_stage: int | None,
    groups: Sequence[Sequence[str]] | None,
    order_seed: int | None,
    kind: str = "label",
) -> list[list[str]]:
    """Returns the labels of every stage: `per_stage` of them in the order of `order_seed`, or `groups` as given.

    Args:
        labels: all, sorted.
        per_stage: how many a stage brings; None where `groups` is given.
        groups: the labels of every stage.
        order_seed: shuffles the labels; not used with `groups`.
        kind: what a label is called in messages; its plural begins the name of the key `..._per_stage`.

    Raises:
        ConfigError: the labels cannot be cut so.
    """
    key = f"stream.{kind}s_per_stage"
    if groups is not None:
        if per_stage is not None:
            raise ConfigError(f"{key}: must be null where stream.groups is given, got {per_stage}")
        empty = [f"stream.groups[{i}]: must name at least one {kind}, got []" for i, g in enumerate(groups) if not g]
        if empty:
            raise ConfigError(empty)
        check_once("stream.groups", kind, [label for group in groups for label in group], labels)
        return [list(group) for group in groups]
    if per_stage is None:
        raise ConfigError(f"{key}: needed where stream.groups is not given, got None")
    if per_stage < 1 or len(labels) % per_stage:
        raise ConfigError(f"{key}: must divide {len(labels)}, got {per_stage}")
    ordered = stage_order(labels, order_seed)
    return [ordered[i : i + per_stage] for i in range(0, len(ordered), per_stage)]


def check_once(key: str, what: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raises ConfigError unless `given` names everything of `known` once."""
    problems = [f"{key}: no {what} is called {x!r}{nearest(x, known)}" for x in dict.fromkeys(given) if x not in known]
    twice = sorted({x for x in given if given.count(x) > 1})
    missing = [x for x in known if x not in given]
    if twice:
        problems.append(f"{key}: must name every {what} once, got twice: {', '.join(twice)}")
    if missing:
        problems.append(f"{key}: must name every {what} once, missing: {', '.join(missing)}")
    if problems:
        raise ConfigError(problems)


def _pick(
    splits: Mapping[str, Dataset],
    coded: Mapping[str, tuple[Indices, tuple[str, ...]]],
    stage_of: Mapping[str, int],
    num_stages: int,
) -> list[dict[str, Dataset]]:
    """Returns the three splits of every stage; rows keep their order, those of no stage's label are dealt out."""
    import numpy as np

    parts: list[dict[str, Dataset]] = [{} for _ in range(num_stages)]
    for split, (codes, names) in coded.items():
        stages = np.array([stage_of.get(value, -1) for value in names], dtype=np.int64)[codes]
        stages[stages < 0] = np.arange((stages < 0).sum()) % num_stages
        by_stage = np.argsort(stages, kind="stable")
        bounds = np.searchsorted(stages[by_stage], np.arange(num_stages + 1))
        for i, part in enumerate(parts):
            part[split] = pick(splits[split], by_stage[bounds[i] : bounds[i + 1]])
    return parts


def _labels(splits: Mapping[str, Dataset], where: str, fields: StageFields) -> tuple[str, ...]:
    """Returns the sorted labels of all splits; none where the objective has none."""
    objective = make_objective(fields.get("objective", "classification"), fields.get("options", {}))
    found: set[str] = set()
    for split in SPLITS:
        if objective.min_labels and "label" in splits[split].column_names and "label" in objective.columns:
            found.update(column_codes(splits[split], "label", f"{where} {split}")[1])
        elif objective.min_labels:
            for table in arrow_batches(splits[split]):
                rows = table.to_pydict()
                # What is wrong with a row is told where all rows are checked.
                if not objective.validate(rows, where):
                    found.update(label for labels in objective.labels_of(rows) for label in labels)
    return tuple(sorted(found.difference(objective.unlearned)))


def _quotas(counts: Indices, fraction: float) -> Indices:
    """Returns how many rows of each label go to validation, about `fraction` of all, by largest remainders."""
    import numpy as np

    exact = counts * fraction
    quota: Indices = np.minimum(np.floor(exact).astype(np.int64), np.maximum(counts - 1, 0))
    missing = max(1, round(float(exact.sum()))) - int(quota.sum())
    by_remainder = np.argsort(-(exact - np.floor(exact)), kind="stable")
    spare = by_remainder[quota[by_remainder] < counts[by_remainder] - 1][: max(missing, 0)]
    quota[spare] += 1
    return quota
