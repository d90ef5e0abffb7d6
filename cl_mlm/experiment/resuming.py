"""Resumes an interrupted run, or repeats a finished one, from its folder."""

from __future__ import annotations

import filecmp
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.experiment.kept_config import kept_config
from cl_mlm.experiment.session import run_in, run_prepared
from cl_mlm.run_folder import MANIFEST, RunFolder
from cl_mlm.storage.checkpoint import last_good
from cl_mlm.storage.run_lookup import faults_of_finished, in_short, read_summary
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from pathlib import Path

    from cl_mlm.config.schema import Config
    from cl_mlm.experiment.result import Result


def resume_run(folder: Path, *, allow_inexact: bool = False) -> Result:
    """Resumes the run in `folder`, or returns it where it is finished.

    Args:
        folder: the run folder.
        allow_inexact: resumes under other versions, or on another machine or device, too; see `cl_mlm.run`.

    Raises:
        RunFolderError: the folder holds no run, or its config, data, versions or machine have changed since its start.
    """
    from cl_mlm.experiment.continuation import find_changes
    from cl_mlm.experiment.preparation import prepare

    config = kept_config(folder, is_place_free=True)  # elsewhere: `check_continuation` judges it
    prepared = prepare(_on_a_device_there(config) if allow_inexact else config)
    expected = prepared.config.run_name
    is_named = folder.name == expected or folder.name.startswith(f"{expected}-")
    if not is_named and not find_changes(folder, prepared):
        raise RunFolderError(f"{folder}: its config now leads to {expected}, and its journal does not say why")
    return run_in(prepared, folder, allow_inexact=allow_inexact)


def rerun_run(folder: Path) -> tuple[bool, list[str]]:
    """Runs a finished run again in a new folder; returns whether data and matrix are equal, and what to tell.

    Raises:
        RunFolderError: the folder holds no finished run, or its config was edited.
    """
    from cl_mlm.experiment.continuation import find_changes
    from cl_mlm.experiment.preparation import prepare
    from cl_mlm.experiment.provenance import OWN

    config = kept_config(folder)
    if not RunFolder(folder).summary.is_file():
        raise RunFolderError(f"{folder}: is not finished; `{shell_line('cl-mlm', 'resume', folder)}` goes on with it")
    damaged = faults_of_finished(folder)
    if damaged:
        mends = f"`{shell_line('cl-mlm', 'resume', folder)}` makes again what can be made; then it can be repeated"
        raise RunFolderError(f"{folder}: is not as it was finished: {in_short(damaged)}; {mends}")
    before = read_summary(folder)
    prepared = prepare(config)
    now, then = prepared.stream.fingerprint, before["stream"]["fingerprint"]
    if now != then:
        return False, [f"the data differ: fingerprint {then[:16]} then, {now[:16]} now; nothing was run"]
    changes = find_changes(folder, prepared)
    if changes.other_run:
        return False, [f"{line}; nothing was run" for line in changes.other_run]
    result = run_prepared(prepared, again=True)
    same = result.summary["accuracy_matrix"] == before["accuracy_matrix"]
    lines = [f"first: {folder}", f"again: {result.folder}"]
    lines.append(
        "the accuracy matrix is equal, to the last bit"
        if same
        else f"the accuracy matrix differs: {_largest(before, result.summary)}"
    )
    lines += [_equal_predictions(folder, result.folder), _equal_weights(folder, result.folder)]
    changed = {
        k: (v, result.summary["versions"].get(k))
        for k, v in before["versions"].items()
        if v != result.summary["versions"].get(k)
    }
    lines += [f"{name}: {old} then, {new} now" for name, (old, new) in changed.items()]
    lines += [line for line in changes.source if line.startswith(OWN)]
    return same, lines


def _on_a_device_there(config: Config) -> Config:
    """Returns `config`, or where this machine lacks its device, with the choice of one left open."""
    from cl_mlm.training.hardware import resolve_hardware

    try:
        resolve_hardware(config)
    except ConfigError:
        return replace(config, training=replace(config.training, device=None))
    return config


def _largest(before: dict[str, Any], after: Any) -> str:
    pairs = [
        (abs((a or 0) - (b or 0)), i, j)
        for i, (row_a, row_b) in enumerate(zip(before["accuracy_matrix"], after["accuracy_matrix"], strict=True))
        for j, (a, b) in enumerate(zip(row_a, row_b, strict=True))
    ]
    gap, i, j = max(pairs)
    return f"by up to {gap:.4f} (row {i}, column {j})"


def _equal_predictions(first: Path, again: Path) -> str:
    """Returns a line that says which files of predictions are equal, byte by byte."""
    names = sorted({path.name for folder in (first, again) for path in folder.glob("predictions/*.parquet")})
    unequal = [name for name in names if not _is_equal(*(folder / "predictions" / name for folder in (first, again)))]
    if not names:
        return "predictions: neither run has any"
    if not unequal:
        return f"predictions: {len(names)} files, all equal"
    return f"predictions: {len(unequal)} of {len(names)} files differ: {', '.join(unequal)}"


def _equal_weights(first: Path, again: Path) -> str:
    """Returns a line that says whether the kept models after the last stage are equal, by their checksums."""
    kept = [last_good(RunFolder(folder).stages)[0] for folder in (first, again)]
    then, now = (None if checkpoint is None else _weights(checkpoint) for checkpoint in kept)
    if then is None or now is None or (kept[0] and kept[1] and kept[0].name != kept[1].name):
        return "weights after the last stage: not kept by both runs, not compared"
    return f"weights after the last stage: {'equal' if then == now else 'they differ'}"


def _weights(checkpoint: Path) -> dict[str, str]:
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    return {name: entry for name, entry in manifest.items() if name.endswith(".safetensors") and "/" in name}


def _is_equal(first: Path, again: Path) -> bool:
    return first.is_file() and again.is_file() and filecmp.cmp(first, again, shallow=False)
