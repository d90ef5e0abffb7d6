"""Finds labels that are scored and that no training row has, and leaves out their rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.arrow import arrow_batches
from cl_mlm.data.label_columns import label_counts
from cl_mlm.data.label_forms import MOST_LISTED, counted, listing
from cl_mlm.data.split_owners import SplitOwner, split_owners, without_marked
from cl_mlm.data.tasks import identity
from cl_mlm.stream import SPLITS, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

    from cl_mlm.data.split_owners import Marks
    from cl_mlm.objective import Objective

LabelRows = dict[str, dict[str, int]]  # by split, of one owner: label -> rows


def label_rows(stream: Stream) -> list[LabelRows]:
    """Returns for each of `split_owners(stream)` how many rows of each split have each label.

    Labels that no stage has to bring (`Objective.unlearned`) are left out of validation and test splits.
    """
    return [_label_rows(owner) for owner in split_owners(stream)]


def _label_rows(owner: SplitOwner) -> LabelRows:
    objective = owner.make_objective()
    counts = {split: label_counts(rows, objective) for split, rows in owner.splits.items()}
    for split in counts.keys() - {"train"}:
        for label in objective.unlearned:
            counts[split].pop(label, None)
    return counts


def unseen_labels(stream: Stream, counts: Sequence[LabelRows]) -> list[set[str]]:
    """Returns for each owner its own labels that are in its validation or test rows, and in no row trained for them.

    Of a probe, which no stage trains for, and of a stage without training rows, those of all stages of its task count.

    Args:
        stream: with sound rows.
        counts: `label_rows(stream)`.
    """
    owners = split_owners(stream)
    trained_of_task = _trained(owners, counts)
    columns = iter(stream.columns)
    unseen = []
    for owner, own in zip(owners, counts, strict=True):
        if "test" not in owner.splits:
            unseen.append(set[str]())
            continue
        # Owners with test rows come in the order of the columns.
        column = next(columns)
        own_trained = {label for stage in column.trained_in for label in counts[stage]["train"]}
        trained = own_trained or trained_of_task[identity(owner.item)]
        scored = {label for split in SPLITS[1:] for label in own[split]}
        # Where the whole task has no training row, it is an empty split that is told.
        unseen.append((scored & {*owner.item.labels}) - trained if trained else set())
    return unseen


def _trained(owners: Sequence[SplitOwner], counts: Sequence[LabelRows]) -> dict[object, set[str]]:
    """Returns by task the labels that training rows have."""
    trained: dict[object, set[str]] = {}
    for owner, own in zip(owners, counts, strict=True):
        trained.setdefault(identity(owner.item), set()).update(own.get("train", {}))
    return trained


def untrained_stages(stream: Stream, counts: Sequence[LabelRows]) -> list[int]:
    """Returns the stages that bring labels of which no training row of their task has one.

    None where these are all stages of the stream, or where columns are given, which name stages by their number.

    Args:
        stream: with sound rows.
        counts: `label_rows(stream)`.
    """
    if stream.given_columns or stream.measured:
        return []
    trained = _trained(split_owners(stream), counts)
    untrained = []
    for i, stage in enumerate(stream.stages):
        of_task = trained[identity(stage)]
        if stage.labels and of_task and of_task.isdisjoint(stage.labels):
            untrained.append(i)
    return untrained if len(untrained) < len(stream) else []


def unseen_problems(stream: Stream, counts: Sequence[LabelRows], after: str = "") -> list[str]:
    """Returns a fault for each stage that no training row is for, and for each other split with unseen labels.

    Args:
        stream: with sound rows.
        counts: `label_rows(stream)`.
        after: what has dropped rows before, for the messages.
    """
    problems = []
    untrained = untrained_stages(stream, counts)
    unseen = unseen_labels(stream, counts)
    for i, (owner, labels, own) in enumerate(zip(split_owners(stream), unseen, counts, strict=True)):
        if i in untrained:
            problems.append(
                f"{owner.where}{after}: train has no row of {label_splits(owner, own)}; give them training rows, or "
                "leave the stage out with stream.unseen_labels=drop"
            )
            continue
        same_task = [stage for stage in stream.stages if identity(stage) == identity(owner.item)]
        known = {label for stage in same_task for label in stage.labels}  # of a probe, others are told as such
        for split in SPLITS[1:]:
            lacking = sorted(labels & known & own.get(split, {}).keys())
            if lacking:
                problems.append(
                    f"{owner.where} {split}{after}: train has no row of {listing(lacking)}, {split} has "
                    f"{sum(own[split][label] for label in lacking)}; stream.unseen_labels=drop leaves such rows out"
                )
    return problems


def label_splits(owner: SplitOwner, own: LabelRows) -> str:
    """Returns the owner's labels with their rows of each split: `'a' (train 3, validation 1, test 0)`, five of many."""
    told = [
        f"{label!r} ({', '.join(f'{split} {own[split].get(label, 0)}' for split in owner.splits)})"
        for label in owner.item.labels
    ]
    more = f" and {len(told) - MOST_LISTED} more" if len(told) > MOST_LISTED else ""
    return ", ".join(told[:MOST_LISTED]) + more


def drop_unseen(stream: Stream, counts: Sequence[LabelRows]) -> tuple[Stream, list[Marks], list[int]]:
    """Returns the stream without the validation and test rows of unseen labels, and what is gone.

    A label that no stage of its task trains is no label of a stage, column or probe any more, and a stage without any
    such label (`untrained_stages`) is left out; the others keep their names. The notes say what is gone; where nothing
    is, the stream is the same object.

    Args:
        stream: with sound rows.
        counts: `label_rows(stream)`.

    Returns:
        The stream, the rows that are gone of every one of `split_owners(stream)`, and the stages that are left out.
    """
    owners = split_owners(stream)
    unseen = unseen_labels(stream, counts)
    untrained = untrained_stages(stream, counts)
    if not any(unseen) and not untrained:
        return stream, [{} for _ in owners], []
    gone = _gone(owners, unseen, counts)
    marks: list[Marks] = []
    dropped: Counter[str] = Counter()
    for owner, labels, own in zip(owners, unseen, counts, strict=True):
        odd = labels | gone[identity(owner.item)]
        marks.append({})
        for split in [split for split in SPLITS[1:] if not odd.isdisjoint(own.get(split, ()))]:
            marks[-1][split] = _having(owner.splits[split], owner.make_objective(), odd)
            dropped.update({label: number for label, number in own[split].items() if label in odd})
    num_dropped = {split: sum(int(mark[split].sum()) for mark in marks if split in mark) for split in SPLITS[1:]}

    def without_gone(item: Any) -> Any:
        return replace(item, labels=tuple(label for label in item.labels if label not in gone[identity(item)]))

    cut = without_marked(stream, marks)
    notes = [
        f"labels without training rows: {num_dropped['validation']} validation and {num_dropped['test']} test "
        f"rows dropped, with {counted(dropped)}"
    ]
    if untrained:
        left_out = [f"{stream.stages[i].name!r} with {label_splits(owners[i], counts[i])}" for i in untrained]
        more = f" and {len(left_out) - MOST_LISTED} more" if len(left_out) > MOST_LISTED else ""
        notes.append(
            f"stages left out, as no training row has a label of theirs: {len(untrained)} of {len(stream)}, "
            f"{'; '.join(left_out[:MOST_LISTED])}{more}"
        )
    cut = replace(
        cut,
        stages=tuple(without_gone(stage) for i, stage in enumerate(cut.stages) if i not in untrained),
        given_columns=tuple(map(without_gone, cut.given_columns)),
        probes=tuple(map(without_gone, cut.probes)),
        notes=(*stream.notes, *(notes if dropped else notes[1:])),
    )
    return cut, marks, untrained


def _gone(
    owners: Sequence[SplitOwner], unseen: Sequence[set[str]], counts: Sequence[LabelRows]
) -> Mapping[object, set[str]]:
    """Returns by task the unseen labels that no stage trains."""
    gone: dict[object, set[str]] = {}
    for owner, labels in zip(owners, unseen, strict=True):
        gone.setdefault(identity(owner.item), set()).update(labels)
    for owner, own in zip(owners, counts, strict=True):
        gone[identity(owner.item)] -= own.get("train", {}).keys()
    return gone


def _having(rows: Dataset, objective: Objective, labels: set[str]) -> npt.NDArray[np.bool_]:
    """Returns which rows have one of the labels, (rows,)."""
    import numpy as np

    tables = (table.to_pydict() for table in arrow_batches(rows))
    return np.array([not labels.isdisjoint(own) for table in tables for own in objective.labels_of(table)], dtype=bool)


def untested_notes(stream: Stream, counts: Sequence[LabelRows]) -> list[str]:
    """Returns a note on labels that are trained and that no test row has, and one on validation rows.

    Of a stream without validation rows nothing is said of these.
    """
    notes = []
    trained: dict[object, Counter[str]] = {}
    for owner, own in zip(split_owners(stream), counts, strict=True):
        trained.setdefault(identity(owner.item), Counter()).update(own.get("train", {}))
    for split in ("test", "validation"):
        scored: dict[object, set[str]] = {}
        for owner, own in zip(split_owners(stream), counts, strict=True):
            scored.setdefault(identity(owner.item), set()).update(own.get(split, {}))
        lacking = Counter(
            {
                label: number
                for task, num_rows in trained.items()
                if scored.get(task)
                for label, number in num_rows.items()
                if label not in scored[task]
            }
        )
        if lacking:
            notes.append(f"labels with training rows and without {split} rows: {counted(lacking)}")
    return notes
