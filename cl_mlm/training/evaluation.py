"""Scores columns: one length-sorted pass over the rows of all columns together, then one score for each column."""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cl_mlm.arrow import arrow_batches
from cl_mlm.errors import TrainingError
from cl_mlm.models.modes import evaluation_mode
from cl_mlm.stream import unpack_row_ids
from cl_mlm.training import hooks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from cl_mlm.stream import Stream
    from cl_mlm.task import Tasks
    from cl_mlm.training.run import Run

FREE = "free_"  # before the name of a metric: of what the model says where nothing confines it


@dataclass(frozen=True)
class Evaluated:
    """Predictions for rows of one split, in the order of their ids.

    Attributes:
        ids: of the rows, (N,).
        predictions: what the objective predicts for every row, (N,): a label, a list of tags, a text, a number.
        references: what it should have predicted, (N,).
        probability: of the prediction, (N,); NaN where it is no choice among classes.
        reference_probability: of the reference, (N,); NaN likewise.
        scores: metrics of each evaluated column, by its index. Where answers are confined, `free_<metric>` are those of
            what the model says freely.
        free: what the model says of every row where nothing confines it, (N,); None: no row's answer is confined.
    """

    ids: npt.NDArray[np.int64]
    predictions: list[Any]
    references: list[Any]
    probability: npt.NDArray[np.float32]
    reference_probability: npt.NDArray[np.float32]
    scores: dict[int, dict[str, float]]
    free: list[Any] | None = None

    def to_state(self) -> dict[str, Any]:
        """Returns arrays and plain values, for a checkpoint."""
        return {**vars(self), "scores": {str(j): values for j, values in self.scores.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Evaluated:
        """Returns what `to_state` gave, whose arrays came back as tensors."""
        return cls(
            ids=state["ids"].numpy(),
            predictions=list(state["predictions"]),
            references=list(state["references"]),
            probability=state["probability"].numpy(),
            reference_probability=state["reference_probability"].numpy(),
            scores={int(j): dict(values) for j, values in state["scores"].items()},
            free=None if state.get("free") is None else list(state["free"]),
        )

    def row(self, num_columns: int) -> list[float]:
        """Returns the row of the accuracy matrix; NaN where a column was not evaluated."""
        return [self.scores.get(j, {}).get("score", float("nan")) for j in range(num_columns)]


def evaluate(run: Run, split: str, columns: Sequence[int]) -> Evaluated:
    """Returns predictions and scores of `split` for the columns of these indices; the model's mode is restored."""
    ids = ids_of_columns(run, split, columns)
    predictions: list[Any] = [None] * len(ids)
    free: dict[int, Any] = {}
    probability, reference_probability = (np.full(len(ids), np.nan, dtype=np.float32) for _ in range(2))
    with evaluation_mode(run.network.model), scoring(run, columns):
        for positions, rows, batch in run.data.asked(ids, run.config.evaluation.batch_size, split):
            predicted = run.task_of(batch).objective.predict(run.predictor(batch), batch)
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                predictions[position] = predicted.values[row]
                if predicted.free is not None:
                    free[position] = predicted.free[row]
            if predicted.probability is not None:
                probability[positions] = predicted.probability.float().cpu().numpy()[rows]
                _refuse_nan(run, split, "probability", probability[positions].tolist())
            if predicted.reference_probability is not None:
                reference_probability[positions] = predicted.reference_probability.float().cpu().numpy()[rows]
    _refuse_nan(run, split, "number", [value for value in predictions if isinstance(value, float)])
    references = [value for j in columns for value in _references(run, split, j)]
    scores = _score(run, ids, predictions, references, columns)
    if not free:
        return Evaluated(ids, predictions, references, probability, reference_probability, scores)
    said = [free.get(position, prediction) for position, prediction in enumerate(predictions)]
    confined = {int(j) for j in np.unique(unpack_row_ids(ids[[*free]])[0])}
    for j, of_free in _score(run, ids, said, references, [j for j in columns if j in confined]).items():
        scores[j] = scores[j] | {f"{FREE}{name}": value for name, value in of_free.items()}
    return Evaluated(ids, predictions, references, probability, reference_probability, scores, said)


def _refuse_nan(run: Run, split: str, what: str, predicted: Sequence[float]) -> None:
    """Refuses predictions of which no score would mean anything.

    Raises:
        TrainingError: one of the numbers is NaN.
    """
    if not any(map(math.isnan, predicted)):
        return
    key, precision = "training.precision", run.config.training.precision
    advice = [] if precision == "fp32" else [f"{key}=fp32 (now {precision})"]
    advice += [f"evaluation of strategy {one.name}" for one in run.strategies if one.overrides("evaluation")]
    raise TrainingError(
        f"stage {run.stage.name!r}, scoring of {split} rows: the model predicts a {what} that is nan. "
        f"Worth a look: {', '.join(advice) or 'the weights of model.name'}. What was measured before is kept"
    )


def ids_of_columns(run: Run, split: str, columns: Sequence[int]) -> npt.NDArray[np.int64]:
    """Returns the ids of all rows of these columns, column by column, (N,)."""
    return np.concatenate([run.data.ids(j, split) for j in columns]) if columns else np.zeros(0, dtype=np.int64)


@contextmanager
def scoring(run: Run, columns: Sequence[int]) -> Iterator[None]:
    """Computes no gradients within the block, and lets every strategy's `evaluation` surround it."""
    names = [run.stream.columns[j].name for j in columns]
    with ExitStack() as stack:
        for strategy in run.strategies:
            stack.enter_context(hooks.evaluation(run, strategy, names))
        stack.enter_context(torch.inference_mode())
        yield


@contextmanager
def as_scored(run: Run) -> Iterator[None]:
    """Lets the model be within the block what it is while the columns of the present stage are scored."""
    splits = run.config.evaluation.splits
    columns = scorable_columns(run.stream, run.tasks, "test" if "test" in splits else splits[0])
    with evaluation_mode(run.network.model), scoring(run, columns):
        yield


def scorable_columns(stream: Stream, tasks: Tasks, split: str = "test") -> list[int]:
    """Returns the indices of the columns that can be scored.

    They have rows in the split, and at least one label that the model already knows.
    """
    return [
        j
        for j, column in enumerate(stream.columns)
        if tasks.of_column(j).labels.knows_any(column.labels) and len(column.split(split))
    ]


def _references(run: Run, split: str, column: int) -> list[Any]:
    """Returns what should be predicted for every row of a column; of a packed block, its number of tokens."""
    objective = run.tasks.of_column(column).objective
    if objective.packs:
        return list(run.data.lengths(run.data.ids(column, split), split).tolist())
    needed = list(objective.reference_columns)
    rows = run.stream.columns[column].split(split).with_format(None).select_columns(needed)
    return [reference for table in arrow_batches(rows) for reference in objective.references(table.to_pydict())]


def _score(
    run: Run, ids: npt.NDArray[np.int64], predictions: list[Any], references: list[Any], columns: Sequence[int]
) -> dict[int, dict[str, float]]:
    owners, _ = unpack_row_ids(ids)
    scores = {}
    for j in columns:
        where = np.flatnonzero(owners == j).tolist()
        predicted, expected = [predictions[i] for i in where], [references[i] for i in where]
        scores[j] = run.tasks.of_column(j).objective.score(predicted, expected, run.stream.columns[j].labels)
    return scores
