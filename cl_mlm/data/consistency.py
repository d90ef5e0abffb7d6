"""Checks that the stages, columns and labels of a stream fit each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from cl_mlm.data.label_forms import form_faults, listing, spellings
from cl_mlm.data.split_owners import SplitOwner, split_owners
from cl_mlm.data.tasks import identity, objectives_of
from cl_mlm.data.unseen_labels import LabelRows, label_splits, unseen_problems, untrained_stages
from cl_mlm.errors import nearest
from cl_mlm.stream import SPLITS, WITHHELD, Stream

MOST_STAGES = 3  # that are told to differ from the first
MOST_ALIKE = 10  # sets of labels that look the same

Counts = Mapping[str, int]  # label to rows


def stream_problems(stream: Stream, *, are_classes: bool = True) -> list[str]:
    """Returns faults that can be seen without reading a row; `are_classes`: whether a head chooses among the labels."""
    if not stream.stages:
        return [f"stream {stream.name!r}: must have at least one stage, got none"]
    problems = [
        f"stage {name!r}: a stage's name must be unique, {count} stages have this one"
        for name, count in Counter(stage.name for stage in stream.stages).items()
        if count > 1
    ]
    # Most often two spellings of one value of the column that stages are made by.
    problems += [
        f"stages {' and '.join(map(repr, alike))}: names must not look the same; mend the names, or the values they are"
        for alike in spellings(stage.name for stage in stream.stages).values()
        if len(alike) > 1
    ]
    problems += _column_problems(stream)
    problems += [
        f"stream {stream.name!r}: withheld must name only {', '.join(WITHHELD)}, got {name!r}{nearest(name, WITHHELD)}"
        for name in stream.withheld
        if name not in WITHHELD
    ]
    keys, objectives = objectives_of(stream)
    for task, objective in objectives.items() if are_classes else ():
        stages = [stage for stage, key in zip(stream.stages, keys, strict=True) if key == task]
        first, min_labels = stages[0], objective.min_labels
        if stream.scenario == "domain_incremental":
            differing = [
                f"stage {stage.name!r}: domain_incremental needs the same labels in every stage; "
                f"compared with stage {first.name!r} {_difference(first.labels, stage.labels)}"
                for stage in stages
                if set(stage.labels) != set(first.labels)
            ]
            if differing:
                way_out = "; where stages bring labels of their own, set stream.scenario: class_incremental"
                problems += [*differing[:MOST_STAGES], *_and_more(len(differing) - MOST_STAGES)]
                problems[-1] += way_out
        if len(set(first.labels)) < min_labels:
            problems.append(
                f"stage {first.name!r}: the first stage must have at least {min_labels} labels for objective "
                f"{objective.name}, got {list(first.labels)}"
            )
    return problems


def _and_more(number: int) -> list[str]:
    return [f"and {number} more stages with other labels"] if number > 0 else []


def _column_problems(stream: Stream) -> list[str]:
    """Returns columns that do not fit the stages, and rows of stages that nothing would score."""
    problems = [
        f"column {name!r}: a column's name must be unique, {count} columns have this one"
        for name, count in Counter(column.name for column in (*stream.given_columns, *stream.probes)).items()
        if count > 1 or (not stream.given_columns and name in {stage.name for stage in stream.stages})
    ]
    last = len(stream) - 1
    for column in stream.given_columns:
        numbers = [-1 if column.home is None else column.home, *column.stages]
        if any(not 0 <= number <= last for number in numbers):
            problems.append(f"column {column.name!r}: home and stages must be stages 0 to {last}, got {numbers}")
    problems += [
        f"probe {column.name!r}: must have no home and no stages, got {column.home}, {column.stages}"
        for column in stream.probes
        if column.trained_in
    ]
    if stream.given_columns:
        problems += [
            f"stage {stage.name!r} {split}: must have no rows where the stream's columns are given, got "
            f"{len(stage.split(split))}"
            for stage in stream.stages
            for split in SPLITS[1:]
            if len(stage.split(split))
        ]
    if stream.measured and (sorted({*stream.measured}) != [*stream.measured] or stream.measured[-1] != last):
        problems.append(f"stream {stream.name!r}: measured stages must be in order, stage {last} the last of them")
    return problems


def _difference(expected: Sequence[str], got: Sequence[str]) -> str:
    missing = sorted(set(expected) - set(got))
    extra = sorted(set(got) - set(expected))
    differences = []
    if missing:
        differences.append(f"it lacks {listing(missing)}")
    if extra:
        differences.append(f"it adds {listing(extra)}")
    return " and ".join(differences)


def row_problems(stream: Stream, counts: Sequence[LabelRows], after: str, allows_unseen: bool = False) -> list[str]:
    """Returns splits without rows, labels that look the same, and labels that do not fit their stage or column.

    Args:
        stream: with readable rows.
        counts: `label_rows(stream)`.
        after: where rows have been dropped, which can empty a split or a label: says so in every fault.
        allows_unseen: whether labels without training rows are no fault.
    """
    owners = split_owners(stream)
    alike = alike_problems(owners, counts)
    problems = list(alike)
    # What is told of one spelling would be told of the other again.
    told = {label for labels in alike.values() for label in labels}
    counts = [{split: _without(num_rows, told) for split, num_rows in own.items()} for own in counts]
    tasks = [identity(stage) for stage in stream.stages]
    told_whole = [] if allows_unseen else untrained_stages(stream, counts)  # `unseen_problems` tells their labels
    for i, (owner, counts_of_split) in enumerate(zip(owners, counts, strict=True)):
        if i not in told_whole:
            problems += _empty_splits(stream, owner, counts_of_split, after)
        task = identity(owner.item)
        num_before = i if owner.kind == "stage" else len(stream)
        same_task = [stream.stages[j] for j in range(num_before) if tasks[j] == task]
        earlier_labels = {label for stage in same_task for label in stage.labels}
        problems += _foreign_labels(owner, counts_of_split, earlier_labels, after)
        if owner.kind == "probe":
            problems += _unknown_labels(owner, earlier_labels)
    return problems if allows_unseen else problems + unseen_problems(stream, counts, after)


def _empty_splits(stream: Stream, owner: SplitOwner, counts: LabelRows, after: str) -> list[str]:
    """Returns a fault for each split without rows; the first tells labels that only this stage brings, and the way."""
    problems = [
        f"{owner.where} {split}{after}: must have rows, got none"
        for split, rows in owner.splits.items()
        if not len(rows) and (owner.kind, split) != ("probe", "validation")
    ]
    if not problems or owner.kind != "stage" or not owner.item.labels or not any(counts.values()):
        return problems
    task = identity(owner.item)
    others = [stage for stage in stream.stages if stage is not owner.item and identity(stage) == task]
    if others and all({*owner.item.labels}.isdisjoint(stage.labels) for stage in others):
        problems[0] += (
            f"; its labels are {label_splits(owner, counts)}: give them such rows, or put them into a stage with "
            "others (stream.groups)"
        )
    return problems


def label_totals(owners: Sequence[SplitOwner], counts: Sequence[LabelRows]) -> list[Counter[str]]:
    """Returns for each task how many rows of all splits have each label, those of a stage without any rows, too."""
    totals: dict[object, Counter[str]] = {}
    for owner, own in zip(owners, counts, strict=True):
        total = totals.setdefault(identity(owner.item), Counter())
        for num_rows in (dict.fromkeys(owner.item.labels, 0), *own.values()):
            total.update(num_rows)
    return list(totals.values())


def alike_problems(owners: Sequence[SplitOwner], counts: Sequence[LabelRows]) -> dict[str, list[str]]:
    """Returns a fault for each set of labels of one task that look the same, with these labels."""
    faults: dict[str, list[str]] = {}
    for total in label_totals(owners, counts):
        faults |= form_faults(total)
    if len(faults) <= MOST_ALIKE:
        return faults
    told = dict(list(faults.items())[:MOST_ALIKE])
    rest = [label for labels in list(faults.values())[MOST_ALIKE:] for label in labels]
    return {**told, f"labels must not look the same: {len(faults) - MOST_ALIKE} more such sets": rest}


def _without(num_rows: Counts, labels: Collection[str]) -> dict[str, int]:
    return {label: number for label, number in num_rows.items() if label not in labels}


def _foreign_labels(owner: SplitOwner, counts: Mapping[str, Counts], earlier: set[str], after: str) -> list[str]:
    """Returns labels of rows that are none of the owner's labels."""
    allowed = set(owner.item.labels)
    if owner.make_objective().sites_per_row == "many":
        allowed |= earlier  # a row with many labels may keep those of earlier stages
    known = set(owner.item.labels)
    return [
        f"{owner.where} {split}{after}: a label must be one of the {owner.kind}'s, got {label!r} in "
        f"{counts[split][label]} rows{nearest(str(label), known)}; allowed: {listing(owner.item.labels)}"
        for split in owner.splits
        for label in sorted(counts[split].keys() - allowed, key=str)
    ]


def _unknown_labels(owner: SplitOwner, known: Collection[str]) -> list[str]:
    """Returns a fault for labels of a probe that no stage brings: the model could never predict them."""
    unknown = [label for label in owner.item.labels if label not in known]
    if not unknown:
        return []
    hint = nearest(unknown[0], known)
    return [f"{owner.where}: its labels must be brought by a stage, got {listing(unknown)}{hint}"]
