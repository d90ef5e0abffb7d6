"""Finds the folder of a run, locks it, and tells whether the run in it is finished."""

from __future__ import annotations

import fcntl
import json
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.run_folder import RunFolder
from cl_mlm.tracking.slugs import slug

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cl_mlm.config.schema import Config

log = logging.getLogger(__name__)


def run_folder(config: Config, again: bool = False) -> Path:
    """Returns the folder of this run; with `again`, of the first further one that is not finished.

    Raises:
        ConfigError: a class handed over in Python has a name that leads elsewhere.
    """
    if Path(config.run_name).name != config.run_name or "\0" in config.run_name:
        raise ConfigError(f"strategies: their names must make a file's name, got {config.run_name!r}")
    folder = Path(config.output) / slug(config.experiment) / config.run_name
    number = 2
    while again and is_finished(folder):
        folder = folder.with_name(f"{config.run_name}-{number}")
        number += 1
    return folder


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
    path = RunFolder(folder).summary
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read as a summary: {error}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run folder for this process.

    Raises:
        RunFolderError: another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"output: nothing can be written in {str(folder)!r}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(f"{folder}: another process works on this run") from error
        yield
