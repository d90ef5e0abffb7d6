"""Finds rows that contradict each other: one input, several answers."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from cl_mlm.data.split_owners import SplitOwner, split_owners
from cl_mlm.data.tasks import identity
from cl_mlm.stream import SPLITS, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cl_mlm.data.row_keys import RowKeys, Scan

MOST_CHARACTERS = 60


def conflict_notes(stream: Stream, scans: Sequence[Scan]) -> list[str]:
    """Returns a note for each split in which inputs have several answers; these rows stay.

    Rows of all stages of a task are compared, as no stage is known at prediction. Within its stage alone a row is
    compared where the stage is known, and where a stage tells of each row only a part.

    Args:
        stream: with sound rows.
        scans: the hashes of the rows, one for each of `split_owners(stream)`.
    """
    owners = split_owners(stream)
    notes = []
    for split in SPLITS:
        groups: dict[object, list[int]] = {}
        for i, owner in enumerate(owners):
            if split in owner.splits and len(scans[i][split].answers):
                is_alone = stream.masks or stream.partial or owner.kind == "probe"
                groups.setdefault(i if is_alone else identity(owner.item), []).append(i)
        inputs = rows = 0
        example = ""
        for group in groups.values():
            num_inputs, num_rows, first, second = _conflicts([scans[i][split] for i in group])
            inputs, rows = inputs + num_inputs, rows + num_rows
            if num_rows and not example:
                example = _example([(owners[i], len(scans[i][split].answers)) for i in group], split, first, second)
        if rows:
            told = f"{inputs} input{'s have' if inputs > 1 else ' has'} several answers in {rows} rows"
            notes.append(f"conflicting {split} rows, kept: {told}: {example}")
    return notes


def _conflicts(keys: Sequence[RowKeys]) -> tuple[int, int, int, int]:
    """Returns how many inputs have several answers, in how many rows, and the first two rows that disagree."""
    import numpy as np

    # 8 of the 16 bytes do for a count, and sort faster.
    inputs = np.concatenate([each.exact.view(np.uint64)[::2] for each in keys])
    answers = np.concatenate([each.answers for each in keys])
    order = np.argsort(inputs, kind="stable")
    is_new = np.diff(inputs[order], prepend=inputs[order[:1]]) != 0
    run = np.cumsum(is_new)  # equal inputs lie in one run, in their order
    differs = np.flatnonzero((run[1:] == run[:-1]) & (np.diff(answers[order]) != 0)) + 1
    if not len(differs):
        return 0, 0, 0, 0
    runs = np.unique(run[differs])
    is_odd = np.zeros(run[-1] + 1, dtype=np.bool_)
    is_odd[runs] = True
    odd = order[is_odd[run]]
    first = int(odd.min())
    others = odd[(inputs[odd] == inputs[first]) & (answers[odd] != answers[first])]
    return len(runs), len(odd), first, int(others.min())


def _example(group: Sequence[tuple[SplitOwner, int]], split: str, first: int, second: int) -> str:
    """Returns two rows that disagree: their text, and of each its answer and place.

    Args:
        group: owners of rows, each with the number of its rows.
        split: of the rows.
        first: a row, counted over all owners.
        second: the other one.
    """
    places, answers, text = [], [], ""
    for row in (first, second):
        owner, place = _located(group, row)
        values = owner.splits[split].with_format(None)[[place]]
        objective = owner.make_objective()
        text = text or " ".join(objective.key(values)[0].replace("\x1f", " | ").split())
        answers += objective.references(values)
        places.append(f"({owner.where} row {place})")
    shown = [f"{_short(answer)} {place}" for answer, place in zip(answers, places, strict=True)]
    if all(isinstance(answer, list) for answer in answers) and len(answers[0]) == len(answers[1]):
        differing = next(i for i, pair in enumerate(zip(*answers, strict=True)) if pair[0] != pair[1])
        shown = [f"{answer[differing]!r} in place {differing} {p}" for answer, p in zip(answers, places, strict=True)]
    return f"{_short(text)} is {' and '.join(shown)}"


def _located(group: Sequence[tuple[SplitOwner, int]], row: int) -> tuple[SplitOwner, int]:
    """Returns the owner of a row that is counted over all owners, and its place there."""
    ends = list(accumulate(size for _, size in group))
    i = bisect_right(ends, row)
    return group[i][0], row - (ends[i] - group[i][1])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 4]}...{text[-1]}"
