"""The contents of `summary.json`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from cl_mlm.data.tasks import objectives_of
from cl_mlm.experiment.preparation import Prepared
from cl_mlm.experiment.record import Record, without_nan
from cl_mlm.metrics import summarise
from cl_mlm.prompting.summary import prompting_summary
from cl_mlm.storage.versions import versions
from cl_mlm.stream import Stream


def summary(prepared: Prepared, record: Record, run_id: str) -> dict[str, Any]:
    """Returns what `summary.json` holds; NaN is None, with the reason under `reasons`."""
    config, stream = prepared.config, prepared.stream
    home, start = stream.home, [min(column.trained_in, default=None) for column in stream.columns]
    metrics, reasons = summarise(record.matrix, record.baseline, home, start)
    validation_metrics, _ = summarise(record.validation, None, home, start)
    probes = _probes(stream, record)
    unknown = [name for name, values in probes.items() if math.isnan(values["change"])]
    reasons |= {f"probe {name}": "not all its labels are known before training" for name in unknown}
    if stream.measured:
        left_out = len(stream) - len(stream.measured)
        reasons["accuracy_matrix"] = f"rows of {left_out} of {len(stream)} stages are not measured (evaluate_every)"
    if "test" not in config.evaluation.splits:
        reasons |= dict.fromkeys(
            [*metrics, *(f"probe {name}" for name in unknown)], "the test split is not evaluated (evaluation.splits)"
        )
    keys, objectives = objectives_of(stream)
    tasks = {
        key: {"objective": o.name, "options": o.options(), "stages": [i for i, own in enumerate(keys) if own == key]}
        for key, o in objectives.items()
    }
    settings = {key: value for key, value in config.identity().items() if key != "seed"}
    return dict(
        without_nan(
            {
                "run_id": run_id,
                "experiment": config.experiment,
                "label": config.label,
                "stream": {
                    "name": stream.name,
                    "scenario": stream.scenario,
                    "fingerprint": stream.fingerprint,
                    "stages": [stage.name for stage in stream.stages],
                    "labels": {stage.name: list(stage.labels) for stage in stream.stages},
                    "overlap": prepared.overlap,
                    "notes": list(stream.notes),
                },
                **({"tasks": tasks} if len(tasks) > 1 else {}),
                "strategies": [{"name": name, **arguments} for name, arguments in config.strategies.items()],
                "model": asdict(config.model),
                "seed": config.seed,
                "accuracy_matrix": record.matrix,
                "validation_matrix": record.validation,
                "columns": [column.name for column in stream.columns],
                "home": home,
                **({} if start == home else {"start": start}),
                "baseline": record.baseline,
                "metrics": metrics,
                "validation_metrics": validation_metrics,
                **({"probes": probes} if probes else {}),
                "reasons": reasons,
                "flags": record.flags,
                "prompting": prompting_summary(prepared.prompting, record.prompting),
                "reused": record.reused,
                "cost": record.cost,
                "settings": settings,
                "versions": versions(),
            }
        )
    )


def _probes(stream: Stream, record: Record) -> dict[str, dict[str, float]]:
    """Returns for every probe its score before training, after the last stage, and the change."""
    found = {}
    for j, column in enumerate(stream.columns):
        if column.home is None:
            before, after = record.baseline[j], record.matrix[-1][j]
            found[column.name] = {"before": before, "after": after, "change": after - before}
    return found
