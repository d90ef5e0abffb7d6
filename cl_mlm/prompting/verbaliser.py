"""The verbaliser: the words that stand for a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cl_mlm.errors import nearest

Words = Mapping[str, tuple[str, ...]]


def label_words(labels: Sequence[str], given: Mapping[str, str | list[str]], *, are_texts: bool) -> Words:
    """Returns the words of every label.

    Args:
        labels: the labels to choose among.
        given: words of labels in the config; empty: a label's own name stands for it.
        are_texts: whether labels are answers to be written, which stand for themselves; else `_` in a name is read as
            a space.
    """
    if not given:
        return {label: (label if are_texts else label.replace("_", " "),) for label in labels}
    words = {label: given.get(label, ()) for label in labels}
    return {label: (texts,) if isinstance(texts, str) else tuple(texts) for label, texts in words.items()}


def word_faults(labels: Sequence[str], given: Mapping[str, str | list[str]], words: Words) -> list[str]:
    """Returns the faults of a verbaliser, one line each.

    Args:
        labels: the labels to choose among.
        given: words of labels in the config.
        words: words of every label, from `label_words`.
    """
    key = "prompting.verbaliser"
    faults = []
    missing = [label for label in labels if given and label not in given]
    if missing:
        faults.append(f"{key}: must have words for every label, none for {_some(missing)}")
    faults += [
        f"{key}.{label}: no such label{nearest(label, labels)}; allowed: {_some(labels)}"
        for label in given
        if label not in labels
    ]
    faults += [
        f"{key}.{label}: must be words, or a list of words, got {given.get(label, label)!r}"
        for label in labels
        if label not in missing and (not words[label] or not all(text.strip() for text in words[label]))
    ]
    owners: dict[str, list[str]] = {}
    for label in labels:
        for text in dict.fromkeys(text.strip() for text in words[label]):
            owners.setdefault(text, []).append(label)
    faults += [
        f"{key}: two labels must not have the same words, got {text!r} for {_some(same)}"
        for text, same in owners.items()
        if text and len(same) > 1
    ]
    return faults


def _some(labels: Sequence[str], most: int = 10) -> str:
    """Returns the first labels as a text, and how many more there are."""
    rest = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(map(repr, labels[:most])) + rest
