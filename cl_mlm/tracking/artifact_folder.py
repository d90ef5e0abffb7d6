"""The folder of a SQLite store's artifacts: it lies beside the database, and both may be moved together.

MLflow writes absolute paths into its database. After the folder of both was moved or copied, `adopt_artifacts` sets
them right. It writes two columns of MLflow's tables itself, for MLflow has no call for it: `experiments
.artifact_location` and `runs.artifact_uri`, as they are in MLflow 3.17.2.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

FOLDER: Final = "mlruns"
WAIT_SECONDS: Final = 30.0  # for other processes that write to the database
EXPERIMENTS: Final = "UPDATE experiments SET artifact_location = :new WHERE artifact_location = :old"
RUNS: Final = (
    "UPDATE runs SET artifact_uri = :new || substr(artifact_uri, length(:old) + 1) "
    "WHERE substr(artifact_uri, 1, length(:old) + 1) = :old || '/'"
)

logger = logging.getLogger(__name__)


def artifact_folder(database: Path) -> Path:
    """Returns where artifacts lie; MLflow's default would be the folder in which the command happens to run."""
    return database.absolute().parent / FOLDER


def adopt_artifacts(database: Path) -> None:
    """Points experiments and runs to the artifacts that lie beside the database, if it was moved together with them."""
    try:
        with closing(sqlite3.connect(database, timeout=WAIT_SECONDS)) as connection:
            moved = _moved(connection, artifact_folder(database))
            # `with`: all of them or none.
            with connection:
                for old, new in moved.items():
                    connection.execute(EXPERIMENTS, {"old": old, "new": new})
                    connection.execute(RUNS, {"old": old, "new": new})
    except sqlite3.Error as error:  # a database of another kind or version, or one that may only be read
        logger.warning("%s: artifacts that were moved with it may not be found: %s", database, error)


def _moved(connection: sqlite3.Connection, folder: Path) -> dict[str, str]:
    """Returns the locations that lead elsewhere than to the folder beside the database, and where each should lead."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone() is None:
        return {}
    locations = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    moved = {}
    for (old,) in locations:
        _, mark, name = (old or "").rpartition(f"/{FOLDER}/")
        here = folder / name
        if not mark or not name or not here.is_dir():
            continue
        there = Path(old.removeprefix("file://"))
        if not (there.exists() and there.samefile(here)):  # the same by another way, as through a link, stays
            moved[old] = ("file://" if old.startswith("file://") else "") + str(here)
    return moved
