"""Record: what has been measured of a run so far, and the summary made of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cl_mlm
from cl_mlm.data.tasks import objectives_of
from cl_mlm.experiment.preparation import Prepared
from cl_mlm.metrics import summarise
from cl_mlm.prompting.summary import prompting_summary
from cl_mlm.stream import Stream
from cl_mlm.training.step import StageCost

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "avalanche-lib",
    "mlflow",
    "numpy",
    "omegaconf",
)
SOURCE_PACKAGES = ("cl_mlm", "streams", "strategies")


@dataclass
class Record:
    """Scores, flags and cost of the stages measured so far; a checkpoint carries it.

    Attributes:
        matrix: test scores, (stages, columns); NaN where nothing was measured.
        validation: the same on the validation splits.
        baseline: test scores before any training, (columns,).
        next_stage: the first stage that is not yet trained and measured.
        reused: stages that another run had trained, `stage` and `run`.
        prompting: scores of prompts for each number of demonstrations, (1 + stages, prompted columns): before any
            training, then after every stage.
    """

    matrix: list[list[float]]
    validation: list[list[float]]
    baseline: list[float]
    flags: list[str] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    next_stage: int = 0
    reused: list[dict[str, str]] = field(default_factory=list)
    prompting: dict[str, list[list[float]]] = field(default_factory=dict)

    @classmethod
    def empty(cls, num_stages: int, num_columns: int) -> Record:
        """Returns the record of a run that has measured nothing."""

        def unknown() -> list[list[float]]:
            return [[math.nan] * num_columns for _ in range(num_stages)]

        return cls(unknown(), unknown(), [math.nan] * num_columns)

    def add_cost(self, cost: StageCost, eval_seconds: float, sizes: Mapping[str, float]) -> None:
        """Adds a stage's cost to the sums; sizes are as large as they ever were."""
        spent = {
            "train_seconds": cost.train_seconds,
            "eval_seconds": eval_seconds,
            "train_examples": cost.train_examples,
            "train_tokens": cost.train_tokens,
        }
        for name, value in spent.items():
            self.cost[name] = self.cost.get(name, 0) + value
        for name, size in sizes.items():
            self.cost[name] = max(self.cost.get(name, 0), size)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, NaN as None."""
        return dict(without_nan(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """Returns the record that `to_dict` gave."""
        restored = dict(values)
        for name in ("matrix", "validation"):
            restored[name] = _with_nan(values[name])
        restored["prompting"] = {shots: _with_nan(rows) for shots, rows in values.get("prompting", {}).items()}
        restored["baseline"] = [math.nan if x is None else x for x in values["baseline"]]
        return cls(**restored)


def _with_nan(rows: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[math.nan if x is None else x for x in row] for row in rows]


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


def versions() -> dict[str, str]:
    """Returns what a result may depend on: versions, a digest of the source, the commit where it is a checkout."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "cl-mlm": importlib.metadata.version("cl-mlm"),
        **found,
        "source": source(),
        "commit": commit(),
    }


@cache
def source() -> str:
    """Returns a SHA-256 (12 digits) over every Python file of the project's packages as they are when first asked for.

    The commit says less: it does not see what is changed and not committed, and an installed copy has none.
    """
    root = Path(cl_mlm.__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for package in SOURCE_PACKAGES for path in (root / package).rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


@cache
def commit() -> str:
    """Returns the commit of the checkout that this code lies in, `+` behind it where files differ; else `unknown`.

    As it is when first asked for: the code that runs does not change with the checkout.
    """
    folder = Path(cl_mlm.__file__).parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def without_nan(value: Any) -> Any:
    """Returns `value` with every NaN replaced by None, so that it is valid JSON."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_nan(item) for item in value]
    return value
