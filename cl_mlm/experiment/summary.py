"""The contents of `summary.json`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from cl_mlm.data.tasks import objectives_of
from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.composition import swapping_strategies
from cl_mlm.experiment.provenance import OWN_SOURCE
from cl_mlm.experiment.record import Record, without_nan
from cl_mlm.metrics import summarise
from cl_mlm.prompting.summary import prompting_summary
from cl_mlm.run_folder import SCORED
from cl_mlm.storage.versions import versions
from cl_mlm.training.ceiling import as_dict, ceiling_notes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.stream import Stream
    from cl_mlm.training.ceiling import Ceilings

HARNESS: Final = "lm_eval/"
SWAPPED: Final = "swapped_for_evaluation"


def check_scored(checkpoint: Path, swapping: Sequence[str]) -> None:
    """Refuses the models of a checkpoint that are not the ones that were scored.

    Args:
        checkpoint: of a stage.
        swapping: the run's strategies that put other weights in the model's place while it is scored.

    Raises:
        RunFolderError: there are such strategies, and an early version has not kept what was scored.
    """
    if swapping and not (checkpoint / SCORED).is_dir():
        raise RunFolderError(
            f"{checkpoint}: its models are not the ones that were scored: strategy {', '.join(swapping)} has weights "
            "of its own for evaluation, which this version keeps and an earlier one did not"
        )


def summary(prepared: Prepared, record: Record, run_id: str, ceilings: Ceilings) -> dict[str, Any]:
    """Returns what `summary.json` holds; NaN is None, with the reason under `reasons`."""
    config, stream = prepared.config, prepared.stream
    start = [min(column.trained_in, default=None) for column in stream.columns]
    metrics, reasons = summarise(record.matrix, record.baseline, stream.home, start)
    validation_metrics, _ = summarise(record.validation, None, stream.home, start)
    probes = _probes(stream, record)
    swapping = swapping_strategies(prepared.strategies)
    values = {
        "run_id": run_id,
        "experiment": config.experiment,
        "label": config.label,
        **({} if config.arm is None else {"arm": config.arm}),
        "stream": _stream_section(prepared, ceilings),
        "tasks": _tasks_section(stream),
        "strategies": [{"name": name, **arguments} for name, arguments in config.strategies.items()],
        "model": asdict(config.model),
        "seed": config.seed,
        "accuracy_matrix": record.matrix,
        "validation_matrix": record.validation,
        "columns": [column.name for column in stream.columns],
        "home": stream.home,
        **({} if start == stream.home else {"start": start}),
        "ceilings": as_dict(ceilings),
        "baseline": record.baseline,
        "metrics": metrics,
        "validation_metrics": validation_metrics,
        **({"probes": probes} if probes else {}),
        **({"readings": record.readings} if record.readings else {}),
        "reasons": reasons | _reasons(prepared, metrics, probes),
        "flags": record.flags,
        "prompting": prompting_summary(prepared.prompting, record.prompting),
        "reused": record.reused,
        **({SWAPPED: swapping} if swapping else {}),
        "cost": record.cost,
        "settings": {key: value for key, value in config.identity().items() if key != "seed"},
        "versions": versions(),
        "provenance": {**prepared.provenance, OWN_SOURCE: json.loads(prepared.provenance.get(OWN_SOURCE, "{}"))},
    }
    return dict(without_nan(values))


def _stream_section(prepared: Prepared, ceilings: Ceilings) -> dict[str, Any]:
    stream = prepared.stream
    choices = {"choices": {column.name: list(column.labels) for column in stream.columns}} if stream.masks else {}
    return {
        "name": stream.name,
        "scenario": stream.scenario,
        "fingerprint": stream.fingerprint,
        "stages": [stage.name for stage in stream.stages],
        "labels": {stage.name: list(stage.labels) for stage in stream.stages},
        **choices,
        "overlap": prepared.overlap,
        "split_digests": stream.split_digests,
        "notes": [*stream.notes, *prepared.notes, *ceiling_notes(ceilings)],
    }


def _tasks_section(stream: Stream) -> dict[str, Any]:
    """Returns by key of every task its objective, its stages, and the columns that a new row must and may have."""
    keys, objectives = objectives_of(stream)
    section = {}
    for key, objective in objectives.items():
        stages = [i for i, of_stage in enumerate(keys) if of_stage == key]
        have = [set(stream.stages[i].train.column_names) for i in stages]
        inputs = objective.inputs
        section[key] = {
            "objective": stream.stages[stages[0]].objective,
            "options": objective.options(),
            "stages": stages,
            "inputs": [name for name in inputs if all(name in columns for columns in have)],
            "optional_inputs": [name for name in inputs if 0 < sum(name in columns for columns in have) < len(have)],
        }
    return section


def _reasons(prepared: Prepared, metrics: Mapping[str, float], probes: Mapping[str, Any]) -> dict[str, str]:
    """Returns why entries are undefined, beside the reasons that the matrix itself gives."""
    stream = prepared.stream
    unknown = [f"probe {name}" for name, values in probes.items() if math.isnan(values["change"])]
    reasons = dict.fromkeys(unknown, "not all its labels are known before training")
    if stream.measured:
        left_out = len(stream) - len(stream.measured)
        reasons["accuracy_matrix"] = f"rows of {left_out} of {len(stream)} stages are not measured (evaluate_every)"
    if "test" not in prepared.config.evaluation.splits:
        reasons |= dict.fromkeys([*metrics, *unknown], "the test split is not evaluated (evaluation.splits)")
    return reasons


def _probes(stream: Stream, record: Record) -> dict[str, dict[str, float]]:
    """Returns for every probe its score before training, after the last stage, and the change."""
    changes = {}
    for j, column in enumerate(stream.columns):
        if column.home is None:
            before, after = record.baseline[j], record.matrix[-1][j]
            changes[column.name] = {"before": before, "after": after, "change": after - before}
    for name, values in record.readings.items():
        before, after = values[0], values[-1]
        # Of a task of lm-eval: what is no score, such as a perplexity, stands among the readings alone.
        if name.startswith(HARNESS) and 0 <= before <= 1 and 0 <= after <= 1:
            changes[name] = {"before": before, "after": after, "change": after - before}
    return changes
