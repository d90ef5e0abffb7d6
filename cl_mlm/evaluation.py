"""Scores columns: one length-sorted pass over the rows of all columns together, then one score for each column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_mlm.stream import unpack_row_ids
from cl_mlm.view import Run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Evaluated:
    """Predictions for rows of one split, in the order of their ids; every array is (N,).

    Attributes:
        scores: metrics of each evaluated column, by stage index.
    """

    ids: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int64]
    reference: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    reference_probability: npt.NDArray[np.float32]
    scores: dict[int, dict[str, float]]

    def to_state(self) -> dict[str, Any]:
        """Returns arrays and plain values, for a checkpoint."""
        return {**vars(self), "scores": {str(j): values for j, values in self.scores.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Evaluated:
        """Returns what `to_state` gave, whose arrays came back as tensors."""
        arrays = {name: state[name].numpy() for name in ("ids", *_COLUMNS)}
        return cls(**arrays, scores={int(j): dict(values) for j, values in state["scores"].items()})

    def row(self, num_columns: int) -> list[float]:
        """Returns the row of the accuracy matrix; NaN where a column was not evaluated."""
        return [self.scores.get(j, {}).get("score", float("nan")) for j in range(num_columns)]


def evaluate(run: Run, split: str, columns: Sequence[int]) -> Evaluated:
    """Returns predictions and scores of `split` for the stages `columns`; the model's mode is restored."""
    import numpy as np
    import torch

    rows = run.split_rows[split]
    ids = np.concatenate([rows.ids(j) for j in columns]) if columns else np.zeros(0, dtype=np.int64)
    found = {name: np.zeros(len(ids), dtype=kind) for name, kind in _COLUMNS.items()}
    names = [run.stream.stages[j].name for j in columns]
    modes = [(module, module.training) for module in run.model.modules()]
    run.model.eval()
    try:
        with ExitStack() as stack:
            for strategy in run.strategies:
                stack.enter_context(strategy.evaluation(run, names))
            stack.enter_context(torch.inference_mode())
            for positions, batch in run.batches(ids, run.config.evaluation.batch_size, split):
                predicted = run.objective.predict(run.forward(batch), batch)
                found["prediction"][positions] = predicted.choice.cpu().numpy()
                found["reference"][positions] = batch.targets.cpu().numpy()
                found["probability"][positions] = predicted.probability.float().cpu().numpy()
                found["reference_probability"][positions] = predicted.reference_probability.float().cpu().numpy()
    finally:
        for module, training in modes:
            module.training = training
    return Evaluated(ids, **found, scores=_score(run, ids, found, columns))


def known_columns(run: Run) -> list[int]:
    """Returns the stages of whose labels the model knows at least one: the others have no score yet."""
    known = len(run.labels.seen)
    return [j for j in range(len(run.stream)) if any(i < known for i in run.labels.of(j))]


def per_class(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns precision, recall, F1 and rows of every label; a quotient by zero is None."""
    right = Counter(r for p, r in zip(predictions, references, strict=True) if p == r)
    predicted, present = Counter(predictions), Counter(references)

    def share(part: float, whole: int) -> float | None:
        return part / whole if whole else None

    return [
        {
            "label": label,
            "precision": share(right[label], predicted[label]),
            "recall": share(right[label], present[label]),
            "f1": share(2 * right[label], predicted[label] + present[label]),
            "rows": present[label],
        }
        for label in labels
    ]


_COLUMNS = {
    "prediction": "int64",
    "reference": "int64",
    "probability": "float32",
    "reference_probability": "float32",
}


def _score(
    run: Run, ids: npt.NDArray[np.int64], found: dict[str, npt.NDArray[Any]], columns: Sequence[int]
) -> dict[int, dict[str, float]]:
    stages, _ = unpack_row_ids(ids)
    scores = {}
    for j in columns:
        where = stages == j
        scores[j] = run.objective.score(
            found["prediction"][where].tolist(), found["reference"][where].tolist(), run.labels.seen
        )
    return scores
