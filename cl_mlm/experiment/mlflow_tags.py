"""What MLflow shows of a run beside its numbers: description, source, commit and user, as tags that MLflow knows."""

from __future__ import annotations

import contextlib
import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.results.run_report import hundredths, unit_of
from cl_mlm.storage.versions import commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cl_mlm.experiment.preparation import Prepared

SHOWN_METRICS = ("average_accuracy", "forgetting")


def origin_tags() -> dict[str, str]:
    """Returns which file, commit and user a run comes from."""
    tags = {"mlflow.source.name": source_name(sys.argv), "mlflow.source.type": "LOCAL"}
    head = commit()
    if head != "unknown":
        tags |= {"mlflow.source.git.commit": head.rstrip("+"), "mlflow.source.git.dirty": str(head.endswith("+"))}
    with contextlib.suppress(KeyError, OSError):  # an account without a name, as in some containers
        tags["mlflow.user"] = getpass.getuser()
    return tags


def source_name(command: Sequence[str]) -> str:
    """Returns the config of a `cl-mlm` command, by file or run folder; of any other command its script.

    Args:
        command: as in `sys.argv`.
    """
    script = Path(command[0] if command else "")
    is_own = script.name == "cl-mlm" or script.parts[-2:] == ("cl_mlm", "__main__.py")
    for word in command[2:] if is_own else ():
        for path in (Path(word), Path(word) / "config.yaml"):
            if not word.startswith("-") and path.is_file():
                return str(path)
    return str(script) if script.name else "python"


def description(prepared: Prepared, run_id: str, results: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Returns the tag with what MLflow shows as a run's description, in Markdown.

    Args:
        prepared: the run.
        run_id: the name of its folder.
        results: its summary; None: it is not finished.
    """
    config, stream = prepared.config, prepared.stream
    strategies = ", ".join(name + _arguments(given) for name, given in config.strategies.items()) or "naive"
    smoke = [] if config.limit is None else [f"- **smoke run**: {config.limit} rows a split, 2 steps a stage"]
    lines = [
        f"**{config.arm or config.label}**, seed {config.seed}, experiment {config.experiment}",
        "",
        *smoke,
        f"- stream: {stream.name}, {len(stream)} stages, {stream.scenario}",
        f"- strategies: {strategies}",
        f"- model: {config.model.name}, {config.finetuning.mode} fine-tuning",
        *_result_lines(results),
        "- all figures and tables: the artifacts of this run, first `summary.json`",
        f"- to run it again: `cl-mlm rerun {run_id}`, or `cl-mlm run config.yaml` with the artifact `config.yaml`",
    ]
    return {"mlflow.note.content": "\n".join(lines)}


def _arguments(given: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name} {value}' for name, value in given.items())})" if given else ""


def _result_lines(results: Mapping[str, Any] | None) -> list[str]:
    if results is None:
        return []
    shown = [
        f"{name.replace('_', ' ')} {hundredths(results['metrics'][name])} {unit_of(name)}"
        for name in SHOWN_METRICS
        if results["metrics"].get(name) is not None
    ]
    return [f"- result: {', '.join(shown)}"] * bool(shown) + [f"- flag: {flag}" for flag in results["flags"]]
