"""The gate before training: what a stream's rows are, whether they are sound, and which of them occur twice.

Rows are read in Arrow batches, so that a memory-mapped split is never a Python list of everything; 16 bytes a row
are kept to compare inputs.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from cl_mlm.components import make_objective
from cl_mlm.config import Overlap
from cl_mlm.errors import ConfigError, DataError, nearest
from cl_mlm.fingerprint import arrow_batches, pick
from cl_mlm.labels import rarest_labels
from cl_mlm.stream import SPLITS, Stage, Stream

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from datasets import Dataset

    from cl_mlm.objective import Objective

    Keys = npt.NDArray[np.bytes_]
    Marks = dict[str, npt.NDArray[np.bool_]]

OVERLAPS: tuple[str, ...] = get_args(Overlap)
MAX_PROBLEMS = 20
NUM_EXAMPLES = 3
EXAMPLE_CHARACTERS = 60
BLOCK_KEYS = 1 << 16


def clean(stream: Stream, overlap: Overlap) -> tuple[Stream, dict[str, int]]:
    """Returns the stream that may be trained on, and counts of rows whose input occurs in two splits.

    Two rows have the same input when the objective's key is the same after NFKC and folding of white space; they are
    compared within and across stages.

    Args:
        stream: what a stream's factory made.
        overlap: `error` refuses rows in two splits; `drop` removes training rows that occur in a validation or test
            split and validation rows that occur in a test split, never test rows; `keep` only counts.

    Returns:
        The stream (splits that lose nothing are the same objects) and the counts `train_in_validation`,
        `train_in_test`, `validation_in_test`; with `drop` also `dropped_train` and `dropped_validation`.

    Raises:
        ConfigError: `overlap` is none of the three.
        DataError: every fault of the stream, all at once.
    """
    if overlap not in OVERLAPS:
        raise ConfigError(f"stream.overlap: must be one of {', '.join(OVERLAPS)}, got {overlap!r}")
    problems = _stream_problems(stream)
    scans, mended = _scan(stream, problems)
    if mended:
        stream = replace(stream, notes=(*stream.notes, f"ill-formed rows repaired: {mended}"))
    if overlap != "keep":
        problems += _dev_is_test(stream, scans)
    marks, counts = _mark(scans)
    if overlap == "error":
        problems += _overlap_problems(stream, marks)
    after = ""
    if overlap == "drop" and not problems:
        stream, dropped = _drop(stream, marks)
        counts |= dropped
        after = ", after stream.overlap=drop" if any(dropped.values()) else ""
    for i, stage in enumerate(stream.stages):
        problems += _stage_problems(stage, {label for earlier in stream.stages[:i] for label in earlier.labels}, after)
    if problems:
        raise DataError(problems)
    return stream, counts


def limit(stream: Stream, rows: int) -> Stream:
    """Returns the stream with at most `rows` rows a split, spread over its labels; its notes say so.

    Rows with many labels are taken by their rarest one.

    A training split keeps at least one row of each of its labels, even where that is more than `rows`. The same
    stream gives the same rows, in their old order: the first of each label, then the second of each, and so on.

    Raises:
        ConfigError: `rows` is less than 1.
    """
    if rows < 1:
        raise ConfigError(f"limit: must be at least 1 row a split, got {rows}")
    stages = tuple(
        replace(stage, **{name: _limit_split(stage, name, rows) for name in SPLITS}) for stage in stream.stages
    )
    return replace(stream, stages=stages, notes=(*stream.notes, f"limited to {rows} rows a split"))


def _stream_problems(stream: Stream) -> list[str]:
    """Returns faults that show without reading a row."""
    if not stream.stages:
        return [f"stream {stream.name!r}: must have at least one stage, got none"]
    problems = [
        f"stage {name!r}: a stage's name must be unique, {count} stages have this one"
        for name, count in Counter(stage.name for stage in stream.stages).items()
        if count > 1
    ]
    first = stream.stages[0]
    objective = make_objective(first.objective, first.options)
    if stream.scenario == "domain_incremental":
        problems += [
            f"stage {stage.name!r}: domain_incremental needs the same labels in every stage; "
            f"compared with stage {first.name!r} {_difference(first.labels, stage.labels)}"
            for stage in stream.stages
            if set(stage.labels) != set(first.labels)
        ]
    least = objective.min_labels
    if len(set(first.labels)) < least:
        problems.append(
            f"stage {first.name!r}: the first stage must have at least {least} labels for objective {objective.name}, "
            f"got {list(first.labels)}"
        )
    return problems


def _difference(expected: Sequence[str], got: Sequence[str]) -> str:
    missing, extra = (sorted(set(a) - set(b)) for a, b in ((expected, got), (got, expected)))
    parts = [f"{word} {_listing(labels)}" for word, labels in (("it lacks", missing), ("it adds", extra)) if labels]
    return " and ".join(parts)


def _listing(items: Sequence[str], most: int = 10) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(repr, items[:most])) + rest


def _scan(stream: Stream, problems: list[str]) -> tuple[list[dict[str, Keys]], int]:
    """Returns the keys of every split of every stage and how many rows are mended; adds faults to `problems`.

    A split with faulty rows has no keys: they cannot be trusted, and the stream is refused anyway.
    """
    import numpy as np

    none: Keys = np.empty(0, dtype="S16")
    scans = []
    mended = 0
    faults: list[str] = []
    for stage in stream.stages:
        objective = make_objective(stage.objective, stage.options)
        keys = dict.fromkeys(SPLITS, none)
        for split in SPLITS:
            if len(faults) < MAX_PROBLEMS:
                num_before = len(faults)
                found, number = _scan_split(stage.split(split), objective, f"stage {stage.name!r} {split}", faults)
                keys[split] = found if len(faults) == num_before else none
                mended += number
        scans.append(keys)
    if len(faults) >= MAX_PROBLEMS:
        faults = [*faults[:MAX_PROBLEMS], f"stopped reading after {MAX_PROBLEMS} faults of rows: there may be more"]
    problems += faults
    return scans, mended


def _scan_split(dataset: Dataset, objective: Objective, where: str, faults: list[str]) -> tuple[Keys, int]:
    """Returns the keys of the rows, (rows,), and how many are mended; adds what is wrong with them to `faults`."""
    import numpy as np

    mended = num_read = 0
    parts = [np.empty(0, dtype="S16")]
    for table in arrow_batches(dataset):
        if len(faults) >= MAX_PROBLEMS:
            break
        rows = table.to_pydict()
        # Objectives count rows from the start of what they are given, so a later batch says where it starts.
        start = f", counted from row {num_read}" if num_read else ""
        num_read += len(table)
        found = objective.validate(rows, f"{where}{start}")
        faults += found
        if not found:
            parts.append(_hashed(objective.key(rows)))
            mended += objective.mended(rows)
    return np.concatenate(parts), mended


def _hashed(keys: Sequence[str]) -> Keys:
    """Returns a 16-byte hash of every normalised key."""
    import numpy as np

    digests = (hashlib.blake2b(_normalised(key).encode(), digest_size=16).digest() for key in keys)
    return np.fromiter(digests, dtype="S16", count=len(keys))


def _normalised(key: str) -> str:
    # The unit separator between the texts of a pair counts as white space for str.split, and must outlive it.
    return "\x1f".join(" ".join(unicodedata.normalize("NFKC", part).split()) for part in key.split("\x1f"))


def _dev_is_test(stream: Stream, scans: Sequence[dict[str, Keys]]) -> list[str]:
    """Returns a line for each stage whose validation and test splits hold the same inputs, in whatever order."""
    import numpy as np

    return [
        f"stage {stage.name!r} validation: must not be the test split ({len(keys['test'])} equal rows): settings would "
        f"be chosen on test rows; carve a validation split from train, or set stream.overlap=keep"
        for stage, keys in zip(stream.stages, scans, strict=True)
        if len(keys["test"]) and np.array_equal(np.sort(keys["validation"]), np.sort(keys["test"]))
    ]


def _mark(scans: Sequence[dict[str, Keys]]) -> tuple[list[Marks], dict[str, int]]:
    """Returns which train and validation rows of every stage occur in a later split of any stage, and the counts."""
    import numpy as np

    known = {
        split: np.unique(np.concatenate([np.empty(0, dtype="S16"), *(keys[split] for keys in scans)]))
        for split in ("validation", "test")
    }
    counts = Counter({"train_in_validation": 0, "train_in_test": 0, "validation_in_test": 0})
    marks = []
    for keys in scans:
        in_validation = _among(keys["train"], known["validation"])
        in_test = _among(keys["train"], known["test"])
        validation = _among(keys["validation"], known["test"])
        counts["train_in_validation"] += int(in_validation.sum())
        counts["train_in_test"] += int(in_test.sum())
        counts["validation_in_test"] += int(validation.sum())
        marks.append({"train": in_validation | in_test, "validation": validation})
    return marks, dict(counts)


def _among(keys: Keys, known: Keys) -> npt.NDArray[np.bool_]:
    """Returns which keys are among `known`, sorted, (rows,); `numpy.isin` would sort all of them, in several copies."""
    import numpy as np

    found = np.zeros(len(keys), dtype=np.bool_)
    for start in range(0, len(keys) if len(known) else 0, BLOCK_KEYS):
        block = keys[start : start + BLOCK_KEYS]
        places = np.searchsorted(known, block)
        found[start : start + BLOCK_KEYS] = known[np.minimum(places, len(known) - 1)] == block
    return found


def _overlap_problems(stream: Stream, marks: Sequence[Marks]) -> list[str]:
    """Returns a line for each split that holds rows of a later one, with examples and what can be done."""
    later = {"train": "validation or test", "validation": "test"}
    return [
        f"stage {stage.name!r} {split}: no input may occur in a {later[split]} split too, got {marked.sum()} such: "
        f"{_examples(stage, split, marked)}; stream.overlap=drop removes them (never test rows), keep leaves them"
        for stage, mark in zip(stream.stages, marks, strict=True)
        for split, marked in mark.items()
        if marked.any()
    ]


def _examples(stage: Stage, split: str, marked: npt.NDArray[np.bool_]) -> str:
    rows = stage.split(split).with_format(None)[marked.nonzero()[0][:NUM_EXAMPLES].tolist()]
    keys = make_objective(stage.objective, stage.options).key(rows)
    texts = [" ".join(key.replace("\x1f", " | ").split()) for key in keys]
    cut = [text if len(text) <= EXAMPLE_CHARACTERS else f"{text[: EXAMPLE_CHARACTERS - 3]}..." for text in texts]
    return ", ".join(map(repr, cut))


def _drop(stream: Stream, marks: Sequence[Marks]) -> tuple[Stream, dict[str, int]]:
    """Returns the stream without its marked rows, a note that says how many, and the numbers."""
    stages = tuple(
        replace(stage, **{split: _without(stage.split(split), marked) for split, marked in mark.items()})
        for stage, mark in zip(stream.stages, marks, strict=True)
    )
    num = {split: sum(int(mark[split].sum()) for mark in marks) for split in ("train", "validation")}
    note = f"overlap: {num['train']} training and {num['validation']} validation rows dropped"
    notes = (*stream.notes, note) if any(num.values()) else stream.notes
    return replace(stream, stages=stages, notes=notes), {f"dropped_{split}": count for split, count in num.items()}


def _without(dataset: Dataset, marked: npt.NDArray[np.bool_]) -> Dataset:
    return pick(dataset, (~marked).nonzero()[0]) if marked.any() else dataset


def _stage_problems(stage: Stage, earlier: set[str], after: str) -> list[str]:
    """Returns empty splits and labels out of place; asked `after` dropping, which can empty a split or a label.

    Rows with many labels may keep some of `earlier` stages beside the stage's own.
    """
    problems = [
        f"stage {stage.name!r} {split}{after}: must have rows, got none"
        for split in SPLITS
        if not len(stage.split(split))
    ]
    objective = make_objective(stage.objective, stage.options)
    counts = {split: _label_counts(stage.split(split), objective) for split in SPLITS}
    for label in objective.unlearned:
        counts["validation"].pop(label, None)
        counts["test"].pop(label, None)
    known = set(stage.labels)
    kept = earlier if objective.sites_per_row == "many" else set()
    problems += [
        f"stage {stage.name!r} {split}{after}: a label must be one of the stage's, got {label!r} in "
        f"{counts[split][label]} rows{nearest(label, known)}; allowed: {_listing(stage.labels)}"
        for split in SPLITS
        for label in sorted(counts[split].keys() - known - kept)
    ]
    for split in ("validation", "test"):
        lacking = sorted((counts[split].keys() & known) - counts["train"].keys())
        if lacking and counts["train"]:
            num_rows = sum(counts[split][label] for label in lacking)
            problems.append(
                f"stage {stage.name!r} {split}{after}: train has no row of {_listing(lacking)}, {split} has {num_rows}"
            )
    return problems


def _label_counts(dataset: Dataset, objective: Objective) -> dict[str, int]:
    """Returns how many rows have each label; what is no text is left to the objective to refuse."""
    if not objective.min_labels or not len(dataset) or not {*objective.columns} <= {*dataset.column_names}:
        return {}
    if "label" not in objective.columns:
        counts: Counter[str] = Counter()
        try:
            for table in arrow_batches(dataset):
                counts.update(label for labels in objective.labels_of(table.to_pydict()) for label in set(labels))
        except (TypeError, ValueError, AttributeError):
            return {}
        return dict(counts)
    pairs = _label_column(dataset).value_counts().to_pylist()
    return {pair["values"]: pair["counts"] for pair in pairs if isinstance(pair["values"], str)}


def _label_column(dataset: Dataset) -> pa.ChunkedArray:
    column: pa.ChunkedArray = dataset.data.column("label")
    return column if dataset._indices is None else column.take(dataset._indices.column(0))


def _limit_split(stage: Stage, split: str, rows: int) -> Dataset:
    """Returns at most `rows` rows, taken from the labels in turn; of a training split at least one of each."""
    import numpy as np

    dataset = stage.split(split)
    if len(dataset) <= rows:
        return dataset
    codes = _label_codes(dataset, make_objective(stage.objective, stage.options))
    by_label = np.argsort(codes, kind="stable")
    sizes = np.unique(codes, return_counts=True)[1]
    turn = np.empty(len(codes), dtype=np.int64)
    turn[by_label] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    num_kept = max(rows, len(sizes)) if split == "train" else rows
    kept = np.lexsort((codes, turn))[:num_kept]
    return dataset.select(np.sort(kept))


def _label_codes(dataset: Dataset, objective: Objective) -> npt.NDArray[np.int64]:
    """Returns a number for every row's label, or for the rarest where it has many, (N,); all equal without labels."""
    import numpy as np

    if "label" in dataset.column_names:
        # Arrow numbers the values of a column in the order of their first rows.
        encoded = _label_column(dataset).combine_chunks().dictionary_encode()
        codes: npt.NDArray[np.int64] = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return codes
    if not objective.min_labels:
        return np.zeros(len(dataset), dtype=np.int64)
    tables = (table.to_pydict() for table in arrow_batches(dataset))
    return rarest_labels([labels for rows in tables for labels in objective.labels_of(rows)])
