"""From tagged splits to a stream: entity types arrive stage by stage, and a row stands wherever it holds one of them.

Monaikul et al. (2021), Continual Learning for Named Entity Recognition, AAAI 35(15): a stage's rows are annotated with
its own types only.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from cl_mlm.arrow import arrow_batches, pick
from cl_mlm.config.components import make_objective
from cl_mlm.data.staging import StageFields, cut_labels
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.scores.bio import only, types_of
from cl_mlm.stream import SPLITS, Scenario, Stage, Stream

if TYPE_CHECKING:
    from datasets import Dataset

    from cl_mlm.objective import Objective

RowTypes = Sequence[Sequence[str]]  # of every row


def by_types(
    splits: Mapping[str, Dataset],
    *,
    name: str,
    types_per_stage: int | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    order_seed: int | None = None,
    mask_others: bool = True,
    scenario: Scenario = "class_incremental",
    notes: Sequence[str] = (),
    **stage_fields: Unpack[StageFields],
) -> Stream:
    """Returns a stream whose stages `types-01`, `types-02` ... have disjoint entity types.

    A stage's rows are, in every split, those that hold at least one of its types: a row may stand in several stages.
    Types of later stages are `O` in it.

    Args:
        splits: `train`, `validation` and `test` with the columns `tokens` and `tags`.
        name: the stream's name.
        types_per_stage: how many entity types a stage brings; must divide their number.
        groups: the types of every stage, in order, instead of `types_per_stage`; `order_seed` is then not used.
        order_seed: shuffles the types, sorted by name, before they are cut; None: keeps them sorted.
        mask_others: types of earlier stages are `O`, too; else they keep their tags, in every split. A column of the
            accuracy matrix measures the stage's own types either way.
        scenario: how rows are predicted.
        notes: what was done to the rows before.
        stage_fields: further fields of every `Stage`; the objective is `tagging` where none is named.

    Raises:
        ConfigError: the types cannot be cut so, or the scenario does not go with them.
        DataError: faults of rows.
    """
    fields: StageFields = {"objective": "tagging", "task": "tagging", **stage_fields}
    objective = make_objective(fields["objective"], fields.get("options", {}))
    _check(objective, scenario, mask_others)
    found = row_types(splits, objective, name)
    types = sorted({kind for rows in found.values() for row in rows for kind in row})
    cut = cut_labels(types, types_per_stage, groups, order_seed, "type")
    width = max(2, len(str(len(cut))))
    stages = []
    for i, own in enumerate(cut):
        kept = own if mask_others else [kind for group in cut[: i + 1] for kind in group]
        parts = {split: _part(splits[split], found[split], own, kept) for split in SPLITS}
        stages.append(Stage(name=f"types-{i + 1:0{width}d}", labels=tuple(own), **parts, **fields))
    told = (*notes, *_notes(found, mask_others))
    return Stream(name, tuple(stages), scenario, told, partial=len(stages) > 1)


def row_types(splits: Mapping[str, Dataset], objective: Objective, where: str) -> dict[str, RowTypes]:
    """Returns the entity types of every row of every split.

    Raises:
        DataError: faults of rows; each begins with `where` and the split.
    """
    problems: list[str] = []
    found: dict[str, RowTypes] = {}
    for split, dataset in splits.items():
        types: list[Sequence[str]] = []
        num_read = 0
        for table in arrow_batches(dataset):
            rows = table.to_pydict()
            start = f", counted from row {num_read}" if num_read else ""
            num_read += len(table)
            faults = objective.validate(rows, f"{where} {split}{start}")
            problems += faults
            types += [] if faults else [types_of(tags) for tags in rows["tags"]]
        found[split] = types
    if problems:
        raise DataError(problems)
    return found


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


def _part(dataset: Dataset, types: RowTypes, own: Sequence[str], kept: Collection[str]) -> Dataset:
    """Returns the rows that hold a type of `own`, in their order; tags of types that are not `kept` are `O`."""
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset as Table
    from datasets.table import InMemoryTable

    chosen, allowed = set(own), set(kept)
    positions = np.flatnonzero([not chosen.isdisjoint(row) for row in types])
    picked = pick(dataset, positions)
    whole: pa.Table = pa.concat_tables(arrow_batches(picked)) if len(picked) else picked.data.table.slice(0, 0)
    place = whole.column_names.index("tags")
    tags = [only(row, allowed) for row in whole.column(place).to_pylist()]
    whole = whole.set_column(place, whole.schema.field(place), pa.array(tags, whole.schema.field(place).type))
    # A fingerprint of its own: `datasets` would hash all of the table to find one.
    return Table(InMemoryTable(whole), fingerprint=uuid.uuid4().hex)


def _notes(found: Mapping[str, RowTypes], mask_others: bool) -> list[str]:
    others = "all other types" if mask_others else "later stages' types"
    bare = [f"{sum(not row for row in rows)} {split}" for split, rows in found.items() if not all(rows)]
    note = f"a row is in every stage of whose entity types it holds one; tags of {others} are O there"
    return [note, *([f"rows without an entity are in no stage: {', '.join(bare)}"] if bare else [])]
