"""Precision, recall and F1 of entities: an entity is right where its type, first and last word are all right.

seqeval (Nakayama 2018) counts them in strict mode under IOB2: an entity begins with `B-`; a stray `I-` is in none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cl_mlm.scores.bio import OUTSIDE, only, type_of

Tags = Sequence[Sequence[str]]


def micro_scores(predictions: Tags, references: Tags, types: Sequence[str]) -> dict[str, float]:
    """Returns `precision`, `recall` and `f1` over all entities of `types`, in 0-1; a quotient by zero is 0.

    Args:
        predictions: tags of every row.
        references: tags of every row, as many as predicted.
        types: entity types that count; tags of other types are read as `O`.
    """
    precision, recall, f1, _ = _scores(predictions, references, types, "micro")
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def type_scores(predictions: Tags, references: Tags, types: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a line for each type: precision, recall, F1, and its entities; a quotient by zero is None."""
    expected, predicted = _entity_counts(references), _entity_counts(predictions)
    occurring = sorted(name for name in types if expected[name] + predicted[name])
    scores: dict[str, tuple[float, float, float]] = {}
    if occurring:
        precisions, recalls, f1s, _ = _scores(predictions, references, occurring, None)
        scores = dict(zip(occurring, zip(precisions, recalls, f1s, strict=True), strict=True))
    lines = []
    for name in types:
        precision, recall, f1 = (float(value) for value in scores.get(name, (0.0, 0.0, 0.0)))
        lines.append(
            {
                "label": name,
                "precision": precision if predicted[name] else None,
                "recall": recall if expected[name] else None,
                "f1": f1 if name in scores else None,
                "entities": expected[name],
            }
        )
    return lines


def _scores(predictions: Tags, references: Tags, types: Sequence[str], average: str | None) -> Any:
    """Returns precision, recall, F1 and entities; where `average` is None one of each for every type, in order."""
    from seqeval.metrics.v1 import precision_recall_fscore_support
    from seqeval.scheme import IOB2

    # seqeval strips dashes from the names of types and sorts them: numbers keep them apart and in their order.
    numbers = {name: f"{i:09d}" for i, name in enumerate(types)}
    pairs = [
        (_numbered(reference, numbers), _numbered(prediction, numbers))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    # Rows without an entity change nothing and cost as much as others.
    with_entities = [pair for pair in pairs if {*pair[0], *pair[1]} != {OUTSIDE}] or [([OUTSIDE], [OUTSIDE])]
    true, predicted = (list(side) for side in zip(*with_entities, strict=True))
    no_warning: Any = 0  # seqeval's annotation allows texts only
    return precision_recall_fscore_support(true, predicted, average=average, scheme=IOB2, zero_division=no_warning)


def _numbered(tags: Sequence[str], numbers: dict[str, str]) -> list[str]:
    return [tag if tag == OUTSIDE else tag[:2] + numbers[type_of(tag)] for tag in only(tags, numbers)]


def _entity_counts(rows: Tags) -> Counter[str]:
    """Returns the number of entities of every type."""
    return Counter(type_of(tag) for tags in rows for tag in tags if tag[0] == "B")
