"""Classification of texts and of pairs of texts; the model's class head grows as labels arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.objective import Encoded, Objective, Predictor, RawRows
from cl_mlm.scores.labels import accuracy, macro_f1, per_class
from cl_mlm.tokens.class_choice import choice_losses, choice_sites, most_probable
from cl_mlm.tokens.text_rows import (
    collate_texts,
    encode_texts,
    number_targets,
    text_columns,
    text_faults,
    text_keys,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Classification(Objective):
    """One label for each row: columns `text`, optionally `text_pair`, and `label`.

    Args:
        reject: label of rows that belong to no class (out of scope); only validation and test rows may have it. It is
            predicted where the highest probability is below `reject_below`: Hendrycks and Gimpel (2017),
            arXiv:1610.02136. Null: every row is given a class.
        reject_below: the threshold, above 0 and below 1.
    """

    min_labels: ClassVar[int] = 2
    choice_metric: ClassVar[str | None] = "accuracy"
    reject: str | None = None  # for a subclass with a constructor of its own: it rejects nothing
    reject_below: float = 0.5

    def __init__(self, reject: str | None = None, reject_below: float = 0.5) -> None:
        self.reject = reject
        self.reject_below = reject_below

    @property
    @override
    def unlearned(self) -> tuple[str, ...]:
        return () if self.reject is None else (self.reject,)

    @override
    def faults(self, max_length: int) -> list[str]:
        faults = []
        if self.reject is not None and not self.reject:
            faults.append("reject: must be a label or null, got an empty one")
        if not 0 < self.reject_below < 1:
            faults.append(f"reject_below: must be above 0 and below 1, got {self.reject_below}")
        return faults

    @override
    def validate(self, rows: RawRows, where: str) -> list[str]:
        return text_faults(rows, [*text_columns(rows), "label"], where)

    @override
    def key(self, rows: RawRows) -> list[str]:
        return text_keys(rows)

    @override
    def encode(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns the tokenizer's columns and `target`, the class index; `reject` has an index beyond all classes."""
        index = {**dict.fromkeys(self.unlearned, len(labels)), **labels}
        return {**encode_texts(rows, tokenizer, max_length), "target": [index[label] for label in rows["label"]]}

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        return collate_texts(encoded, number_targets(encoded, np.int64), ids, tokenizer)

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the cross-entropy of every row among its allowed classes, in nats."""
        return choice_losses(outputs, batch)

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns one site a row."""
        return choice_sites(outputs, batch)

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns the most probable allowed class of every row; a reference that the model lacks has probability 0.

        A row is rejected where its highest probability p is too low; the probability of rejecting is then 1 - p.
        """
        indices, highest, of_target = most_probable(run.forward(batch), batch)
        labels = [run.classes[i] for i in indices.tolist()]
        if self.reject is None:
            return Predictions(labels, highest, of_target)
        is_sure = highest >= self.reject_below
        labels = [label if sure else self.reject for label, sure in zip(labels, is_sure.tolist(), strict=True)]
        return Predictions(labels, highest.where(is_sure, 1 - highest), of_target)

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score` and `accuracy`, the fraction of rows whose label is predicted, and `macro_f1`.

        With `reject` also `in_scope_accuracy`, the accuracy over the rows that have a class, and `rejection_recall`,
        that over the other rows; each only where there are such rows.
        """
        right = accuracy(predictions, references)
        scores = {"score": right, "accuracy": right, "macro_f1": macro_f1(predictions, references)}
        if self.reject is None:
            return scores
        pairs = list(zip(predictions, references, strict=True))
        in_scope = [pair for pair in pairs if pair[1] != self.reject]
        out_of_scope = [pair for pair in pairs if pair[1] == self.reject]
        if in_scope:
            scores["in_scope_accuracy"] = accuracy(*zip(*in_scope, strict=True))
        if out_of_scope:
            scores["rejection_recall"] = accuracy(*zip(*out_of_scope, strict=True))
        return scores

    @override
    def per_label(
        self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        return per_class(predictions, references, [*labels, *self.unlearned])
