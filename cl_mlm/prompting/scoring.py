"""Scores a prompted column: the likeliest label of every row, or the text that the model writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cl_mlm.models.generation import generate_texts
from cl_mlm.prompting.cloze import cloze_likelihoods
from cl_mlm.prompting.columns import PromptColumn, Prompting
from cl_mlm.prompting.likelihood import Likelihoods, likelihoods
from cl_mlm.prompting.reader import Reader

if TYPE_CHECKING:
    from cl_mlm.prompting.reader import FloatArray

Normalise = Literal["none", "tokens", "bytes"]


@dataclass(frozen=True)
class PromptScore:
    """What prompts gave for one column.

    Attributes:
        metrics: of the column's objective; `score` is in 0-1.
        num_rows: rows that were asked for.
        num_labels: that each might be given; 0: any text.
        num_cut: prompts that were too long.
    """

    metrics: dict[str, float]
    num_rows: int
    num_labels: int
    num_cut: int


def score_column(reader: Reader, prompting: Prompting, column: PromptColumn, shots: int, after: int) -> PromptScore:
    """Returns the score of one column with so many demonstrations.

    Args:
        reader: the model.
        prompting: the prompts.
        column: one of its columns.
        shots: demonstrations; with `per_class` of every label of the stage.
        after: the last stage that was trained; -1: none.
    """
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
    owners = [label for label in labels for _ in prompting.words[label]]
    words = [text for label in labels for text in prompting.words[label]]
    if reader.kind == "masked":
        found = cloze_likelihoods(reader, prompts, words)
    else:
        between = prompting.config.delimiter if reader.kind == "causal" else ""
        found = likelihoods(reader, prompts, [f"{between}{text}" for text in words])
    scores = normalised(found, words, prompting.config.normalise)
    # The best of a label's words speaks for it.
    return [owners[i] for i in scores.argmax(1).tolist()], found.num_cut


def normalised(found: Likelihoods, words: Sequence[str], by: Normalise) -> FloatArray:
    """Returns log p of every answer, (N, W), as it is or divided by its tokens or by the UTF-8 bytes of its words."""
    import numpy as np

    if by == "tokens":
        return found.total / found.num_tokens
    return found.total / np.array([len(text.encode()) for text in words]) if by == "bytes" else found.total


def _write(reader: Reader, prompting: Prompting, column: PromptColumn, prompts: Sequence[str]) -> tuple[list[str], int]:
    """Returns what the model writes, up to the separator between demonstrations, and how many prompts were cut."""
    most: int = column.objective.options()["max_new_tokens"]
    first, last = reader.frame
    is_decoder = reader.kind == "causal"
    frame = (first, []) if is_decoder else (first, last)
    room = max(1, reader.max_length - len(frame[0]) - len(frame[1]) - (most if is_decoder else 0))
    own = reader.tokens(prompts)
    texts: list[str] = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: -len(own[i]))
    run: Any = reader
    with reader.reading():
        for start in range(0, len(order), reader.batch_size):
            where = order[start : start + reader.batch_size]
            rows = [[*frame[0], *own[i][max(0, len(own[i]) - room) :], *frame[1]] for i in where]
            ids, mask = reader.padded(rows, left=is_decoder)
            inputs = {"input_ids": ids, "attention_mask": mask}
            for i, text in zip(where, generate_texts(run, inputs, most, reader.decoder_start), strict=True):
                texts[i] = text
    end = prompting.config.separator
    return [text.partition(end)[0].strip() if end else text for text in texts], sum(len(ids) > room for ids in own)
