"""Accuracy and F1 of predicted labels."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Returns the fraction of predictions that equal their reference."""
    return sum(bool(p == r) for p, r in zip(predictions, references, strict=True)) / len(references)


def macro_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Returns the mean F1 over the labels that occur among predictions or references, as scikit-learn averages."""
    labels = sorted({*predictions, *references})
    scores: list[float] = [line["f1"] for line in per_class(predictions, references, labels)]
    return sum(scores) / len(labels)


def per_class(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a line for each label: precision, recall, F1, and its rows; a quotient by zero is None."""
    right = Counter(r for p, r in zip(predictions, references, strict=True) if p == r)
    predicted, present = Counter(predictions), Counter(references)

    def share(part: float, whole: int) -> float | None:
        return part / whole if whole else None

    return [
        {
            "label": label,
            "precision": share(right[label], predicted[label]),
            "recall": share(right[label], present[label]),
            "f1": share(2 * right[label], predicted[label] + present[label]),
            "rows": present[label],
        }
        for label in labels
    ]
