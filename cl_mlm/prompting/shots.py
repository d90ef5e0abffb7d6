"""Which training rows are shown before the one that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from cl_mlm.randomness import numpy_generator


def draw_shots(answers: Sequence[str], shots: int, *, per_class: bool, seed: int, stage_index: int) -> list[int]:
    """Returns the positions of the demonstrations, in the order in which they are shown.

    Drawn by (seed, stage) alone: the same for every row that is asked for, every model and every moment; the first of
    4 are the 2 that `shots=2` shows, but with `per_class`, where the 2 of each label are among the 4.

    Args:
        answers: of all training rows of the stage, (N,).
        shots: how many; with `per_class` of every answer that the rows have.
        per_class: see `shots`.
        seed: the config's.
        stage_index: of the column's stage.
    """
    order = [int(i) for i in numpy_generator(seed, "shots", stage_index).permutation(len(answers))]
    if not per_class:
        return order[:shots]
    taken: dict[str, int] = {}
    chosen = []
    for position in order:
        count = taken.get(answers[position], 0)
        if count < shots:
            taken[answers[position]] = count + 1
            chosen.append(position)
    return chosen


def shot_faults(answers: Sequence[str], labels: Sequence[str], shots: int, *, per_class: bool, of: str) -> list[str]:
    """Returns why so many demonstrations cannot be had; none is good.

    Args:
        answers: of all training rows of the stage, (N,).
        labels: of the stage; empty: those of the rows.
        shots: how many are wanted.
        per_class: of every label.
        of: whose rows, for messages.
    """
    key = "prompting.shots"
    if not per_class:
        short = shots > len(answers)
        return [f"{key}: must be at most the {len(answers)} training rows of {of}, got {shots}"] * short
    counts = dict.fromkeys(labels, 0)
    for answer in answers:
        counts[answer] = counts.get(answer, 0) + 1
    label, fewest = min(counts.items(), key=lambda pair: pair[1], default=("", 0))
    if shots <= fewest:
        return []
    return [f"{key}: must be at most the {fewest} training rows of label {label!r} in {of}, got {shots} per class"]
