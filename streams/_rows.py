"""From columns of the hub to ours: how the rows of the catalogue's data sets are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streams._sources import Columns, RowMaker


def take(words: Mapping[str, str] | None = None, /, **columns: str | tuple[str, ...]) -> RowMaker:
    """Returns a maker of rows that renames columns: ours to the hub's; several become lines of one text.

    Args:
        words: the hub's labels to ours; a label that it does not name stays.
        columns: our columns to one or more of the hub's.
    """
    names = words or {}

    def make(batch: Columns) -> dict[str, list[Any]]:
        made = {ours: _lines(batch, theirs) for ours, theirs in columns.items()}
        if "label" in made:
            made["label"] = [None if x is None else names.get(str(x), str(x)) for x in made["label"]]
        return made

    return make


def split_words(**columns: str) -> RowMaker:
    """Returns a maker of rows that cuts texts at blanks: `tokens` and `tags`, each to a column of the hub."""

    def make(batch: Columns) -> dict[str, list[Any]]:
        return {ours: [str(text).split() for text in batch[theirs]] for ours, theirs in columns.items()}

    return make


def io_tags(tags: str) -> RowMaker:
    """Returns a maker of rows with BIO tags from words that each name their type alone: equal neighbours are one."""

    def make(batch: Columns) -> dict[str, list[Any]]:
        return {"tokens": batch["tokens"], "tags": [_begun(row) for row in batch[tags]]}

    return make


def relation_spans(batch: Columns) -> dict[str, list[Any]]:
    """Returns FewRel's rows: the relation's name, and the first mention of head and tail as [start, end)."""
    made: dict[str, list[Any]] = {"tokens": batch["tokens"], "label": [names[0] for names in batch["names"]]}
    for column in ("head", "tail"):
        mentions = [span["indices"][0] for span in batch[column]]
        made[column] = [[mention[0], mention[-1] + 1] for mention in mentions]
    return made


def word_in_context(batch: Columns) -> dict[str, list[Any]]:
    """Returns WiC's rows: the word is the first line of the first text."""
    texts = [f"word: {word}\n{text}" for word, text in zip(batch["word"], batch["sentence1"], strict=True)]
    return {"text": texts, "text_pair": batch["sentence2"], "label": batch["label"]}


def cause_or_effect(batch: Columns) -> dict[str, list[Any]]:
    """Returns COPA's rows: what is asked for behind the premise, the two choices as A and B."""
    columns = (batch[name] for name in ("premise", "question", "choice1", "choice2", "label"))
    texts, pairs, labels = [], [], []
    for premise, asked, first, second, label in zip(*columns, strict=True):
        texts.append(f"{premise} What is the {asked}?")
        pairs.append(f"A: {first}\nB: {second}")
        labels.append({"choice1": "A", "choice2": "B"}.get(label))
    return {"text": texts, "text_pair": pairs, "label": labels}


def answer_checked(batch: Columns) -> dict[str, list[Any]]:
    """Returns MultiRC's rows: the paragraph, and below the question the answer to judge."""
    pairs = [f"question: {q}\ncandidate answer: {a}" for q, a in zip(batch["question"], batch["answer"], strict=True)]
    return {"text": batch["paragraph"], "text_pair": pairs, "label": batch["label"]}


def unchanged(batch: Columns) -> dict[str, list[Any]]:
    """Returns the columns as they are: for data sets of which local copies alone are read."""
    return dict(batch)


def _lines(batch: Columns, columns: str | tuple[str, ...]) -> list[Any]:
    if isinstance(columns, str):
        return batch[columns]
    rows = zip(*(batch[column] for column in columns), strict=True)
    return ["\n".join(text for text in row if text and text.strip()) for row in rows]


def _begun(types: Sequence[str]) -> list[str]:
    before = ["O", *types[:-1]]
    return [
        "O" if kind == "O" else f"{'I' if kind == last else 'B'}-{kind}"
        for kind, last in zip(types, before, strict=True)
    ]
