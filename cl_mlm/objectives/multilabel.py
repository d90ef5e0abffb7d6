"""Any number of labels for each text or pair of texts: the model says yes or no to every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.objective import Encoded, Objective, Predictor, ProblemType, Rows
from cl_mlm.scores.labels import per_class
from cl_mlm.tokens.text_rows import collate_texts, encode_texts, text_faults, text_keys

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Multilabel(Objective):
    """A set of labels for each row: columns `text`, optionally `text_pair`, and `labels`, a list that may be empty.

    A stage's rows say no to every label that they do not carry and the model knows, labels of other stages included:
    where these were not annotated, `lwf` with `own_classes` keeps them out of the loss.

    Args:
        threshold: probability from which on a label is predicted, above 0 and below 1.
    """

    columns: ClassVar[tuple[str, ...]] = ("text", "labels")
    reference_columns: ClassVar[tuple[str, ...]] = ("labels",)
    problem_type: ClassVar[ProblemType] = "multi_label_classification"
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "many"
    is_binary: ClassVar[bool] = True
    min_labels: ClassVar[int] = 1

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    @override
    def faults(self, max_length: int) -> list[str]:
        is_good = 0 < self.threshold < 1
        return [] if is_good else [f"threshold: must be above 0 and below 1, got {self.threshold}"]

    @override
    def labels_of(self, rows: Rows) -> list[Sequence[str]]:
        return list(rows["labels"])

    @override
    def validate(self, rows: Rows, where: str) -> list[str]:
        problems = text_faults(rows, ["text", *(["text_pair"] if "text_pair" in rows else [])], where)
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
    def key(self, rows: Rows) -> list[str]:
        return text_keys(rows)

    @override
    def written(self, rows: Rows) -> tuple[list[str], list[str]]:
        """Returns the texts, a pair's below each other, and the labels in a list, or `none`."""
        texts = list(rows["text"])
        if "text_pair" in rows:
            texts = [f"{text}\n{pair}" for text, pair in zip(texts, rows["text_pair"], strict=True)]
        return texts, ["; ".join(sorted(own)) or "none" for own in rows["labels"]]

    @override
    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns the tokenizer's columns and `target`, the row's class indices."""
        target = [sorted(labels[label] for label in own) for own in rows["labels"]]
        return {**encode_texts(rows, tokenizer, max_length), "target": target}

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Returns a batch whose targets are class indices, int64 (R, M), filled up with -1."""
        import numpy as np
        import torch

        targets = np.full((len(ids), max(1, *map(len, encoded["target"]))), -1, dtype=np.int64)
        for row, own in zip(targets, encoded["target"], strict=True):
            row[: len(own)] = own
        return collate_texts(encoded, torch.from_numpy(targets), ids, tokenizer)

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns every row's mean binary cross-entropy over the classes that it may be given, in nats."""
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

        # One column more takes what is no class: the filling, and labels that come later.
        known = (batch.targets >= 0) & (batch.targets < num_classes)
        named = torch.zeros(len(batch), num_classes + 1, dtype=torch.bool, device=batch.device)
        return named.scatter(1, torch.where(known, batch.targets, num_classes), True)[:, :num_classes]

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns a site for every row and class that it may be given: no (logit 0) or yes, row by row."""
        import torch

        logits = outputs.logits.float()
        allowed = torch.ones_like(logits, dtype=torch.bool) if batch.allowed is None else batch.allowed
        row, about = allowed.nonzero(as_tuple=True)
        asked = logits[row, about]
        target = self.target_classes(batch, logits.shape[-1])[row, about].long()
        return Sites(torch.stack([torch.zeros_like(asked), asked], -1), row, target, about)

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns, sorted, the labels of every row that reach the threshold among those that it may be given."""
        likely = run.forward(batch).logits.float().sigmoid() >= self.threshold
        if batch.allowed is not None:
            likely = likely & batch.allowed
        found: list[list[str]] = [[] for _ in range(len(batch))]
        for row, label in likely.nonzero().tolist():
            found[row].append(run.classes[label])
        return Predictions([sorted(labels) for labels in found])

    @override
    def references(self, rows: Rows) -> list[Any]:
        return [sorted(labels) for labels in rows["labels"]]

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score` and `micro_f1`, `macro_f1` and `exact_match` over the column's own labels.

        A label that the model does not know yet counts as missed. Predicted labels of other columns do not count:
        these rows say nothing about them. `macro_f1` is the mean over the labels that are predicted or present; where
        there is none at all, nothing was wrong, and every metric is 1.
        """
        own = set(labels)
        pairs = [(own.intersection(p), own.intersection(r)) for p, r in zip(predictions, references, strict=True)]
        right = sum(len(found & wanted) for found, wanted in pairs)
        total = sum(len(found) + len(wanted) for found, wanted in pairs)
        lines = self.per_label(predictions, references, labels)
        f1 = [line["f1"] for line in lines if line["f1"] is not None]
        micro = 2 * right / total if total else 1.0
        return {
            "score": micro,
            "micro_f1": micro,
            "macro_f1": sum(f1) / len(f1) if f1 else 1.0,
            "exact_match": sum(found == wanted for found, wanted in pairs) / len(pairs),
        }

    @override
    def per_label(
        self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        found: list[str] = []
        wanted: list[str] = []
        for predicted, present in zip(predictions, references, strict=True):
            for label in sorted({*predicted, *present}):  # one question for each; no label is empty
                found.append(label if label in predicted else "")
                wanted.append(label if label in present else "")
        return per_class(found, wanted, labels)


def _are_labels(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(label, str) and label.strip() for label in value)
