"""Turns columns of the hub into ours: how the rows of the catalogue's data sets are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streams._sources import Columns, RowMaker


def take(words: Mapping[str, str] | None = None, /, **columns: str | tuple[str, ...]) -> RowMaker:
    """Returns a maker of rows that renames columns, or joins several of the hub's as lines of one text.

    Args:
        words: the hub's labels to ours; other labels stay as they are.
        columns: our columns to one or more of the hub's.
    """
    our_labels = words or {}

    def make(batch: Columns) -> dict[str, list[Any]]:
        rows = {ours: _lines(batch, theirs) for ours, theirs in columns.items()}
        if "label" in rows:
            rows["label"] = [
                None if label is None else our_labels.get(str(label), str(label)) for label in rows["label"]
            ]
        return rows

    return make


def split_words(**columns: str) -> RowMaker:
    """Returns a maker of rows that cuts texts of the hub at blanks.

    Args:
        columns: our columns, such as `tokens` and `tags`, to the hub's.
    """

    def make(batch: Columns) -> dict[str, list[Any]]:
        return {ours: [str(text).split() for text in batch[theirs]] for ours, theirs in columns.items()}

    return make


def io_tags(tags: str) -> RowMaker:
    """Returns a maker of rows with BIO tags from the hub's column `tags`, which has the type of every word alone.

    Neighbouring words of one type are one entity.
    """

    def make(batch: Columns) -> dict[str, list[Any]]:
        return {"tokens": batch["tokens"], "tags": [_bio_tags(types) for types in batch[tags]]}

    return make


def relation_spans(batch: Columns) -> dict[str, list[Any]]:
    """Returns FewRel's rows: the relation's name, and the first mention of head and tail as [start, end)."""
    rows: dict[str, list[Any]] = {"tokens": batch["tokens"], "label": [names[0] for names in batch["names"]]}
    for column in ("head", "tail"):
        mentions = [span["indices"][0] for span in batch[column]]
        rows[column] = [[mention[0], mention[-1] + 1] for mention in mentions]
    return rows


def word_in_context(batch: Columns) -> dict[str, list[Any]]:
    """Returns WiC's rows: the first line of the first text names the word."""
    texts = [f"word: {word}\n{text}" for word, text in zip(batch["word"], batch["sentence1"], strict=True)]
    return {"text": texts, "text_pair": batch["sentence2"], "label": batch["label"]}


def cause_or_effect(batch: Columns) -> dict[str, list[Any]]:
    """Returns COPA's rows: the premise and the question, and as second text the two choices A and B."""
    columns = (batch[name] for name in ("premise", "question", "choice1", "choice2", "label"))
    texts, pairs, labels = [], [], []
    for premise, asked, first, second, label in zip(*columns, strict=True):
        texts.append(f"{premise} What is the {asked}?")
        pairs.append(f"A: {first}\nB: {second}")
        labels.append({"choice1": "A", "choice2": "B"}.get(label))
    return {"text": texts, "text_pair": pairs, "label": labels}


def answer_checked(batch: Columns) -> dict[str, list[Any]]:
    """Returns MultiRC's rows: the paragraph, and as second text the question and the answer to judge."""
    pairs = [f"question: {q}\ncandidate answer: {a}" for q, a in zip(batch["question"], batch["answer"], strict=True)]
    return {"text": batch["paragraph"], "text_pair": pairs, "label": batch["label"]}


def unchanged(batch: Columns) -> dict[str, list[Any]]:
    """Returns the columns as they are: for data sets that are read from local copies only."""
    return dict(batch)


def _lines(batch: Columns, columns: str | tuple[str, ...]) -> list[Any]:
    if isinstance(columns, str):
        return batch[columns]
    rows = zip(*(batch[column] for column in columns), strict=True)
    return ["\n".join(text for text in row if text and text.strip()) for row in rows]


def _bio_tags(types: Sequence[str]) -> list[str]:
    tags = []
    previous = "O"
    for kind in types:
        position = "I" if kind == previous else "B"
        tags.append("O" if kind == "O" else f"{position}-{kind}")
        previous = kind
    return tags
