"""Compares what MLflow holds of a run with the run's journal: every point once, and everything else as it was said."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from cl_mlm.tracking.mlflow_delivery import JOURNAL_ONLY


def differences(client, folder):
    """Returns in words what MLflow has too much, too little or otherwise; the run must be alone in its experiment."""
    link = json.loads((folder / "mlflow.json").read_text())
    expected = _read(folder / "journal.jsonl")
    ids = {None: link["run_id"], **{int(stage): run_id for stage, run_id in link["children"].items()}}
    found = {run.info.run_id: run for run in client.search_runs([link["experiment_id"]])}
    faults = [f"run {run_id}: MLflow only" for run_id in found.keys() - ids.values()]
    faults += [f"stage {stage}: no MLflow run" for stage in expected.keys() - ids.keys()]
    for stage, run_id in ids.items():
        place = "run" if stage is None else f"stage {stage}"
        if run_id not in found or stage not in expected:
            faults.append(f"{place}: in one of journal and MLflow only")
            continue
        run = found[run_id]
        faults += [f"{place}: {fault}" for fault in _differences(client, folder, run, expected[stage])]
        if stage is not None and run.data.tags.get("mlflow.parentRunId") != link["run_id"]:
            faults.append(f"{place}: is no child of its run")
    return faults


def _read(journal):
    """Returns what a journal says of the run (None) and of each stage."""
    said = {}
    for text in journal.read_text().splitlines():
        line = json.loads(text)
        kind, time = line["kind"], line["time"]
        place = said.setdefault(
            line.get("stage"), {"points": {}, "params": {}, "tags": {}, "artifacts": set(), "start": time, "end": None}
        )
        if kind == "metrics":
            for key, value in line["values"].items():
                place["points"].setdefault(key, []).append((line["step"], value, time))
        elif kind in ("params", "tags"):
            place[kind] |= {
                key: str(value) for key, value in line["values"].items() if not key.startswith(JOURNAL_ONLY)
            }
        elif kind == "artifact":
            place["artifacts"].add(line["path"])
        elif kind == "status":
            place["end"] = (line["value"], time)
    return said


def _differences(client, folder, run, expected):
    info, faults = run.info, []
    status, end = expected["end"]
    if (info.status, info.start_time, info.end_time) != (status, expected["start"], end):
        faults.append(f"must be {status} from {expected['start']} to {end}, MLflow has {info}")
    for kind in ("params", "tags"):
        missing = expected[kind].items() - getattr(run.data, kind).items()
        faults += [f"{kind} {key}: MLflow lacks {value!r}" for key, value in sorted(missing)]
    for key in sorted(run.data.metrics.keys() | expected["points"].keys()):
        history = sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(info.run_id, key))
        points = sorted(expected["points"].get(key, []))
        if history != points:
            faults.append(f"{key}: {len(points)} points in the journal, {len(history)} in MLflow, not the same ones")
    for path in sorted(expected["artifacts"]):
        local = folder / path
        for file in [local] if local.is_file() else sorted(local.rglob("*")):
            name = file.relative_to(folder).as_posix()
            with TemporaryDirectory() as place:
                stored = Path(client.download_artifacts(info.run_id, name, place)).read_bytes()
            if stored != file.read_bytes():
                faults.append(f"artifact {name}: other content")
    return faults
