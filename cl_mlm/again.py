"""Runs from a run folder: going on with an interrupted one, and repeating a finished one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cl_mlm import api
from cl_mlm.config import Config
from cl_mlm.errors import RunFolderError
from cl_mlm.loading import load_config


def resume_run(folder: Path) -> api.Result:
    """Goes on with the run in `folder`, or returns it where it is finished.

    Raises:
        RunFolderError: the folder holds no run, or its config no longer leads to this folder.
    """
    from cl_mlm.preparation import prepare

    prepared = prepare(_kept_config(folder))
    expected = prepared.config.run_name
    if folder.name != expected and not folder.name.startswith(f"{expected}-"):
        raise RunFolderError(
            f"{folder}: its config now leads to {expected}; config.yaml was changed, or the versions of its parts"
        )
    return api.run_in(prepared, folder)


def rerun_run(folder: Path) -> tuple[bool, list[str]]:
    """Runs a finished run again in a new folder; returns whether data and matrix are equal, and what to tell.

    Raises:
        RunFolderError: the folder holds no finished run.
    """
    from cl_mlm.preparation import prepare

    before = api.read_summary(folder)
    prepared = prepare(_kept_config(folder))
    now, then = prepared.stream.fingerprint, before["stream"]["fingerprint"]
    if now != then:
        return False, [f"the data differ: fingerprint {then[:16]} then, {now[:16]} now; nothing was run"]
    result = api.run_prepared(prepared, again=True)
    same = result.summary["accuracy_matrix"] == before["accuracy_matrix"]
    lines = [f"first: {folder}", f"again: {result.folder}"]
    lines.append(
        "the accuracy matrix is equal, to the last bit"
        if same
        else f"the accuracy matrix differs: {_largest(before, result.summary)}"
    )
    changed = {
        k: (v, result.summary["versions"].get(k))
        for k, v in before["versions"].items()
        if v != result.summary["versions"].get(k)
    }
    lines += [f"{name}: {old} then, {new} now" for name, (old, new) in changed.items()]
    return same, lines


def _kept_config(folder: Path) -> Config:
    path = folder / "config.yaml"
    if not path.is_file():
        raise RunFolderError(f"{folder}: holds no run (no config.yaml)")
    return load_config(path)


def _largest(before: dict[str, Any], after: Any) -> str:
    pairs = [
        (abs((a or 0) - (b or 0)), i, j)
        for i, (row_a, row_b) in enumerate(zip(before["accuracy_matrix"], after["accuracy_matrix"], strict=True))
        for j, (a, b) in enumerate(zip(row_a, row_b, strict=True))
    ]
    gap, i, j = max(pairs)
    return f"by up to {gap:.4f} (row {i}, column {j})"
