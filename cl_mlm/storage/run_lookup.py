"""Finds the folder of a run, locks it, and tells whether the run in it is finished."""

from __future__ import annotations

import fcntl
import logging
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.disk import writing
from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.results.summary_file import read_summary_file
from cl_mlm.run_folder import RunFolder
from cl_mlm.tracking.slugs import slug

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cl_mlm.config.schema import Config

log = logging.getLogger(__name__)


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
    """Says whether a run folder holds a finished run: its summary, and the journal's word that all is written."""
    files = RunFolder(folder)
    if not files.summary.is_file() or not files.journal.is_file():
        return False
    try:
        read_summary(folder)
    except RunFolderError as error:  # the last checkpoint gives it again
        log.warning("%s; the run goes on and writes it again", error)
        return False
    from cl_mlm.tracking.journal import read_lines

    states = [line for line, _ in read_lines(files.journal) if line["kind"] == "status"]
    return bool(states) and states[-1]["stage"] is None and states[-1]["value"] == "FINISHED"


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
        RunFolderError: another process holds it.
        StorageError: nothing can be written there.
    """
    with writing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(f"{folder}: another process works on this run") from error
        yield
