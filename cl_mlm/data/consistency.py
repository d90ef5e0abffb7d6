"""Whether the stages, columns and labels of a stream fit each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from cl_mlm.config.components import make_objective
from cl_mlm.data.label_columns import label_counts
from cl_mlm.data.split_owners import Part, parts_of
from cl_mlm.data.tasks import identity, objectives_of
from cl_mlm.errors import nearest
from cl_mlm.stream import SPLITS, Stream

Counts = Mapping[str, int]  # label to rows


def stream_problems(stream: Stream) -> list[str]:
    """Returns faults that show without reading a row."""
    if not stream.stages:
        return [f"stream {stream.name!r}: must have at least one stage, got none"]
    problems = [
        f"stage {name!r}: a stage's name must be unique, {count} stages have this one"
        for name, count in Counter(stage.name for stage in stream.stages).items()
        if count > 1
    ]
    problems += _column_problems(stream)
    keys, objectives = objectives_of(stream)
    for key, objective in objectives.items():
        own = [stage for stage, name in zip(stream.stages, keys, strict=True) if name == key]
        first, least = own[0], objective.min_labels
        if stream.scenario == "domain_incremental":
            problems += [
                f"stage {stage.name!r}: domain_incremental needs the same labels in every stage; "
                f"compared with stage {first.name!r} {_difference(first.labels, stage.labels)}"
                for stage in own
                if set(stage.labels) != set(first.labels)
            ]
        if len(set(first.labels)) < least:
            problems.append(
                f"stage {first.name!r}: the first stage must have at least {least} labels for objective "
                f"{objective.name}, got {list(first.labels)}"
            )
    return problems


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
    missing, extra = (sorted(set(a) - set(b)) for a, b in ((expected, got), (got, expected)))
    parts = [f"{word} {_listing(labels)}" for word, labels in (("it lacks", missing), ("it adds", extra)) if labels]
    return " and ".join(parts)


def _listing(items: Sequence[str], most: int = 10) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(repr, items[:most])) + rest


def row_problems(stream: Stream, after: str) -> list[str]:
    """Returns empty splits and labels out of place; asked `after` dropping, which can empty a split or a label."""
    parts, problems = parts_of(stream), []
    counts = [_counts(part) for part in parts]
    columns = iter(stream.columns)
    for i, (part, found) in enumerate(zip(parts, counts, strict=True)):
        problems += [
            f"{part.where} {split}{after}: must have rows, got none"
            for split, rows in part.splits.items()
            if not len(rows) and (part.kind, split) != ("probe", "validation")
        ]
        column = next(columns) if "test" in part.splits else None
        # Rows with many labels may keep some of earlier stages beside the stage's own.
        before = i if part.kind == "stage" else len(stream)
        same = [stage for stage in stream.stages[:before] if identity(stage) == identity(part.owner)]
        earlier = {label for stage in same for label in stage.labels}
        problems += _foreign_labels(part, found, earlier, after)
        if part.kind == "probe":
            problems += _unknown_labels(part, earlier)
        elif column is not None:
            trained = {label for k in column.trained_in for label in counts[k]["train"]}
            problems += _untrained_labels(part, found, trained, after)
    return problems


def _counts(part: Part) -> dict[str, dict[str, int]]:
    """Returns the rows of each label of every split, without those that a score leaves out."""
    objective = make_objective(part.owner.objective, part.owner.options)
    found = {split: label_counts(rows, objective) for split, rows in part.splits.items()}
    for split, counts in found.items():
        for label in objective.unlearned if split != "train" else ():
            counts.pop(label, None)
    return found


def _foreign_labels(part: Part, counts: Mapping[str, Counts], earlier: set[str], after: str) -> list[str]:
    """Returns labels of rows that are none of the part's own."""
    objective = make_objective(part.owner.objective, part.owner.options)
    known = set(part.owner.labels)
    kept = earlier if objective.sites_per_row == "many" else set()
    return [
        f"{part.where} {split}{after}: a label must be one of the {part.kind}'s, got {label!r} in "
        f"{counts[split][label]} rows{nearest(str(label), known)}; allowed: {_listing(part.owner.labels)}"
        for split in part.splits
        for label in sorted(counts[split].keys() - known - kept, key=str)
    ]


def _untrained_labels(part: Part, counts: Mapping[str, Counts], trained: set[str], after: str) -> list[str]:
    """Returns labels of validation and test rows that are not among those `trained` on."""
    problems = []
    for split in SPLITS[1:]:
        lacking = sorted((counts[split].keys() & {*part.owner.labels}) - trained)
        if lacking and trained:
            num_rows = sum(counts[split][label] for label in lacking)
            problems.append(
                f"{part.where} {split}{after}: train has no row of {_listing(lacking)}, {split} has {num_rows}"
            )
    return problems


def _unknown_labels(part: Part, known: Collection[str]) -> list[str]:
    """Returns the labels of a probe that no stage brings: the model would never be able to say them."""
    unknown = [label for label in part.owner.labels if label not in known]
    if not unknown:
        return []
    return [f"{part.where}: its labels must be brought by a stage, got {_listing(unknown)}{nearest(unknown[0], known)}"]
