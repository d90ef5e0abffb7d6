"""What a run writes about itself: its head when it starts, its cost on the way, its summary and tables at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cl_mlm.config.undecodable import to_yaml
from cl_mlm.experiment.continuation import BETWEEN_NOTES, INEXACT_TAG, flat
from cl_mlm.experiment.mlflow_tags import description, origin_tags
from cl_mlm.experiment.predictions import write_per_class
from cl_mlm.experiment.summary import summary
from cl_mlm.results.run_report import write_run_report
from cl_mlm.storage.versions import versions
from cl_mlm.tracking.credentials import cleaned
from cl_mlm.training.hardware import describe_hardware
from cl_mlm.whole_files import refuse_folder, write_text_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cl_mlm.config.schema import Config
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.experiment.record import Record
    from cl_mlm.run_folder import RunFolder
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.training.ceiling import Ceilings


def write_head(prepared: Prepared, folder: RunFolder, journal: Journal, notes: Sequence[str]) -> None:
    """Writes the resolved config and what identifies the run; the same again when a run is resumed."""
    config, stream = prepared.config, prepared.stream
    # What says that the run is finished goes first, and comes last.
    for path in [folder.inventory, *([folder.summary] if journal.is_new else [])]:
        refuse_folder(path)
        path.unlink(missing_ok=True)
    write_text_whole(folder.config, to_yaml(cleaned(config.to_dict())))
    journal.start(config.experiment, folder.path.name)
    journal.status("RUNNING")
    journal.params(flat(config.to_dict()))
    present, machine = versions(), describe_hardware()
    # Resuming reads these tags in the journal; MLflow is sent the file instead (`mlflow_delivery.JOURNAL_ONLY`).
    tags = {f"version/{name}": value for name, value in present.items() if name != "commit"}
    hardware = {f"hardware/{name}": value for name, value in machine.items()}
    overlap = {f"overlap/{name}": count for name, count in prepared.overlap.items()}
    identity = {"stream": stream.name, **prepared.provenance, **variant_tags(config)}
    journal.tags({**tags, **identity, **hardware, **overlap, **description(prepared, folder.path.name)})
    journal.tags(origin_tags(), keep=True)
    if notes:
        journal.tags({INEXACT_TAG: BETWEEN_NOTES.join(notes)})
    write_text_whole(folder.versions, json.dumps({"versions": present, "hardware": machine}, indent=1) + "\n")
    journal.artifact(folder.config.name)
    journal.artifact(folder.versions.name)
    journal.sync()


def variant_tags(config: Config) -> dict[str, str]:
    """Returns the tags that tell a run, and each of its stages, from others of the experiment."""
    arm = {} if config.arm is None else {"arm": config.arm}
    return {**arm, "strategies": config.label, "seed": str(config.seed)}


def write_results(
    prepared: Prepared,
    record: Record,
    folder: RunFolder,
    journal: Journal,
    column_slugs: Sequence[str],
    ceilings: Ceilings,
) -> dict[str, Any]:
    """Writes the summary, tables and figures, hands them to the journal, and returns the summary."""
    results: dict[str, Any] = cleaned(summary(prepared, record, folder.path.name, ceilings))
    write_text_whole(folder.summary, json.dumps(results, indent=1, allow_nan=False) + "\n")
    paths = [folder.summary, *write_run_report(folder, results), *write_per_class(folder, prepared.stream)]
    for path in paths:
        journal.artifact(path.relative_to(folder.path))
    last_stage = len(prepared.stream) - 1
    journal.metrics({f"summary/{name}": value for name, value in _final(results, column_slugs).items()}, last_stage)
    journal.metrics({f"cost/{name}": value for name, value in results["cost"].items()}, last_stage)
    journal.tags(description(prepared, folder.path.name, results))
    if results["flags"]:
        journal.tags({"flags": "; ".join(results["flags"])})
    return results


def _final(results: Mapping[str, Any], column_slugs: Sequence[str]) -> dict[str, float]:
    """Returns the metrics that are defined and, by their slugs, the changes of probes that are known."""
    metrics = {name: value for name, value in results["metrics"].items() if value is not None}
    slugs = dict(zip(results["columns"], column_slugs, strict=True))
    for name, values in results.get("probes", {}).items():
        if values["change"] is not None:
            metrics[f"probe/{slugs.get(name, name)}"] = values["change"]
    return metrics
