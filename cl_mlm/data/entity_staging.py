"""Cuts tagged splits into stages by entity type: a row is in every stage of which it holds a type.

Monaikul et al. (2021), Continual Learning for Named Entity Recognition, AAAI 35(15): a stage's rows are annotated with
its own types only.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from cl_mlm.arrow import arrow_batches, pick
from cl_mlm.config.components import make_objective
from cl_mlm.data.in_memory import check_arguments, given_splits
from cl_mlm.data.label_forms import cut_spellings, with_forms
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.scores.bio import only, types_of
from cl_mlm.stream import SPLITS, Scenario, Stage, Stream

if TYPE_CHECKING:
    from datasets import Dataset

    from cl_mlm.data.staging import StageFields
    from cl_mlm.objective import Objective

RowTypes = Sequence[Sequence[str]]  # the entity types of every row


def by_types(
    splits: Mapping[str, Dataset],
    *,
    name: str,
    types_per_stage: int | None = None,
    groups: Sequence[Sequence[str | int]] | None = None,
    uneven: bool | None = None,
    order_seed: int | None = None,
    mask_others: bool = True,
    scenario: Scenario = "class_incremental",
    notes: Sequence[str] = (),
    **stage_fields: Unpack[StageFields],
) -> Stream:
    """Returns a stream whose stages `types-01`, `types-02` ... have disjoint entity types.

    In every split a stage has the rows that hold at least one of its types, so that a row may be in several stages.
    Tags of later stages' types are `O` there.

    Args:
        splits: `train`, `validation` and `test` with the columns `tokens` and `tags`.
        name: the stream's name.
        types_per_stage: how many entity types a stage brings; must divide their number. Types that look the same
            (`label_form`) count once and come in one stage.
        groups: the types of every stage, in order, instead of `types_per_stage`; `order_seed` is then not used.
        uneven: see `by_labels`.
        order_seed: shuffles the types, sorted by name, before they are cut; None: keeps them sorted.
        mask_others: whether tags of earlier stages' types are `O`, too, in every split. A column of the accuracy matrix
            measures the stage's own types either way.
        scenario: how rows are predicted.
        notes: what was done to the rows before.
        stage_fields: further fields of every `Stage`; the objective is `tagging` where none is named.

    Raises:
        ConfigError: the types cannot be cut like that, or the scenario does not go with stages by entity type.
        DataError: faults of rows.
    """
    numbers = {"types_per_stage": types_per_stage, "order_seed": order_seed}
    flags = {"uneven": uneven, "mask_others": mask_others}
    check_arguments(name, scenario, notes, numbers=numbers, flags=flags, groups=groups)
    fields: StageFields = {"objective": "tagging", "task": "tagging", **stage_fields}
    objective = make_objective(fields["objective"], fields.get("options", {}))
    _check(objective, scenario, mask_others)
    splits = given_splits(splits, name, objective.columns)
    types_of_split = row_types(splits, objective, name)
    types = {kind for rows in types_of_split.values() for row in rows for kind in row}
    cut = cut_spellings(types, types_per_stage, groups, order_seed, "type", uneven=uneven)
    width = max(2, len(str(len(cut))))
    stages = []
    for i, group in enumerate(cut):
        tagged = group if mask_others else [kind for earlier in cut[: i + 1] for kind in earlier]
        rows = {split: _stage_rows(splits[split], types_of_split[split], group, tagged) for split in SPLITS}
        stages.append(Stage(name=f"types-{i + 1:0{width}d}", labels=tuple(group), **rows, **fields))
    all_notes = (*notes, *_notes(types_of_split, mask_others))
    # The same row has other tags in another stage: training on all stages at once would contradict itself.
    return Stream(name, tuple(stages), scenario, all_notes, partial=len(stages) > 1)


def row_types(splits: Mapping[str, Dataset], objective: Objective, where: str) -> dict[str, RowTypes]:
    """Returns the entity types of every row of every split.

    Raises:
        DataError: faults of rows; each begins with `where` and the split.
    """
    problems: list[str] = []
    types_of_split: dict[str, RowTypes] = {}
    for split, dataset in splits.items():
        types: list[Sequence[str]] = []
        num_read = 0
        for table in arrow_batches(dataset):
            rows = table.to_pydict()
            start = f", counted from row {num_read}" if num_read else ""
            num_read += len(table)
            # An `I-x` may follow a `B-x` whose type only looks the same: that is for the hygiene gate to tell.
            faults = objective.validate(with_forms(rows, objective), f"{where} {split}{start}")
            problems += faults
            if not faults:
                types += [types_of(tags) for tags in rows["tags"]]
        types_of_split[split] = types
    if problems:
        raise DataError(problems)
    return types_of_split


def _check(objective: Objective, scenario: str, mask_others: bool) -> None:
    if "tags" not in objective.columns:
        raise ConfigError(f"stream.objective: stages by entity type need one with tags, got {objective.name}")
    if scenario == "domain_incremental":
        raise ConfigError(
            "stream.scenario: must be class_incremental or task_incremental where stages bring entity types, "
            f"got {scenario}"
        )
    if scenario == "task_incremental" and not mask_others:
        raise ConfigError(
            "stream.mask_others: must be true where stream.scenario is task_incremental, where a row may be given its "
            "own stage's types only; got False"
        )


def _stage_rows(dataset: Dataset, types: RowTypes, own: Sequence[str], tagged: Collection[str]) -> Dataset:
    """Returns the rows that hold a type of `own`, in their order; tags of types that are not in `tagged` are `O`."""
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset as Table
    from datasets.table import InMemoryTable

    own_types, tagged_types = set(own), set(tagged)
    positions = np.flatnonzero([not own_types.isdisjoint(row) for row in types])
    picked = pick(dataset, positions)
    table: pa.Table = pa.concat_tables(arrow_batches(picked)) if len(picked) else picked.data.table.slice(0, 0)
    place = table.column_names.index("tags")
    field = table.schema.field(place)
    tags = [only(row, tagged_types) for row in table.column(place).to_pylist()]
    table = table.set_column(place, field, pa.array(tags, field.type))
    # Given a fingerprint, `datasets` does not hash the whole table to find one.
    return Table(InMemoryTable(table), fingerprint=uuid.uuid4().hex)


def _notes(types_of_split: Mapping[str, RowTypes], mask_others: bool) -> list[str]:
    others = "all other types" if mask_others else "later stages' types"
    notes = [f"a row is in every stage of whose entity types it holds one; tags of {others} are O there"]
    bare = [f"{sum(not row for row in rows)} {split}" for split, rows in types_of_split.items() if not all(rows)]
    if bare:
        notes.append(f"rows without an entity are in no stage: {', '.join(bare)}")
    return notes
