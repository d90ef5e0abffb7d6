"""Chooses the folder of a run: a finished one that still holds, an unfinished one to resume, or a new one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.continuation import check_continuation, find_changes, listed
from cl_mlm.experiment.provenance import ROWS
from cl_mlm.storage.inventory import gone_checkpoints
from cl_mlm.storage.run_lookup import faults_of_finished, in_short, is_finished, next_folder, read_summary, run_folders
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from pathlib import Path

    from cl_mlm.experiment.continuation import Changes
    from cl_mlm.experiment.preparation import Prepared

MOST_SPLITS = 3


@dataclass(frozen=True)
class RunChoice:
    """Where a run is written, or was.

    Attributes:
        folder: of the run.
        is_finished: the run in it is finished, and made of what is there now.
        warnings: why an earlier run of the same settings is not handed back, or under which other versions it was made.
    """

    folder: Path
    is_finished: bool = False
    warnings: list[str] = field(default_factory=list)


def choose_folder(prepared: Prepared, again: bool = False, allow_inexact: bool = False) -> RunChoice:
    """Returns the newest finished run that was made of what is there now; else one to resume; else a new folder.

    Args:
        prepared: the run.
        again: finished runs do not count, nor unfinished ones that could not be resumed.
        allow_inexact: see `check_continuation`.

    Raises:
        ConfigError: a class handed over in Python has a name that leads elsewhere.
    """
    folders = run_folders(prepared.config)
    finished = [folder for folder in folders if is_finished(folder)]
    # A finished run that is damaged is mended by going on with it; who asks for one more run does not ask for that.
    unfinished = [
        folder
        for folder in folders
        if folder not in finished and not (again and faults_of_finished(folder) is not None)
    ]
    stale: list[str] = []
    for folder in reversed([] if again else finished):
        changes = find_changes(folder, prepared)
        if not changes.other_result:
            return RunChoice(folder, is_finished=True, warnings=_worth_knowing(folder, changes))
        stale = stale or [
            f"{folder} is finished, but is not the result of what is there now, so a new run is made beside it: "
            + "; ".join(_differences(folder, changes, prepared))
        ]
    resumable = [folder for folder in reversed(unfinished) if _can_be_resumed(folder, prepared, allow_inexact)]
    if resumable or (unfinished and not again):  # the refusal is left to who resumes it
        return RunChoice([*resumable, *reversed(unfinished)][0], warnings=stale)
    return RunChoice(next_folder(prepared.config, folders), warnings=stale)


def check_finished(folder: Path, prepared: Prepared) -> list[str]:
    """Returns what to say of a finished run that is handed back.

    Raises:
        RunFolderError: it was made of something else than what is there now.
    """
    changes = find_changes(folder, prepared)
    if changes.other_result:
        head = f"{folder}: is finished, but is not the result of what is there now:"
        way_out = f"\n`{shell_line('cl-mlm', 'run', folder / 'config.yaml')}` makes a new run beside it"
        raise RunFolderError(listed(head, _differences(folder, changes, prepared)) + way_out)
    return _worth_knowing(folder, changes)


def _can_be_resumed(folder: Path, prepared: Prepared, allow_inexact: bool) -> bool:
    try:
        check_continuation(folder, prepared, allow_inexact)
    except RunFolderError:
        return False
    return True


def _differences(folder: Path, changes: Changes, prepared: Prepared) -> list[str]:
    """Returns the differences in short lines: of rows with the splits that differ, of hashes 12 digits."""
    lines = [*changes.settings, *changes.data.values(), *changes.source]
    if ROWS in changes.data:
        then = read_summary(folder)["stream"].get("split_digests", {})
        now = prepared.stream.split_digests
        splits = [name for name in {**then, **now} if then.get(name) != now.get(name)] if then else []
        more = f" and {len(splits) - MOST_SPLITS} more" if len(splits) > MOST_SPLITS else ""
        named = f" of {', '.join(splits[:MOST_SPLITS])}{more}" if splits else " of the stream"
        lines[len(changes.settings)] = changes.data[ROWS].replace(" of the stream", named, 1)
    return [re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", line) for line in lines]


def _worth_knowing(folder: Path, changes: Changes) -> list[str]:
    """Returns what to say of a finished run whose results hold."""
    lines = changes.versions + changes.machine
    said = [f"{folder} was made under other versions or on another machine: {', '.join(lines)}"] if lines else []
    gone = gone_checkpoints(folder)
    return said + ([f"{folder}: {in_short(gone)} was removed: its model cannot be asked any more"] if gone else [])
