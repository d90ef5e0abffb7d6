"""Scores a run before training and after every stage: columns, prompts, and the flags that they give reason for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cl_mlm.experiment.predictions import write_predictions
from cl_mlm.experiment.probes import measure_probes
from cl_mlm.experiment.prompts import measure_prompts
from cl_mlm.experiment.readings import add_readings, free_readings
from cl_mlm.metrics import average_accuracy, forgetting
from cl_mlm.storage.inventory import BEFORE
from cl_mlm.stream import unpack_row_ids
from cl_mlm.training.evaluation import evaluate, scorable_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cl_mlm.experiment.record import Record
    from cl_mlm.experiment.shared_stages import SharedStages
    from cl_mlm.prompting.columns import Prompting
    from cl_mlm.run_folder import RunFolder
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.training.evaluation import Evaluated
    from cl_mlm.training.run import Run


class Scoring:
    """Measures a run, and writes what it measured into record, journal and predictions.

    Args:
        folder: of the run.
        journal: of the run.
        column_slugs: the columns as metric names have them.
        prompting: what is prompted; None: nothing.
        shared: scores that other runs have taken of the same weights.
    """

    def __init__(
        self,
        folder: RunFolder,
        journal: Journal,
        column_slugs: Sequence[str],
        prompting: Prompting | None,
        shared: SharedStages,
    ) -> None:
        self._folder, self._journal, self._column_slugs = folder, journal, column_slugs
        self._prompting, self._shared = prompting, shared

    def before_training(self, run: Run, record: Record) -> None:
        """Scores the untrained model on the columns whose labels it all knows; the others have no baseline."""
        run.tasks.count_labels(0, -1)
        num_columns = len(run.stream.columns)
        columns = baseline_columns(run)
        if columns and "test" in run.config.evaluation.splits:
            evaluated = evaluate(run, "test", columns)
            record.baseline = evaluated.row(num_columns)
            record.tables[BEFORE] = write_predictions(self._folder, run, evaluated, BEFORE)
            self._journal.metrics({f"baseline/{self._column_slugs[j]}": record.baseline[j] for j in columns}, 0)
            add_readings(record, self._journal, free_readings(evaluated, self._column_slugs), -1)
        self.prompt(run, record, -1)

    def after_stage(self, run: Run) -> dict[str, Evaluated]:
        """Returns predictions and scores of every split that is scored after this stage."""
        if not run.stream.is_measured(run.place.stage_index):
            return {}
        return {split: self._evaluate(run, split) for split in run.config.evaluation.splits}

    def prompt(self, run: Run, record: Record, after: int) -> None:
        """Scores the prompted columns, and measures probes; `after` is the last stage that was trained, -1: none."""
        if self._prompting is not None:
            measure_prompts(self._prompting, run, record, self._journal, after)
        measure_probes(run, record, self._journal, after)

    def write(self, run: Run, record: Record, evaluated: Mapping[str, Evaluated]) -> list[float] | None:
        """Writes the scores of a stage; returns the row that a display shows: of test, else of validation."""
        stage_index, columns = run.place.stage_index, run.stream.columns
        matrices = {"test": (record.matrix, "accuracy"), "validation": (record.validation, "validation")}
        for split, (matrix, key) in matrices.items():
            if split not in evaluated:
                continue
            scores = evaluated[split].scores
            matrix[stage_index] = evaluated[split].row(len(columns))
            row = matrix[stage_index]
            self._journal.metrics({f"{key}/{self._column_slugs[j]}": row[j] for j in scores}, stage_index)
            if split == "test":
                self._journal.metrics(_so_far(matrix[: stage_index + 1], run.stream.home), stage_index)
                add_readings(record, self._journal, free_readings(evaluated[split], self._column_slugs), stage_index)
            of_stage = next((scores[j] for j in scores if stage_index in columns[j].trained_in), {})
            self._journal.metrics(
                {f"{split}/{name}": value for name, value in of_stage.items()}, stage_index, stage_index
            )
        if not evaluated:
            return None
        shown = "test" if "test" in evaluated else "validation"
        if run.config.limit is None:
            record.flags += columns_at_chance(run, evaluated[shown])
        if "test" in evaluated:
            record.tables[str(stage_index)] = write_predictions(self._folder, run, evaluated["test"], str(stage_index))
        return matrices[shown][0][stage_index]

    def _evaluate(self, run: Run, split: str) -> Evaluated:
        columns = scorable_columns(run.stream, run.tasks, split)
        evaluated = self._shared.look_up_scores(run, split, columns)
        if evaluated is None:
            evaluated = evaluate(run, split, columns)
            self._shared.store_scores(run, split, columns, evaluated)
        return evaluated


def baseline_columns(run: Run) -> list[int]:
    """Returns the indices of the columns that are scored before training: all their labels are known by then."""
    columns = enumerate(run.stream.columns)
    return [j for j, column in columns if run.tasks.of_column(j).labels.knows_all(column.labels)]


def _so_far(matrix: Sequence[Sequence[float]], home: Sequence[int | None]) -> dict[str, float]:
    """Returns what the run would report if this were its last stage, without what is undefined."""
    values = {"average_accuracy": average_accuracy(matrix, home), "forgetting": forgetting(matrix, home)}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def columns_at_chance(run: Run, evaluated: Evaluated) -> list[str]:
    """Returns a flag for each column learned now that scores no better than always its most frequent label.

    Within 2 standard errors counts as no better.
    """
    flags, owners = [], unpack_row_ids(evaluated.ids)[0]
    for j, column in enumerate(run.stream.columns):
        if column.home != run.place.stage_index or j not in evaluated.scores:
            continue
        where = np.flatnonzero(owners == j).tolist()
        chance = run.tasks.of_column(j).objective.chance([evaluated.references[i] for i in where])
        if chance is None:
            continue  # where one label is all there is, chance says nothing
        margin = 2 * math.sqrt(chance * (1 - chance) / len(where))
        accuracy = evaluated.scores[j]["score"]
        if accuracy <= chance + margin:
            reached = f"its own accuracy {accuracy:.3f} stays at chance ({chance:.3f} ± {margin:.3f})"
            flags.append(f"{column.name}: {reached} after it was trained")
    return flags
