"""Regression: a number for each text or pair of texts, such as the similarity of two sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.errors import ConfigError
from cl_mlm.objective import Attainable, Encoded, Objective, Obstacle, Predictor, ProblemType, RawRows
from cl_mlm.scores.correlation import pearson, spearman
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

LARGEST = 1e15  # whose square fp32 can still hold


class Regression(Objective):
    """One number for each row: columns `text`, optionally `text_pair`, and `value`.

    Values are learned as they are given; scale large ones to about 0-1 first. A value is a number, or a string with a
    number, as in CSV files.

    Args:
        correlation: the correlation of predictions and values from which `score` is computed.
    """

    columns: ClassVar[tuple[str, ...]] = ("text", "value")
    reference_columns: ClassVar[tuple[str, ...]] = ("value",)
    problem_type: ClassVar[ProblemType] = "regression"
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "none"

    def __init__(self, correlation: Literal["pearson", "spearman"] = "pearson") -> None:
        self.correlation = correlation

    @override
    def faults(self, max_length: int) -> list[str]:
        known = self.correlation in ("pearson", "spearman")
        return [] if known else [f"correlation: must be pearson or spearman, got {self.correlation!r}"]

    @override
    def classes(self, labels: Sequence[str]) -> list[str]:
        return []

    @override
    def num_outputs(self, labels: Sequence[str]) -> int:
        return 1

    @property
    @override
    def contradicts(self) -> bool:
        return True

    @override
    def validate(self, rows: RawRows, where: str) -> list[str]:
        problems = text_faults(rows, text_columns(rows), where)
        if "value" not in rows:
            return [*problems, f"{where}: needs the column value"]
        bad = [i for i, value in enumerate(rows["value"]) if _number(value) is None]
        if bad:
            value = rows["value"][bad[0]]
            has_comma = isinstance(value, str) and _number(value.replace(",", ".")) is not None
            problems.append(
                f"{where}: value must be a number of at most {LARGEST:g} in size, got {value!r} in row {bad[0]} "
                f"({len(bad)} such rows){'; write a point for the decimal comma' if has_comma else ''}"
            )
        return problems

    @override
    def key(self, rows: RawRows) -> list[str]:
        return text_keys(rows)

    @override
    def encode(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns the tokenizer's columns and `target`, the value."""
        return {**encode_texts(rows, tokenizer, max_length), "target": self.references(rows)}

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        return collate_texts(encoded, number_targets(encoded, np.float32), ids, tokenizer)

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the squared error of every row."""
        return (outputs.logits[:, 0].float() - batch.targets).square()

    @override
    def target_classes(self, batch: Batch, num_classes: int) -> torch.Tensor:
        """Returns a mask without any class, bool (R, C)."""
        import torch

        return torch.zeros(len(batch), num_classes, dtype=torch.bool, device=batch.device)

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        raise ConfigError(f"objective {self.name}: its answer is a number, the model nowhere chooses among classes")

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns the number that the model gives for every row."""
        return Predictions(run.forward(batch).logits[:, 0].float().tolist())

    @override
    def references(self, rows: RawRows) -> list[Any]:
        return [float(value) for value in rows["value"]]

    @override
    def unanswered(self, rows: RawRows, labels: Sequence[str]) -> dict[str, Sequence[Any]]:
        """Returns new rows with the value 0."""
        return {**rows, "value": [0.0] * len(rows["text"])}

    @override
    def attainable(
        self,
        rows: RawRows,
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
        own_labels: Sequence[str],
    ) -> Attainable:
        """Returns the references; where they are all equal, nothing correlates with them."""
        values = self.references(rows)
        metric = f"(1 + {self.correlation}) / 2"
        if len(set(values)) > 1:
            return Attainable.whole(values, metric, is_general=True)
        constant = [Obstacle("the value is that of all rows, with which nothing correlates", f"{x:g}") for x in values]
        return Attainable([*values], [*constant], metric)

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score`, which is (1 + rho) / 2 of the chosen correlation rho, `pearson`, `spearman` and `mse`.

        Where all predictions or all references are equal, both correlations are 0 and the score is 0.5.
        """
        correlations = {"pearson": pearson(predictions, references), "spearman": spearman(predictions, references)}
        squares = [(p - r) ** 2 for p, r in zip(predictions, references, strict=True)]
        score = (1 + correlations[self.correlation]) / 2
        return {"score": score, **correlations, "mse": sum(squares) / len(squares)}


def _number(value: Any) -> float | None:
    """Returns a number, or the number in a string; None where there is none of at most LARGEST in size."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and "_" in value:  # Python would read 1_000 as a number
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= LARGEST else None
