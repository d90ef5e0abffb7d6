"""Finds the folder of a run, locks it, and tells whether the run in it is finished."""

from __future__ import annotations

import fcntl
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.disk import writing
from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.results.summary_file import read_summary_file
from cl_mlm.run_folder import RunFolder
from cl_mlm.storage import inventory
from cl_mlm.tracking.journal import has_checksums, last_status
from cl_mlm.tracking.slugs import slug
from cl_mlm.whole_files import refuse_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cl_mlm.config.schema import Config


def run_folder(config: Config) -> Path:
    """Returns the folder of the first run of this config; further ones lie beside it, `<run_name>-2` and so on.

    Raises:
        ConfigError: a class handed over in Python has a name that leads elsewhere.
    """
    if Path(config.run_name).name != config.run_name or "\0" in config.run_name:
        raise ConfigError(f"strategies: their names must make a file's name, got {config.run_name!r}")
    return Path(config.output) / slug(config.experiment) / config.run_name


def run_folders(config: Config) -> list[Path]:
    """Returns the folders of the runs of this config that are there, the oldest first."""
    first = run_folder(config)
    if not first.parent.is_dir():
        return []
    numbers = {path: _number(path, config) for path in first.parent.iterdir() if path.is_dir()}
    return sorted((path for path, number in numbers.items() if number), key=lambda path: numbers[path])


def next_folder(config: Config, folders: Sequence[Path]) -> Path:
    """Returns the folder of one more run of this config.

    Args:
        config: of the run.
        folders: those that are there, the oldest first.
    """
    first = run_folder(config)
    return first.with_name(f"{config.run_name}-{_number(folders[-1], config) + 1}") if folders else first


def _number(path: Path, config: Config) -> int:
    """Returns which run of this config a folder is named as, from 1; 0: of none."""
    rest = path.name.removeprefix(config.run_name)
    if path.name == config.run_name:
        return 1
    is_numbered = path.name.startswith(config.run_name) and re.fullmatch(r"-([2-9]|[1-9][0-9]+)", rest)
    return int(rest[1:]) if is_numbered else 0


def is_finished(folder: Path) -> bool:
    """Says whether a run folder holds a finished run with all that it wrote, as far as a quick look can tell."""
    return faults_of_finished(folder) == []


def faults_of_finished(folder: Path) -> list[str] | None:
    """Returns what is missing from a run that had finished, or damaged, each file in words; None: it had not finished.

    Nothing large is read; see `inventory.faults`. A run that an earlier version finished has no inventory: its journal
    and its summary count.
    """
    files = RunFolder(folder)
    has_inventory = files.inventory.exists()
    # Without a journal, what else lies there is nobody's result.
    if not has_inventory and not (files.journal.is_file() and _says_finished(files.journal)):
        return None
    if has_inventory or has_checksums(files.journal):
        found = inventory.faults(folder, thorough=False)
        if found:
            return found
    try:
        read_summary(folder)
    except RunFolderError as error:
        return [str(error).removeprefix(f"{folder}/")]
    return []


def _says_finished(journal: Path) -> bool:
    try:
        return last_status(journal) == (None, "FINISHED")
    except RunFolderError:  # it is damaged, which is told to who resumes the run
        return False


def in_short(faults: Sequence[str], most: int = 3) -> str:
    """Returns faults in one line; of many the first ones and how many more there are."""
    more = f"; and {len(faults) - most} more" if len(faults) > most else ""
    return "; ".join(faults[:most]) + more


def read_summary(folder: Path) -> dict[str, Any]:
    """Returns the contents of a finished run's `summary.json`.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    return read_summary_file(RunFolder(folder).summary)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run folder for this process.

    Raises:
        RunFolderError: another process holds it, or its lock cannot be one.
        StorageError: nothing can be written there.
    """
    refuse_folder(folder / ".lock")
    with writing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(f"{folder}: another process works on this run") from error
        yield
