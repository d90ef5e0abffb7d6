"""The hygiene gate: checks every row of a stream before training, and finds inputs that occur in two splits.

Rows are read in Arrow batches, so that a memory-mapped split never becomes one Python list; a hash of 16 bytes a row is
kept to compare inputs. The gate sees rows as the stream has them, before an objective packs several into one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from cl_mlm.arrow import arrow_batches, pick
from cl_mlm.config.schema import Overlap
from cl_mlm.data.consistency import row_problems, stream_problems
from cl_mlm.data.split_owners import SplitOwner, split_owners, with_splits
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.scores.segmentation import folded
from cl_mlm.stream import SPLITS, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    Two rows have the same input where `Objective.key` gives the same string for both, after NFKC and with white space
    folded. Rows of all stages are compared with each other.

    Args:
        stream: as its factory has built it.
        overlap: `error` refuses rows in two splits; `drop` removes training rows that occur in a validation or test
            split and validation rows that occur in a test split, never test rows; `keep` only counts.

    Returns:
        The stream (splits that lose nothing are the same objects) and the counts `train_in_validation`,
        `train_in_test`, `validation_in_test`; with `drop` also `dropped_train` and `dropped_validation`.

    Raises:
        ConfigError: `overlap` is none of the three.
        DataError: every fault of the stream.
    """
    if overlap not in OVERLAPS:
        raise ConfigError(f"stream.overlap: must be one of {', '.join(OVERLAPS)}, got {overlap!r}")
    problems = stream_problems(stream)
    scans, num_mended = _scan(stream, problems)
    if num_mended:
        stream = replace(stream, notes=(*stream.notes, f"ill-formed rows repaired: {num_mended}"))
    if overlap != "keep":
        problems += _validation_is_test(stream, scans)
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
    """Returns the keys of every split of every owner, and how many rows are mended; adds faults to `problems`.

    A split with faulty rows has no keys: they cannot be trusted, and the stream is refused anyway.
    """
    import numpy as np

    no_keys: Keys = np.empty(0, dtype="S16")
    scans = []
    num_mended = 0
    faults: list[str] = []
    for owner in split_owners(stream):
        objective = owner.make_objective()
        keys: dict[str, Keys] = dict.fromkeys(SPLITS, no_keys)
        for split, rows in owner.splits.items():
            if len(faults) < MAX_PROBLEMS:
                num_before = len(faults)
                split_keys, mended = _scan_split(rows, objective, f"{owner.where} {split}", faults)
                keys[split] = split_keys if len(faults) == num_before else no_keys
                num_mended += mended
        scans.append(keys)
    if len(faults) >= MAX_PROBLEMS:
        faults = [*faults[:MAX_PROBLEMS], f"stopped reading after {MAX_PROBLEMS} faults of rows: there may be more"]
    problems += faults
    return scans, num_mended


def _scan_split(dataset: Dataset, objective: Objective, where: str, faults: list[str]) -> tuple[Keys, int]:
    """Returns the keys of the rows, (rows,), and how many rows are mended; adds faults of rows to `faults`."""
    import numpy as np

    num_mended = num_read = 0
    keys = [np.empty(0, dtype="S16")]
    for table in arrow_batches(dataset):
        if len(faults) >= MAX_PROBLEMS:
            break
        rows = table.to_pydict()
        # Objectives count rows from the start of what they are given, so a later batch says where it starts.
        start = f", counted from row {num_read}" if num_read else ""
        num_read += len(table)
        batch_faults = objective.validate(rows, f"{where}{start}")
        faults += batch_faults
        if not batch_faults:
            keys.append(_hashed(objective.key(rows)))
            num_mended += objective.mended(rows)
    return np.concatenate(keys), num_mended


def _hashed(keys: Sequence[str]) -> Keys:
    """Returns a 16-byte hash of every normalised key."""
    import numpy as np

    digests = (hashlib.blake2b(_normalised(key).encode(), digest_size=16).digest() for key in keys)
    return np.fromiter(digests, dtype="S16", count=len(keys))


def _normalised(key: str) -> str:
    # The unit separator between the texts of a pair counts as white space for str.split, and must outlive it.
    return "\x1f".join(map(folded, key.split("\x1f")))


def _validation_is_test(stream: Stream, scans: Sequence[dict[str, Keys]]) -> list[str]:
    """Returns a fault for each owner whose validation and test splits hold the same inputs, in whatever order."""
    import numpy as np

    return [
        f"{owner.where} validation: must not be the test split ({len(keys['test'])} equal rows): settings would "
        f"be chosen on test rows; carve a validation split from train, or set stream.overlap=keep"
        for owner, keys in zip(split_owners(stream), scans, strict=True)
        if len(keys["test"]) and np.array_equal(np.sort(keys["validation"]), np.sort(keys["test"]))
    ]


def _mark(scans: Sequence[dict[str, Keys]]) -> tuple[list[Marks], dict[str, int]]:
    """Returns which train and validation rows of each owner occur in a later split of any owner, and the counts."""
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
    """Returns whether each key is among `known`, (rows,); `known` is sorted."""
    import numpy as np

    is_known = np.zeros(len(keys), dtype=np.bool_)
    if not len(known):
        return is_known
    # `numpy.isin` would sort all keys, in several copies.
    for start in range(0, len(keys), BLOCK_KEYS):
        block = keys[start : start + BLOCK_KEYS]
        places = np.searchsorted(known, block)
        is_known[start : start + BLOCK_KEYS] = known[np.minimum(places, len(known) - 1)] == block
    return is_known


def _overlap_problems(stream: Stream, marks: Sequence[Marks]) -> list[str]:
    """Returns a fault for each split that holds inputs of a later one, with examples and remedies."""
    later = {"train": "validation or test", "validation": "test"}
    return [
        f"{owner.where} {split}: no input may occur in a {later[split]} split too, got {marked.sum()} such: "
        f"{_examples(owner, split, marked)}; stream.overlap=drop removes them (never test rows), keep leaves them"
        for owner, mark in zip(split_owners(stream), marks, strict=True)
        for split, marked in mark.items()
        if marked.any()
    ]


def _examples(owner: SplitOwner, split: str, marked: npt.NDArray[np.bool_]) -> str:
    rows = owner.splits[split].with_format(None)[marked.nonzero()[0][:NUM_EXAMPLES].tolist()]
    texts = [" ".join(key.replace("\x1f", " | ").split()) for key in owner.make_objective().key(rows)]
    cut = [text if len(text) <= EXAMPLE_CHARACTERS else f"{text[: EXAMPLE_CHARACTERS - 3]}..." for text in texts]
    return ", ".join(map(repr, cut))


def _drop(stream: Stream, marks: Sequence[Marks]) -> tuple[Stream, dict[str, int]]:
    """Returns the stream without its marked rows, its notes saying how many, and the numbers by split."""
    owners = split_owners(stream)
    splits = [
        {split: _without(rows, mark[split]) if split in mark else rows for split, rows in owner.splits.items()}
        for owner, mark in zip(owners, marks, strict=True)
    ]
    num_dropped = {split: sum(int(mark[split].sum()) for mark in marks) for split in ("train", "validation")}
    cleaned = with_splits(stream, splits)
    if any(num_dropped.values()):
        note = f"overlap: {num_dropped['train']} training and {num_dropped['validation']} validation rows dropped"
        cleaned = replace(cleaned, notes=(*stream.notes, note))
    return cleaned, {f"dropped_{split}": num for split, num in num_dropped.items()}


def _without(dataset: Dataset, marked: npt.NDArray[np.bool_]) -> Dataset:
    return pick(dataset, (~marked).nonzero()[0]) if marked.any() else dataset
