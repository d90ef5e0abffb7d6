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


def score_column(reader: Reader, prompting: Prompting, column: PromptColumn, shots: int, after: int) -> PromptScore:
    """Returns the score of one column with `shots` demonstrations.

    Args:
        reader: the model.
        prompting: the prompts.
        column: one of its columns.
        shots: number of demonstrations; with `per_class` for every label of the stage.
        after: the last stage that was trained; -1: none.
    """
    # Not through `Objective.predict`: an objective says what training reads, and a prompt is something else.
    labels = prompting.labels(column, after)
    positions = prompting.positions(column)
    prompts = prompting.prompts(column, shots, labels, positions)
    if labels:
        predictions, num_cut = _choose(reader, prompting, labels, prompts)
    else:
        predictions, num_cut = _write(reader, prompting, column, prompts)
    rows = column.table(prompting.config.split).select_columns(list(column.objective.reference_columns))
    references = column.objective.references(rows[positions])
    metrics = column.objective.score(predictions, references, column.column.labels)
    return PromptScore(metrics, len(positions), len(labels), num_cut)


def _choose(
    reader: Reader, prompting: Prompting, labels: Sequence[str], prompts: Sequence[str]
) -> tuple[list[str], int]:
    """Returns the likeliest label of every prompt, the first of equal ones, and how many prompts were cut."""
    label_of = [label for label in labels for _ in prompting.words[label]]
    words = [text for label in labels for text in prompting.words[label]]
    if reader.kind == "masked":
        measured = cloze_likelihoods(reader, prompts, words)
    else:
        delimiter = prompting.config.delimiter if reader.kind == "causal" else ""
        measured = likelihoods(reader, prompts, [f"{delimiter}{text}" for text in words])
    scores = normalised(measured, words, prompting.config.normalise)
    # A label counts by the likeliest of its words.
    return [label_of[i] for i in scores.argmax(1).tolist()], measured.num_cut


def normalised(measured: Likelihoods, words: Sequence[str], by: Normalise) -> FloatArray:
    """Returns log p of every answer, (N, W), divided by its tokens, by the UTF-8 bytes of its words, or by nothing."""
    if by == "tokens":
        return measured.total / measured.num_tokens
    if by == "bytes":
        num_bytes = np.array([len(text.encode()) for text in words])
        per_byte: FloatArray = measured.total / num_bytes
        return per_byte
    return measured.total


def _write(reader: Reader, prompting: Prompting, column: PromptColumn, prompts: Sequence[str]) -> tuple[list[str], int]:
    """Returns what the model writes, up to the separator between demonstrations, and how many prompts were cut."""
    max_new_tokens: int = column.objective.options()["max_new_tokens"]
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
            written = generate_texts(run, inputs, max_new_tokens, reader.decoder_start)
            for i, text in zip(where, written, strict=True):
                texts[i] = text
    num_cut = sum(len(ids) > room for ids in tokens)
    separator = prompting.config.separator
    if not separator:
        return texts, num_cut
    return [text.partition(separator)[0].strip() for text in texts], num_cut
