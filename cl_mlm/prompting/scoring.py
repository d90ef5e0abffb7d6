"""Scores a prompted column: by the likeliest label of every row, or by the text that the model writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cl_mlm.models.generation import generate_texts
from cl_mlm.prompting.cloze import cloze_likelihoods
from cl_mlm.prompting.likelihood import Likelihoods, likelihoods

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cl_mlm.prompting.columns import PromptColumn, Prompting
    from cl_mlm.prompting.reader import FloatArray, Reader

Normalise = Literal["none", "tokens", "bytes"]


@dataclass(frozen=True)
class PromptScore:
    """The score of one prompted column.

    Attributes:
        metrics: of the column's objective; `score` is in 0-1.
        num_rows: number of rows that were prompted.
        num_labels: number of labels that a row may be given; 0: any text.
        num_cut: number of prompts that were cut because they were too long.
    """

    metrics: dict[str, float]
    num_rows: int
    num_labels: int
    num_cut: int


@dataclass(frozen=True)
class _Asked:
    """What is asked of the rows of one column."""

    column: PromptColumn
    labels: tuple[str, ...]
    positions: list[int]
    prompts: list[str]

    @property
    def shared(self) -> tuple[tuple[str, ...], int]:
        """What columns whose prompts are read in one pass have in common: labels, or how long a text may be."""
        return self.labels, 0 if self.labels else self.column.objective.options()["max_new_tokens"]


def score_columns(reader: Reader, prompting: Prompting, shots: int, after: int) -> list[PromptScore]:
    """Returns the score of every prompted column with `shots` demonstrations.

    Columns whose rows may be given the same answers are read in one pass, equal prompts once.

    Args:
        reader: the model.
        prompting: the prompts.
        shots: number of demonstrations; with `per_class` for every label of the stage.
        after: the last stage that was trained; -1: none.
    """
    asked = []
    for column in prompting.columns:
        labels, positions = tuple(prompting.labels(column, after)), prompting.positions(column)
        asked.append(_Asked(column, labels, positions, prompting.prompts(column, shots, labels, positions)))
    answers: dict[tuple[Any, str], tuple[str, bool]] = {}
    for shared in dict.fromkeys(each.shared for each in asked):
        prompts = [*dict.fromkeys(text for each in asked if each.shared == shared for text in each.prompts)]
        labels, most = shared
        found = _choose(reader, prompting, labels, prompts) if labels else _write(reader, prompting, most, prompts)
        answers |= {(shared, text): answer for text, answer in zip(prompts, found, strict=True)}
    return [_score(prompting, each, [answers[each.shared, text] for text in each.prompts]) for each in asked]


def _score(prompting: Prompting, asked: _Asked, answers: Sequence[tuple[str, bool]]) -> PromptScore:
    # Not through `Objective.predict`: an objective says what training reads, and a prompt is something else.
    column = asked.column
    rows = column.table(prompting.config.split).select_columns(list(column.objective.reference_columns))
    references = column.objective.references(rows[asked.positions])
    metrics = column.objective.score([answer for answer, _ in answers], references, column.column.labels)
    return PromptScore(metrics, len(asked.positions), len(asked.labels), sum(is_cut for _, is_cut in answers))


def _choose(
    reader: Reader, prompting: Prompting, labels: Sequence[str], prompts: Sequence[str]
) -> list[tuple[str, bool]]:
    """Returns the likeliest label of every prompt, the first of equal ones, and whether the prompt was cut."""
    label_of = [label for label in labels for _ in prompting.words[label]]
    words = [text for label in labels for text in prompting.words[label]]
    if reader.kind == "masked":
        measured = cloze_likelihoods(reader, prompts, words)
    else:
        delimiter = prompting.config.delimiter if reader.kind == "causal" and reader.chat is None else ""
        measured = likelihoods(reader, prompts, [f"{delimiter}{text}" for text in words])
    scores = normalised(measured, words, prompting.config.normalise)
    # A label counts by the likeliest of its words.
    chosen = [label_of[i] for i in scores.argmax(1).tolist()]
    return [*zip(chosen, measured.is_cut.tolist(), strict=True)]


def normalised(measured: Likelihoods, words: Sequence[str], by: Normalise) -> FloatArray:
    """Returns log p of every answer, (N, W), divided by its tokens, by the UTF-8 bytes of its words, or by nothing."""
    if by == "tokens":
        return measured.total / measured.num_tokens
    if by == "bytes":
        num_bytes = np.array([len(text.encode()) for text in words])
        per_byte: FloatArray = measured.total / num_bytes
        return per_byte
    return measured.total


def _write(reader: Reader, prompting: Prompting, max_new_tokens: int, prompts: Sequence[str]) -> list[tuple[str, bool]]:
    """Returns what the model writes, up to the separator between demonstrations, and whether the prompt was cut."""
    first, last = reader.frame
    room = reader.max_length - len(first)
    is_decoder = reader.kind == "causal"
    if is_decoder:
        # The answer takes room in the same text, and a special token at the end would end the text before it.
        last = []
        room -= max_new_tokens
    room = max(1, room - len(last))
    tokens = reader.tokens(prompts)
    texts: list[str] = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: -len(tokens[i]))
    run: Any = reader
    with reader.reading():
        for start in range(0, len(order), reader.batch_size):
            where = order[start : start + reader.batch_size]
            rows = [[*first, *tokens[i][max(0, len(tokens[i]) - room) :], *last] for i in where]
            ids, mask = reader.padded(rows, left=is_decoder)
            inputs = {"input_ids": ids, "attention_mask": mask}
            end = reader.chat.end if reader.chat else None
            written = generate_texts(run, inputs, max_new_tokens, reader.decoder_start, end=end)
            for i, text in zip(where, written, strict=True):
                texts[i] = text
    separator = prompting.config.separator
    if separator and reader.chat is None:
        texts = [text.partition(separator)[0].strip() for text in texts]
    return [*zip(texts, (len(ids) > room for ids in tokens), strict=True)]
