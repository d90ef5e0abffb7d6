"""Precision, recall and F1 of entities: one counts as found where type, first and last word are all right.

Counted by seqeval (Nakayama 2018) in strict mode under IOB2: an entity begins with `B-`, a stray `I-` belongs to none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cl_mlm.scores.bio import OUTSIDE, only, type_of

Tags = Sequence[Sequence[str]]


def micro_scores(predictions: Tags, references: Tags, types: Sequence[str]) -> dict[str, float]:
    """Returns `precision`, `recall` and `f1` over all entities of `types`; a quotient by zero is 0.

    Args:
        predictions: tags of every row.
        references: of every row, as many in each.
        types: that count; tags of others are read as `O`.
    """
    found = _scores(predictions, references, types, "micro")
    return {name: float(value) for name, value in zip(("precision", "recall", "f1"), found, strict=False)}


def type_scores(predictions: Tags, references: Tags, types: Sequence[str]) -> list[dict[str, Any]]:
    """Returns precision, recall, F1 and entities of every type; a quotient by zero is None."""
    expected, predicted = _begun(references), _begun(predictions)
    occurring = sorted(name for name in types if expected[name] + predicted[name])
    found = _scores(predictions, references, occurring, None) if occurring else [[]] * 3
    scores = dict(zip(occurring, zip(*found[:3], strict=True), strict=True))
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
    """Returns precision, recall, F1 and entities: numbers, or one of each for every type, in the order of `types`."""
    from seqeval.metrics.v1 import precision_recall_fscore_support
    from seqeval.scheme import IOB2

    # seqeval strips dashes from the names of types and sorts them.
    numbers = {name: f"{i:09d}" for i, name in enumerate(types)}
    pairs = [
        (_numbered(reference, numbers), _numbered(prediction, numbers))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    # Rows without an entity change nothing and cost as much as others.
    telling = [pair for pair in pairs if {*pair[0], *pair[1]} != {OUTSIDE}] or [([OUTSIDE], [OUTSIDE])]
    true, predicted = (list(side) for side in zip(*telling, strict=True))
    no_warning: Any = 0  # seqeval's annotation knows words only
    return precision_recall_fscore_support(true, predicted, average=average, scheme=IOB2, zero_division=no_warning)


def _numbered(tags: Sequence[str], numbers: dict[str, str]) -> list[str]:
    return [tag if tag == OUTSIDE else tag[:2] + numbers[type_of(tag)] for tag in only(tags, numbers)]


def _begun(rows: Tags) -> Counter[str]:
    """Returns how many entities of every type begin."""
    return Counter(type_of(tag) for tags in rows for tag in tags if tag[0] == "B")
