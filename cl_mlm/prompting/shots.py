"""Draws the demonstrations: the training rows that a prompt shows before its own row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.randomness import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence


def draw_shots(answers: Sequence[str], shots: int, *, per_class: bool, seed: int, stage_index: int) -> list[int]:
    """Returns the positions of the demonstrations, in the order in which they are shown.

    The draw is addressed by (seed, stage) alone: demonstrations are the same for every row, every model, and before and
    after every stage. Fewer shots are a part of more shots: the first ones, with `per_class` the first of each label.

    Args:
        answers: of all training rows of the stage, (N,).
        shots: number of demonstrations; with `per_class` for every answer that the rows have.
        per_class: see `shots`.
        seed: of the prompting section.
        stage_index: of the column's stage.
    """
    order = [int(i) for i in numpy_generator(seed, "shots", stage_index).permutation(len(answers))]
    if not per_class:
        return order[:shots]
    counts: dict[str, int] = {}
    chosen = []
    for position in order:
        count = counts.get(answers[position], 0)
        if count < shots:
            counts[answers[position]] = count + 1
            chosen.append(position)
    return chosen


def shot_faults(answers: Sequence[str], labels: Sequence[str], shots: int, *, per_class: bool, of: str) -> list[str]:
    """Returns a fault where a stage has too few rows for the demonstrations; `[]` is good.

    Args:
        answers: of all training rows of the stage, (N,).
        labels: of the stage; empty: those of the rows.
        shots: number of demonstrations.
        per_class: whether the number is for every label.
        of: names the rows in messages.
    """
    key = "prompting.shots"
    if not per_class:
        if shots <= len(answers):
            return []
        return [f"{key}: must be at most the {len(answers)} training rows of {of}, got {shots}"]
    counts = dict.fromkeys(labels, 0)
    for answer in answers:
        counts[answer] = counts.get(answer, 0) + 1
    label, fewest = min(counts.items(), key=lambda pair: pair[1], default=("", 0))
    if shots <= fewest:
        return []
    return [f"{key}: must be at most the {fewest} training rows of label {label!r} in {of}, got {shots} per class"]
