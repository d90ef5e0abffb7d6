"""Verifies run folders: looks at everything that a run has left in one go; trains nothing, writes nothing."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.check.findings import Findings
from cl_mlm.check.kept_journal import check_journal, read_journal
from cl_mlm.check.kept_predictions import check_predictions
from cl_mlm.check.kept_scores import check_summary, check_tables
from cl_mlm.check.kept_settings import check_config, check_versions
from cl_mlm.check.kept_states import check_checkpoints, last_record
from cl_mlm.errors import RunFolderError
from cl_mlm.run_folder import RunFolder
from cl_mlm.storage.inventory import faults, lost_tables
from cl_mlm.tracking.journal import has_checksums
from cl_mlm.tracking.mlflow_comparison import compare_with_store
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cl_mlm.check.kept_journal import KeptJournal

MAX_DEPTH = 3
LOG_EVERY = "tracking.log_every"


def verify(folder: str | Path) -> list[Findings]:
    """Returns what a look at every run in and below a folder finds.

    Looked at are config, versions, journal, checkpoints, predictions, summary, tables, figures, and what MLflow has of
    the run, where it answers within seconds. Nothing is written, and no store is created.

    Args:
        folder: a run folder, or one that holds some, at most 3 levels below.

    Raises:
        RunFolderError: there is no run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such folder")
    runs = list(_run_folders(folder, MAX_DEPTH))
    if not runs:
        raise RunFolderError(f"{folder}: holds no run (no config.yaml, journal.jsonl or summary.json)")
    return [verify_run(run) for run in runs]


def verify_run(path: Path) -> Findings:
    """Returns what a look at the folder of one run finds."""
    found, folder = Findings(path), RunFolder(path)
    journal = read_journal(folder.journal)
    settings = check_config(found, folder.config, journal)
    check_versions(found, folder.versions, journal)
    has_summary = folder.summary.exists()
    says_finished = journal.statuses.get(None) == "FINISHED" or bool(journal.faults)
    # A run that was cut off between its summary and its last line is not finished.
    is_finished = folder.inventory.exists() or (has_summary and says_finished)
    check_journal(
        found,
        journal,
        _log_every(settings, journal),
        has_summary=has_summary,
        stops_early=any(value for key, value in settings.items() if _is_patience(key)),
    )
    summary = None
    if is_finished or has_summary:
        summary = check_summary(found, folder.summary, journal, settings, is_finished=is_finished)
    is_running = not is_finished and _is_locked(path)
    found.state = _state(folder, journal, is_finished) + (", is running now" if is_running else "")
    if is_running:
        found.notes.append("looked at settings and journal only, for a process works on this run")
        return found
    check_checkpoints(found, folder, journal, summary)
    _check_places(found, folder)
    if summary is not None:
        check_predictions(found, folder, summary, journal, found.resume())
        if is_finished:
            check_tables(found, folder, summary, journal)
    elif not is_finished:
        check_predictions(
            found, folder, _measured(folder), journal, "the same command makes it again where its model is kept"
        )
    _check_inventory(found, folder, journal, is_finished=is_finished)
    _check_store(found, journal, is_finished=is_finished)
    return found


def _is_patience(key: str) -> bool:
    """Says whether a key path is that of `patience`, of all stages or of one."""
    return key == "training.patience" or (key.startswith("training.stages.") and key.endswith(".patience"))


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yields the run folders in and below `folder`, in order of their paths; it does not search inside a run."""
    files = RunFolder(folder)
    if any(path.exists() for path in (files.config, files.journal, files.summary, files.inventory)):
        yield folder
    elif depth > 0:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from _run_folders(path, depth - 1)


def _state(folder: RunFolder, journal: KeptJournal, is_finished: bool) -> str:
    """Returns how far the run has come, in words."""
    if is_finished:
        return "finished"
    started = max(journal.stages, default=-1)
    in_all = journal.num_stages or len(last_record(folder).get("matrix", [])) or None
    place = f"stage {started + 1}" if started >= 0 else "no stage has started"
    return f"not finished: {place}{f' of {in_all}' if in_all and started >= 0 else ''}"


def _is_locked(path: Path) -> bool:
    """Returns whether a process works on the run."""
    try:
        with (path / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, IsADirectoryError):
        return False
    except OSError:
        return True
    return False


def _log_every(settings: Mapping[str, Any], journal: KeptJournal) -> int | None:
    """Returns the steps between the points of a stage; None: not known, for the run was resumed with others."""
    then, now = journal.params.get(LOG_EVERY), settings.get(LOG_EVERY)
    return then if isinstance(then, int) and then > 0 and then == now else None


def _measured(folder: RunFolder) -> dict[str, Any]:
    """Returns what a run that is not finished has measured, in the form of a summary; what is not known is empty."""
    record = last_record(folder)
    return {"columns": [], "accuracy_matrix": record.get("matrix", []), "baseline": record.get("baseline", [])}


def _check_places(found: Findings, folder: RunFolder) -> None:
    """Adds the folders in places of files, and the files in places of folders, that nothing else has named."""
    from cl_mlm.storage.unmendable import misplaced  # noqa: PLC0415  imports torch

    wrong = [fault.removeprefix(f"{folder.path}/") for fault in misplaced(folder)]
    if wrong:
        _add_new(found, "places", wrong)


def _check_inventory(found: Findings, folder: RunFolder, journal: KeptJournal, *, is_finished: bool) -> None:
    """Adds the files whose length or digest is not that of the inventory, where nothing else has named them."""
    if not folder.inventory.exists():
        if not is_finished:
            lost = lost_tables(folder, last_record(folder).get("tables", {})).values()
            _add_new(found, "digests", [fault.removeprefix(f"{folder.path}/") for fault in lost])
        elif folder.journal.is_file() and has_checksums(folder.journal):
            found.add("files", "", [f"{folder.inventory.name}: is missing"], found.resume())
        else:
            found.notes.append("no files.json: an earlier version has finished this run; digests are not known")
        return
    _add_new(found, "lengths and digests", faults(folder.path, thorough=True))


def _add_new(found: Findings, seen: str, faults: Sequence[str]) -> None:
    """Adds the faults of files that nothing else has named."""
    # The config was compared key by key: some settings may be edited at any time.
    told = {"config.yaml", *(fault.what.partition(": ")[0] for fault in found.faults)}
    found.add("files", seen, [fault for fault in faults if fault.partition(": ")[0] not in told], found.resume())


def _check_store(found: Findings, journal: KeptJournal, *, is_finished: bool) -> None:
    if journal.faults:
        return
    statuses: Mapping[int | None, str] = journal.statuses
    compared = compare_with_store(found.folder, statuses, journal.num_sent)
    way_out = f"`{shell_line('cl-mlm', 'sync', found.folder)}` sends what is missing"
    if compared.note:
        found.notes.append(compared.note)
    elif compared.is_behind and not is_finished:
        found.notes.append(f"MLflow has not everything yet; {way_out}")
    else:
        found.add("MLflow", compared.seen, compared.faults, way_out)
