"""Makes one label of labels that look the same, in the rows and in the stages, columns and probes of a stream."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.arrow import BATCH_ROWS
from cl_mlm.data.label_columns import label_counts
from cl_mlm.data.label_forms import counted, label_form, spellings
from cl_mlm.data.split_owners import SplitOwner, split_owners, with_splits
from cl_mlm.data.tasks import identity
from cl_mlm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from datasets import Dataset

    from cl_mlm.objective import Objective
    from cl_mlm.stream import Stream

Names = dict[str, str]  # a label as the rows have it -> its form, where that differs


def fold_labels(stream: Stream, keeps_stages: bool = False) -> Stream:
    """Returns the stream with every label in its form (`label_form`); its notes say which rows that has changed.

    A label that looks like one of `Objective.unlearned` becomes that one.

    Args:
        stream: with rows that need not be sound.
        keeps_stages: refuses labels of two stages that would become one label: for stages that are not ours to change.

    Raises:
        DataError: see `keeps_stages`.
    """
    if keeps_stages:
        _check_stages(stream)
    owners = split_owners(stream)
    counts = [{split: label_counts(rows, o.make_objective()) for split, rows in o.splits.items()} for o in owners]
    names: dict[object, Names] = {}
    for owner, of_split in zip(owners, counts, strict=True):
        labels = {label for num_rows in of_split.values() for label in num_rows}
        names.setdefault(identity(owner.item), {}).update(_names(labels, owner.make_objective()))
    changed: Counter[str] = Counter()
    tables: dict[tuple[int, object], pa.Table] = {}  # stages cut from one table share the folded one, too
    splits = []
    for owner, of_split in zip(owners, counts, strict=True):
        folded = dict(owner.splits)
        task = identity(owner.item)
        for split, num_rows in of_split.items():
            odd = {label: number for label, number in num_rows.items() if label in names[task]}
            if odd:
                table = owner.splits[split].data.table
                if (id(table), task) not in tables:
                    tables[id(table), task] = _renamed(table, owner.make_objective(), names[task])
                folded[split] = _over(tables[id(table), task], owner.splits[split])
            changed.update(odd)
        splits.append(folded)
    stream = with_splits(stream, splits)
    stream = replace(
        stream,
        stages=tuple(map(_with_forms, stream.stages)),
        given_columns=tuple(map(_with_forms, stream.given_columns)),
        probes=tuple(map(_with_forms, stream.probes)),
    )
    if changed:
        stream = replace(stream, notes=(*stream.notes, f"labels folded: {counted(changed)}"))
    return stream


def _names(labels: Iterable[str], objective: Objective) -> Names:
    unlearned = {label_form(label): label for label in objective.unlearned}
    forms = {label: form for label in labels if (form := label_form(label))}  # the gate refuses those that show nothing
    return {label: name for label, form in forms.items() if (name := unlearned.get(form, form)) != label}


def _with_forms(item: Any) -> Any:
    """Returns a stage, column or probe whose labels are forms, each once."""
    objective = SplitOwner("stage", item, {}).make_objective()
    names = _names(item.labels, objective)
    if not names:
        return item
    labels = dict.fromkeys(names.get(label, label) for label in item.labels)
    return replace(item, labels=tuple(label for label in labels if label not in objective.unlearned))


def _check_stages(stream: Stream) -> None:
    """Refuses a stream whose stages bring labels of their own, where two would bring one label once it is folded.

    Raises:
        DataError: every such label.
    """
    if stream.scenario == "domain_incremental":
        return
    stages_of: dict[tuple[object, str], list[str]] = {}
    for stage in stream.stages:
        for label in stage.labels:
            stages_of.setdefault((identity(stage), label), []).append(stage.name)
    problems = []
    for task in dict.fromkeys(task for task, _ in stages_of):
        for form, alike in spellings(label for own, label in stages_of if own == task).items():
            stages = {name for label in alike for name in stages_of[task, label]}
            if any(len(stages_of[task, label]) == len(stages) for label in alike):
                continue
            listed = ", ".join(f"{label!r} of stage {stages_of[task, label][0]!r}" for label in alike)
            problems.append(
                f"stream.labels: fold must not join labels of two stages, got {listed}; they would all be {form!r}: "
                "give them to one stage, or mend the rows"
            )
    if problems:
        raise DataError(problems)


def _over(table: pa.Table, rows: Dataset) -> Dataset:
    """Returns what `rows` picks of its own table, of another of the same length."""
    from datasets import Dataset as Table
    from datasets.table import InMemoryTable

    # Given a fingerprint, `datasets` does not hash the whole table to find one.
    return Table(InMemoryTable(table), indices_table=rows._indices, fingerprint=uuid.uuid4().hex)


def _renamed(table: pa.Table, objective: Objective, names: Names) -> pa.Table:
    """Returns the table with other labels; no other column is copied."""
    import pyarrow as pa

    held = table.select([name for name in objective.reference_columns if name in table.column_names])
    chunks: dict[str, list[pa.Array]] = {}
    for start in range(0, len(held), BATCH_ROWS):
        rows = held.slice(start, BATCH_ROWS).to_pydict()
        for column, values in objective.renamed(rows, names).items():
            chunks.setdefault(column, []).append(pa.array(values, table.schema.field(column).type))
    for column, arrays in chunks.items():
        place = table.column_names.index(column)
        table = table.set_column(place, table.schema.field(place), pa.chunked_array(arrays))
    return table
