"""The hygiene gate: checks every row of a stream before training, and finds inputs that occur in two splits.

The gate sees rows as the stream has them, before an objective packs several into one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from cl_mlm.config.schema import Overlap, UnseenLabels
from cl_mlm.data.conflicts import conflict_notes
from cl_mlm.data.consistency import alike_problems, label_totals, row_problems, stream_problems
from cl_mlm.data.label_forms import case_note
from cl_mlm.data.row_keys import Scan, no_keys, scan_stream
from cl_mlm.data.split_owners import SplitOwner, split_owners, without_marked
from cl_mlm.data.unseen_labels import LabelRows, drop_unseen, label_rows, unseen_problems, untested_notes
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from cl_mlm.data.row_keys import Keys
    from cl_mlm.data.split_owners import Marks
    from cl_mlm.stream import Stream

OVERLAPS: tuple[str, ...] = get_args(Overlap)
UNSEEN_LABELS: tuple[str, ...] = get_args(UnseenLabels)
NUM_EXAMPLES = 3
EXAMPLE_CHARACTERS = 60
BLOCK_KEYS = 1 << 16


def clean(
    stream: Stream,
    overlap: Overlap,
    unseen_labels: UnseenLabels = "error",
    folds_case: Callable[[], bool] = lambda: False,
    *,
    are_classes: bool = True,
) -> tuple[Stream, dict[str, int]]:
    """Returns the stream that may be trained on, and counts of rows whose input occurs in two splits.

    Two rows have the same input where `Objective.key` gives the same string for both, after NFKC and with white space
    folded; with letter case folded, too, where the model's tokenizer does that. Rows of all stages are compared with
    each other. The notes of the stream tell what was dropped, which rows differ in letter case only, which contradict
    each other, and which labels are trained and never scored, or differ in case only.

    Args:
        stream: as its factory has built it.
        overlap: `error` refuses rows in two splits; `drop` removes training rows that occur in a validation or test
            split and validation rows that occur in a test split, never test rows; `keep` only counts.
        unseen_labels: `error` refuses labels of validation and test rows that no training row has, `drop` removes
            these rows, and stages of which no label has a training row.
        folds_case: says whether the model's tokenizer folds letter case; asked only where it matters.
        are_classes: whether a head chooses among the labels; False: they will be texts.

    Returns:
        The stream (splits that lose nothing are the same objects) and the counts `train_in_validation`,
        `train_in_test`, `validation_in_test`; with `drop` also `dropped_train` and `dropped_validation`.

    Raises:
        ConfigError: `overlap` or `unseen_labels` is none of these.
        DataError: every fault of the stream.
    """
    if overlap not in OVERLAPS:
        raise ConfigError(f"stream.overlap: must be one of {', '.join(OVERLAPS)}, got {overlap!r}")
    if unseen_labels not in UNSEEN_LABELS:
        raise ConfigError(f"stream.unseen_labels: must be one of {', '.join(UNSEEN_LABELS)}, got {unseen_labels!r}")
    problems = stream_problems(stream, are_classes=are_classes)
    scans, num_mended = scan_stream(stream, problems)
    if num_mended:
        stream = _noted(stream, f"ill-formed rows repaired: {num_mended}")
    marks, counts, keys, case = _compare(scans, folds_case)
    if case:
        stream = _noted(stream, f"overlap: {case}")
    if overlap != "keep":
        problems += _validation_is_test(stream, keys)
    if overlap == "error":
        problems += _overlap_problems(stream, marks, case)
    after: list[str] = []
    if overlap == "drop" and not problems:
        stream, dropped = _drop(stream, marks)
        counts |= dropped
        scans = _left(scans, marks)
        after += ["stream.overlap=drop"] if any(dropped.values()) else []
    of_labels = label_rows(stream)
    if unseen_labels == "drop" and not problems:
        before = stream
        stream, unseen, left_out = drop_unseen(stream, of_labels)
        if stream is not before:
            # Stages are the first owners.
            scans = [scan for i, scan in enumerate(_left(scans, unseen)) if i not in left_out]
            of_labels = label_rows(stream)
            after.append("stream.unseen_labels=drop")
            problems += [
                f"{line}, after {' and '.join(after)}" for line in stream_problems(stream, are_classes=are_classes)
            ]
    told = f", after {' and '.join(after)}" if after else ""
    problems += row_problems(stream, of_labels, told, allows_unseen=unseen_labels == "drop")
    if problems:
        raise DataError(problems)
    return _noted(stream, *conflict_notes(stream, scans), *_label_notes(stream, of_labels)), counts


def with_sound_labels(stream: Stream, unseen_labels: UnseenLabels) -> Stream:
    """Returns the stream with `clean`'s notes on labels and without rows of unseen ones, where these are to be dropped.

    For a stream whose labels become texts before `clean` sees it.

    Raises:
        DataError: labels that look the same, or that no training row has.
    """
    of_labels = label_rows(stream)
    problems = list(alike_problems(split_owners(stream), of_labels))
    if unseen_labels == "drop":
        stream = drop_unseen(stream, of_labels)[0]
        of_labels = label_rows(stream)
    elif not problems:
        problems = unseen_problems(stream, of_labels)
    if problems:
        raise DataError(problems)
    return _noted(stream, *_label_notes(stream, of_labels))


def _noted(stream: Stream, *notes: str) -> Stream:
    return replace(stream, notes=(*stream.notes, *notes)) if notes else stream


def _label_notes(stream: Stream, of_labels: Sequence[LabelRows]) -> list[str]:
    totals = label_totals(split_owners(stream), of_labels)
    return [*untested_notes(stream, of_labels), *(note for total in totals for note in case_note(total))]


def _compare(
    scans: Sequence[Scan], folds_case: Callable[[], bool]
) -> tuple[list[Marks], dict[str, int], list[dict[str, Keys]], str]:
    """Returns `_mark` of the rows' inputs, the hashes by which they were compared, and a note on letter case.

    Inputs that differ in case only are the same where the tokenizer folds case, which is asked where there are such.
    """
    exact, caseless = (_keys_of(scans, name) for name in ("exact", "caseless"))
    marks, counts = _mark(exact)
    wide_marks, wide_counts = _mark(caseless)
    numbers = {
        split: sum(int((wide[split] & ~mark[split]).sum()) for wide, mark in zip(wide_marks, marks, strict=True))
        for split in ("train", "validation")
    }
    if not any(numbers.values()):
        return marks, counts, exact, ""
    told = (
        f"{numbers['train']} training and {numbers['validation']} validation rows differ in letter case only from a "
        "row of a later split"
    )
    if folds_case():
        return (
            wide_marks,
            wide_counts,
            caseless,
            f"{told}; the model's tokenizer folds case: they are the same",
        )
    return marks, counts, exact, f"{told}; they are not taken as the same"


def _keys_of(scans: Sequence[Scan], name: str) -> list[dict[str, Keys]]:
    """Returns one kind of hashes of every owner; a split that an owner lacks has none."""
    return [{split: getattr(scan.get(split, no_keys()), name) for split in SPLITS} for scan in scans]


def _validation_is_test(stream: Stream, keys_of: Sequence[dict[str, Keys]]) -> list[str]:
    """Returns a fault for each owner whose validation and test splits hold the same inputs, in whatever order."""
    import numpy as np

    return [
        f"{owner.where} validation: must not be the test split ({len(keys['test'])} equal rows): settings would "
        f"be chosen on test rows; carve a validation split from train, or set stream.overlap=keep"
        for owner, keys in zip(split_owners(stream), keys_of, strict=True)
        if len(keys["test"]) and np.array_equal(np.sort(keys["validation"]), np.sort(keys["test"]))
    ]


def _mark(keys_of: Sequence[dict[str, Keys]]) -> tuple[list[Marks], dict[str, int]]:
    """Returns which train and validation rows of each owner occur in a later split of any owner, and the counts."""
    import numpy as np

    known = {
        split: np.unique(np.concatenate([keys[split] for keys in keys_of]) if keys_of else [])
        for split in ("validation", "test")
    }
    counts = Counter({"train_in_validation": 0, "train_in_test": 0, "validation_in_test": 0})
    marks = []
    for keys in keys_of:
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


def _overlap_problems(stream: Stream, marks: Sequence[Marks], case: str) -> list[str]:
    """Returns a fault for each split that holds inputs of a later one, with examples and remedies; `case` follows."""
    later = {"train": "validation or test", "validation": "test"}
    faults = [
        f"{owner.where} {split}: no input may occur in a {later[split]} split too, got {marked.sum()} such: "
        f"{_examples(owner, split, marked)}; stream.overlap=drop removes them (never test rows), keep leaves them"
        for owner, mark in zip(split_owners(stream), marks, strict=True)
        for split, marked in mark.items()
        if marked.any()
    ]
    return [*faults, f"overlap: {case}"] if faults and case else faults


def _examples(owner: SplitOwner, split: str, marked: npt.NDArray[np.bool_]) -> str:
    rows = owner.splits[split].with_format(None)[marked.nonzero()[0][:NUM_EXAMPLES].tolist()]
    texts = [" ".join(key.replace("\x1f", " | ").split()) for key in owner.make_objective().key(rows)]
    cut = [text if len(text) <= EXAMPLE_CHARACTERS else f"{text[: EXAMPLE_CHARACTERS - 3]}..." for text in texts]
    return ", ".join(map(repr, cut))


def _drop(stream: Stream, marks: Sequence[Marks]) -> tuple[Stream, dict[str, int]]:
    """Returns the stream without its marked rows, its notes saying how many, and the numbers by split."""
    num_dropped = {split: sum(int(mark[split].sum()) for mark in marks) for split in ("train", "validation")}
    cleaned = stream
    if any(num_dropped.values()):
        note = f"overlap: {num_dropped['train']} training and {num_dropped['validation']} validation rows dropped"
        cleaned = _noted(without_marked(stream, marks), note)
    return cleaned, {f"dropped_{split}": num for split, num in num_dropped.items()}


def _left(scans: Sequence[Scan], marks: Sequence[Marks]) -> list[Scan]:
    """Returns the hashes of the rows that are not marked."""
    return [
        {split: keys.without(mark[split]) if split in mark else keys for split, keys in scan.items()}
        for scan, mark in zip(scans, marks, strict=True)
    ]
