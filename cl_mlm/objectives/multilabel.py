"""Multi-label classification of texts and of pairs of texts: the model says yes or no to every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.objective import Encoded, Objective, Predictor, ProblemType, RawRows
from cl_mlm.scores.labels import per_class
from cl_mlm.tokens.text_rows import collate_texts, encode_texts, text_columns, text_faults, text_keys

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Multilabel(Objective):
    """A set of labels for each row: columns `text`, optionally `text_pair`, and `labels`, a list that may be empty.

    A row says no to every label that it does not carry and the model knows, labels of other stages included. Where the
    rows were not annotated for those, `lwf` with `own_classes` keeps them out of the loss.

    Args:
        threshold: lowest probability at which a label is predicted, above 0 and below 1.
    """

    columns: ClassVar[tuple[str, ...]] = ("text", "labels")
    reference_columns: ClassVar[tuple[str, ...]] = ("labels",)
    problem_type: ClassVar[ProblemType] = "multi_label_classification"
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "many"
    is_binary: ClassVar[bool] = True
    min_labels: ClassVar[int] = 1
    choice_metric: ClassVar[str | None] = "micro F1"

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    @override
    def faults(self, max_length: int) -> list[str]:
        if 0 < self.threshold < 1:
            return []
        return [f"threshold: must be above 0 and below 1, got {self.threshold}"]

    @override
    def labels_of(self, rows: RawRows) -> list[Sequence[str]]:
        return list(rows["labels"])

    @override
    def renamed(self, rows: RawRows, names: Mapping[str, str]) -> dict[str, list[Any]]:
        """Returns `labels`; of two labels of a row that get one name, one is left."""
        return {
            "labels": [
                [*dict.fromkeys(names.get(label, label) for label in labels)] if isinstance(labels, list) else labels
                for labels in rows["labels"]
            ]
        }

    @override
    def validate(self, rows: RawRows, where: str) -> list[str]:
        problems = text_faults(rows, text_columns(rows), where)
        if "labels" not in rows:
            return [*problems, f"{where}: needs the column labels"]
        faults: dict[str, list[int]] = {}
        for i, labels in enumerate(rows["labels"]):
            if not _are_labels(labels):
                faults.setdefault("a list of non-empty strings", []).append(i)
            elif len(set(labels)) < len(labels):
                faults.setdefault("named once each", []).append(i)
        problems += [
            f"{where}: labels must be {rule}, got {rows['labels'][bad[0]]!r} in row {bad[0]} ({len(bad)} such rows)"
            for rule, bad in faults.items()
        ]
        return problems

    @override
    def key(self, rows: RawRows) -> list[str]:
        return text_keys(rows)

    @override
    def written(self, rows: RawRows) -> tuple[list[str], list[str]]:
        """Returns the texts, those of a pair one below the other, and the labels as a list, or `none`."""
        texts = list(rows["text"])
        if "text_pair" in rows:
            texts = [f"{text}\n{pair}" for text, pair in zip(texts, rows["text_pair"], strict=True)]
        return texts, ["; ".join(sorted(labels)) or "none" for labels in rows["labels"]]

    @override
    def encode(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns the tokenizer's columns and `target`, the row's class indices."""
        target = [sorted(labels[label] for label in row_labels) for row_labels in rows["labels"]]
        return {**encode_texts(rows, tokenizer, max_length), "target": target}

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Returns a batch whose targets are class indices, padded with -1, int64 (R, most labels of a row)."""
        import torch

        targets = np.full((len(ids), max(1, *map(len, encoded["target"]))), -1, dtype=np.int64)
        for row, indices in zip(targets, encoded["target"], strict=True):
            row[: len(indices)] = indices
        return collate_texts(encoded, torch.from_numpy(targets), ids, tokenizer)

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns for every row the mean binary cross-entropy over the classes that it may be given, in nats, (R,)."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        logits = outputs.logits.float()
        wanted = self.target_classes(batch, logits.shape[-1]).to(logits.dtype)
        losses = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        if batch.allowed is None:
            return losses.mean(-1)
        return (losses * batch.allowed).sum(-1) / batch.allowed.sum(-1).clamp_min(1)

    @override
    def target_classes(self, batch: Batch, num_classes: int) -> torch.Tensor:
        """Returns the classes that the rows carry, bool (R, C); those that the model does not know are left out."""
        import torch

        # An extra column takes what is no class of the model: the padding, and labels of later stages.
        known = (batch.targets >= 0) & (batch.targets < num_classes)
        named = torch.zeros(len(batch), num_classes + 1, dtype=torch.bool, device=batch.device)
        return named.scatter(1, torch.where(known, batch.targets, num_classes), True)[:, :num_classes]

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns a site for every row and class that it may be given, row by row: a choice of no (logit 0) or yes."""
        import torch

        logits = outputs.logits.float()
        allowed = torch.ones_like(logits, dtype=torch.bool) if batch.allowed is None else batch.allowed
        row, about = allowed.nonzero(as_tuple=True)
        asked = logits[row, about]
        target = self.target_classes(batch, logits.shape[-1])[row, about].long()
        return Sites(torch.stack([torch.zeros_like(asked), asked], -1), row, target, about)

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns for every row, sorted, the labels that it may be given and that reach the threshold."""
        likely = run.forward(batch).logits.float().sigmoid() >= self.threshold
        if batch.allowed is not None:
            likely = likely & batch.allowed
        labels: list[list[str]] = [[] for _ in range(len(batch))]
        for row, index in likely.nonzero().tolist():
            labels[row].append(run.classes[index])
        return Predictions([sorted(row_labels) for row_labels in labels])

    @override
    def references(self, rows: RawRows) -> list[Any]:
        return [sorted(labels) for labels in rows["labels"]]

    @override
    def unanswered(self, rows: RawRows, labels: Sequence[str]) -> dict[str, Sequence[Any]]:
        """Returns new rows without labels."""
        return {**rows, "labels": [[]] * len(rows["text"])}

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score` and `micro_f1`, `macro_f1` and `exact_match` over the column's own labels.

        A label that the model does not know yet counts as missed. Predicted labels of other columns do not count, since
        these rows were not annotated for them. `macro_f1` is the mean over the labels that are predicted or present.
        Where there are none, nothing was wrong, and every metric is 1.
        """
        counted = set(labels)
        pairs = [
            (counted.intersection(predicted), counted.intersection(present))
            for predicted, present in zip(predictions, references, strict=True)
        ]
        right = sum(len(predicted & present) for predicted, present in pairs)
        total = sum(len(predicted) + len(present) for predicted, present in pairs)
        lines = self.per_label(predictions, references, labels)
        f1 = [line["f1"] for line in lines if line["f1"] is not None]
        micro = 2 * right / total if total else 1.0
        return {
            "score": micro,
            "micro_f1": micro,
            "macro_f1": sum(f1) / len(f1) if f1 else 1.0,
            "exact_match": sum(predicted == present for predicted, present in pairs) / len(pairs),
        }

    @override
    def per_label(
        self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        answers: list[str] = []
        wanted: list[str] = []
        for predicted, present in zip(predictions, references, strict=True):
            # One question for each label of a row; the answer no is an empty text, which no label is.
            for label in sorted({*predicted, *present}):
                answers.append(label if label in predicted else "")
                wanted.append(label if label in present else "")
        return per_class(answers, wanted, labels)


def _are_labels(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(label, str) and label.strip() for label in value)
