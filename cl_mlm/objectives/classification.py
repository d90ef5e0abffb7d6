"""Text classification of single sentences and of pairs; the model's class head grows as labels arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.objective import Encoded, Objective, Predictor, Rows
from cl_mlm.scores.labels import accuracy, macro_f1, per_class
from cl_mlm.tokens.logits import masked_logits
from cl_mlm.tokens.text_rows import collate_texts, encode_texts, text_faults, text_keys

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Classification(Objective):
    """One label for each row: columns `text`, optionally `text_pair`, and `label`.

    Args:
        reject: label of rows that belong to no class (out of scope), which only validation and test rows may have. It
            is predicted where the highest probability is too low: Hendrycks and Gimpel (2017), arXiv:1610.02136. Null:
            every row is given a class.
        reject_below: that probability, above 0 and below 1.
    """

    min_labels: ClassVar[int] = 2
    reject: str | None = None  # a subclass with arguments of its own rejects nothing
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
        faults = ["reject: must be a label or null, got an empty one"] * (self.reject is not None and not self.reject)
        is_good = 0 < self.reject_below < 1
        return faults + [f"reject_below: must be above 0 and below 1, got {self.reject_below}"] * (not is_good)

    @override
    def validate(self, rows: Rows, where: str) -> list[str]:
        return text_faults(rows, ["text", *(["text_pair"] if "text_pair" in rows else []), "label"], where)

    @override
    def key(self, rows: Rows) -> list[str]:
        return text_keys(rows)

    @override
    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns the tokenizer's columns and `target`, the class index; rejected rows have one beyond all classes."""
        index = {**dict.fromkeys(self.unlearned, len(labels)), **labels}
        return {**encode_texts(rows, tokenizer, max_length), "target": [index[label] for label in rows["label"]]}

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        import numpy as np
        import torch

        targets = torch.from_numpy(np.asarray(encoded["target"], dtype=np.int64))
        return collate_texts(encoded, targets, ids, tokenizer)

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the cross-entropy of every row among its allowed classes, in nats."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(masked_logits(outputs.logits, batch.allowed), batch.targets, reduction="none")

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns one site a row."""
        import torch

        logits = masked_logits(outputs.logits, batch.allowed)
        return Sites(logits, torch.arange(len(logits), device=logits.device), batch.targets)

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns the most probable allowed class of every row; a reference that the model lacks has probability 0.

        A rejected row's probability is what is missing to the highest of a class.
        """
        probabilities = masked_logits(run.forward(batch).logits, batch.allowed).softmax(-1)
        best = probabilities.max(-1)
        known = batch.targets < probabilities.shape[-1]
        of_target = probabilities.gather(-1, (batch.targets * known)[:, None])[:, 0] * known
        values, sure = [run.classes[i] for i in best.indices.tolist()], best.values
        if self.reject is None:
            return Predictions(values, sure, of_target)
        taken = sure >= self.reject_below
        values = [value if keep else self.reject for value, keep in zip(values, taken.tolist(), strict=True)]
        return Predictions(values, sure.where(taken, 1 - sure), of_target)

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score` and `accuracy`, the fraction of rows whose label is predicted, and `macro_f1`.

        With `reject` also `in_scope_accuracy`, of the rows that have a class, and `rejection_recall`, of the others;
        each only where there are such rows.
        """
        right = accuracy(predictions, references)
        scores = {"score": right, "accuracy": right, "macro_f1": macro_f1(predictions, references)}
        for name, is_rejected in (("in_scope_accuracy", False), ("rejection_recall", True)):
            own = [
                pair for pair in zip(predictions, references, strict=True) if (pair[1] == self.reject) is is_rejected
            ]
            if own and self.reject is not None:
                scores[name] = accuracy(*zip(*own, strict=True))
        return scores

    @override
    def per_label(
        self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        return per_class(predictions, references, [*labels, *self.unlearned])
