"""Finds labels that are scored and that no training row has, and leaves out their rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.arrow import arrow_batches
from cl_mlm.data.label_columns import label_counts
from cl_mlm.data.label_forms import counted, listing
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

    Of a probe, which no stage trains for, the training rows of all stages of its task count.

    Args:
        stream: with sound rows.
        counts: `label_rows(stream)`.
    """
    owners = split_owners(stream)
    columns = iter(stream.columns)
    unseen = []
    for owner, own in zip(owners, counts, strict=True):
        if "test" not in owner.splits:
            unseen.append(set[str]())
            continue
        # Owners with test rows come in the order of the columns.
        column = next(columns)
        stages = column.trained_in or [i for i, s in enumerate(stream.stages) if identity(s) == identity(owner.item)]
        trained = {label for stage in stages for label in counts[stage]["train"]}
        scored = {label for split in SPLITS[1:] for label in own[split]}
        # Without any training row it is an empty split that is told.
        unseen.append((scored & {*owner.item.labels}) - trained if trained else set())
    return unseen


def unseen_problems(stream: Stream, counts: Sequence[LabelRows], after: str = "") -> list[str]:
    """Returns a fault for each split with rows of unseen labels.

    Args:
        stream: with sound rows.
        counts: `label_rows(stream)`.
        after: what has dropped rows before, for the messages.
    """
    problems = []
    for owner, labels, own in zip(split_owners(stream), unseen_labels(stream, counts), counts, strict=True):
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


def drop_unseen(stream: Stream, counts: Sequence[LabelRows]) -> tuple[Stream, list[Marks]]:
    """Returns the stream without the validation and test rows of unseen labels, and which rows these are.

    A label that no stage of its task trains is no label of a stage, column or probe any more. The notes say what is
    gone; where nothing is, the stream is the same object.

    Args:
        stream: with sound rows.
        counts: `label_rows(stream)`.
    """
    owners = split_owners(stream)
    unseen = unseen_labels(stream, counts)
    if not any(unseen):
        return stream, [{} for _ in owners]
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
    cut = replace(
        cut,
        stages=tuple(map(without_gone, cut.stages)),
        given_columns=tuple(map(without_gone, cut.given_columns)),
        probes=tuple(map(without_gone, cut.probes)),
        notes=(
            *stream.notes,
            f"labels without training rows: {num_dropped['validation']} validation and {num_dropped['test']} test "
            f"rows dropped, with {counted(dropped)}",
        ),
    )
    return cut, marks


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
