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

from cl_mlm.arrow import arrow_batches, pick
from cl_mlm.config.components import make_objective
from cl_mlm.config.schema import Overlap
from cl_mlm.data.consistency import row_problems, stream_problems
from cl_mlm.data.split_owners import Part, parts_of, with_splits
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS, Stream

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
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
    problems = stream_problems(stream)
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
    problems += row_problems(stream, after)
    if problems:
        raise DataError(problems)
    return stream, counts


def _scan(stream: Stream, problems: list[str]) -> tuple[list[dict[str, Keys]], int]:
    """Returns the keys of every split of every part and how many rows are mended; adds faults to `problems`.

    A split with faulty rows has no keys: they cannot be trusted, and the stream is refused anyway.
    """
    import numpy as np

    none: Keys = np.empty(0, dtype="S16")
    scans = []
    mended = 0
    faults: list[str] = []
    for part in parts_of(stream):
        objective = make_objective(part.owner.objective, part.owner.options)
        keys: dict[str, Keys] = dict.fromkeys(SPLITS, none)
        for split, rows in part.splits.items():
            if len(faults) < MAX_PROBLEMS:
                num_before = len(faults)
                found, number = _scan_split(rows, objective, f"{part.where} {split}", faults)
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
    """Returns a line for each part whose validation and test splits hold the same inputs, in whatever order."""
    import numpy as np

    return [
        f"{part.where} validation: must not be the test split ({len(keys['test'])} equal rows): settings would "
        f"be chosen on test rows; carve a validation split from train, or set stream.overlap=keep"
        for part, keys in zip(parts_of(stream), scans, strict=True)
        if len(keys["test"]) and np.array_equal(np.sort(keys["validation"]), np.sort(keys["test"]))
    ]


def _mark(scans: Sequence[dict[str, Keys]]) -> tuple[list[Marks], dict[str, int]]:
    """Returns which train and validation rows of every part occur in a later split of any part, and the counts."""
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
        f"{part.where} {split}: no input may occur in a {later[split]} split too, got {marked.sum()} such: "
        f"{_examples(part, split, marked)}; stream.overlap=drop removes them (never test rows), keep leaves them"
        for part, mark in zip(parts_of(stream), marks, strict=True)
        for split, marked in mark.items()
        if marked.any()
    ]


def _examples(part: Part, split: str, marked: npt.NDArray[np.bool_]) -> str:
    rows = part.splits[split].with_format(None)[marked.nonzero()[0][:NUM_EXAMPLES].tolist()]
    keys = make_objective(part.owner.objective, part.owner.options).key(rows)
    texts = [" ".join(key.replace("\x1f", " | ").split()) for key in keys]
    cut = [text if len(text) <= EXAMPLE_CHARACTERS else f"{text[: EXAMPLE_CHARACTERS - 3]}..." for text in texts]
    return ", ".join(map(repr, cut))


def _drop(stream: Stream, marks: Sequence[Marks]) -> tuple[Stream, dict[str, int]]:
    """Returns the stream without its marked rows, a note that says how many, and the numbers."""
    splits = [
        {**part.splits, **{split: _without(part.splits[split], mark[split]) for split in mark if split in part.splits}}
        for part, mark in zip(parts_of(stream), marks, strict=True)
    ]
    num = {split: sum(int(mark[split].sum()) for mark in marks) for split in ("train", "validation")}
    note = f"overlap: {num['train']} training and {num['validation']} validation rows dropped"
    notes = (*stream.notes, note) if any(num.values()) else stream.notes
    return replace(with_splits(stream, splits), notes=notes), {
        f"dropped_{split}": count for split, count in num.items()
    }


def _without(dataset: Dataset, marked: npt.NDArray[np.bool_]) -> Dataset:
    return pick(dataset, (~marked).nonzero()[0]) if marked.any() else dataset
