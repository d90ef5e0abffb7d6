"""Opens the MLflow store at an address for `mlflow_delivery.py`, and answers the few queries that a delivery needs.

An address is that of a tracking server (`http://...`) or of a database (`sqlite:///...`, `postgresql://...`). A missing
SQLite file is created.

Relied on beyond MLflow's documented API, and tested with MLflow 3.17.2, SQLAlchemy 2.1.9 and alembic 1.20.1:
    - opening a client of a SQLite address creates the database and runs its migrations (`_make_sqlite_store`);
    - a server answers `/health` (`knock`);
    - `error_code` of an `MlflowException` is RESOURCE_ALREADY_EXISTS or RESOURCE_DOES_NOT_EXIST;
    - the error codes in `HOPELESS`;
    - `SqlAlchemyStore._engine_map` holds the SQLAlchemy engine of every database (`close_store`; without it, nothing is
      closed);
    - importing mlflow installs handlers on the loggers "mlflow" and "alembic" (`quiet`).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import ssl
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cl_mlm.disk import free_bytes
from cl_mlm.errors import ClMlmError
from cl_mlm.tracking.artifact_folder import adopt_artifacts, artifact_folder
from cl_mlm.tracking.credentials import public_address, secrets_of, without_credentials
from cl_mlm.tracking.slugs import slug

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlflow import MlflowClient
    from mlflow.entities import RunInfo

# Errors that sending again does not cure.
HOPELESS: Final = frozenset({"INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND"})
MESSAGE_LENGTH: Final = 300
NEW_STORE_BYTES: Final = 4_000_000  # an empty store twice, and what SQLite writes beside it


class TrackingError(ClMlmError):
    """The tracking store did not take what was sent; the journal still holds it.

    Attributes:
        passing: whether sending again may succeed.
    """

    def __init__(self, message: str, passing: bool = False) -> None:
        self.passing = passing
        super().__init__(message)


def tracking_error(uri: str, error: Exception) -> TrackingError:
    """Returns a failure of the store at `uri` as a TrackingError: one line, without credentials."""
    network = _innermost_os_error(error)
    text = str(network or error).strip().replace(uri, public_address(uri))
    for secret in sorted(secrets_of(uri), key=len, reverse=True):
        text = text.replace(secret, "***")
    line = without_credentials(text.splitlines()[0] if text else type(error).__name__)
    line = line if len(line) <= MESSAGE_LENGTH else f"{line[: MESSAGE_LENGTH - 3]}..."
    if is_server(uri):
        summary = f"tracking server {public_address(uri)} " + ("not reachable" if network else "refused")
    else:
        summary = f"tracking store {public_address(uri)} not usable"
    passing = getattr(error, "error_code", "") not in HOPELESS or network is not None
    return TrackingError(f"{summary}: {line}", passing)


def _innermost_os_error(error: BaseException) -> OSError | None:
    """Returns the last OSError on the chain of causes: `Connection refused` says more than its wrappers."""
    deepest = None
    cause: BaseException | None = error
    while cause is not None:
        deepest = cause if isinstance(cause, OSError) else deepest
        cause = cause.__cause__ or cause.__context__
    return deepest


def open_store(uri: str) -> MlflowClient:
    """Returns a client of the store at `uri`; creates the store if it is a missing SQLite file.

    Raises:
        OSError: the server does not answer; see `knock`.
    """
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if is_server(uri):
        knock(uri)
    elif path is not None and path.exists() and not _making(path).exists():
        adopt_artifacts(path)
    elif path is not None:
        _make_sqlite_store(path)
    return MlflowClient(tracking_uri=uri)


def knock(uri: str) -> None:
    """Raises OSError within seconds if the server does not answer, or answers 5xx.

    MLflow's own calls retry for minutes before they give up.
    """
    try:
        with urllib.request.urlopen(f"{public_address(uri).rstrip('/')}/health", timeout=5):
            return
    except urllib.error.HTTPError as answer:
        with answer:
            if answer.code >= 500:
                raise
    except urllib.error.URLError as error:
        # MLflow has settings of its own for certificates, so only its own calls can judge them.
        if not isinstance(error.reason, ssl.SSLError):
            raise


def _make_sqlite_store(path: Path) -> None:
    """Creates an empty MLflow store, whole or not at all; of runs that start together one creates it."""
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        aside = _making(path)
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        if not path.exists():
            # MLflow takes a database that it could not finish for a whole one, until the process ends.
            if free_bytes(path.parent) < NEW_STORE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            aside.mkdir()
            try:
                migrated, copy = aside / "made.db", aside / "store.db"
                # Any query makes MLflow create the tables.
                MlflowClient(tracking_uri=f"sqlite:///{migrated}").search_experiments(max_results=1)
                # MLflow may keep a connection to `migrated` open; the store must be another file.
                shutil.copyfile(migrated, copy)
                copy.replace(path)
            finally:
                close_store(f"sqlite:///{migrated}")
                shutil.rmtree(aside, ignore_errors=True)


def close_store(uri: str) -> None:
    """Lets go of what MLflow keeps of a database for as long as the process lives: connections, and 10 MB of queries.

    Whoever still uses the store gets a new connection.
    """
    made_by = sys.modules.get("mlflow.store.tracking.sqlalchemy_store")
    engines = getattr(getattr(made_by, "SqlAlchemyStore", None), "_engine_map", {})
    engine = engines.pop(uri, None)
    if engine is not None:
        engine.dispose()
        engine.clear_compiled_cache()


def _making(path: Path) -> Path:
    """Returns the folder in which a store is made, beside its place."""
    return path.with_name(f".{path.name}.making")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lets one process at a time through; the file that it locks is gone afterwards."""
    lock_path = path.with_name(f".{path.name}.lock")
    while True:
        is_there = False
        with lock_path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Whoever held the lock before has removed its file: who comes now would lock another one.
            with suppress(FileNotFoundError):
                is_there = os.path.samestat(os.fstat(lock.fileno()), lock_path.stat())
            if not is_there:
                continue
            try:
                yield
            finally:
                lock_path.unlink(missing_ok=True)
            return


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """Returns the id of the experiment called `name`; creates the experiment if it is missing.

    Raises:
        TrackingError: the experiment was deleted in MLflow.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        path = sqlite_path(uri)
        location = None if path is None else str(artifact_folder(path) / slug(name))
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # Another run has created it since the question above.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"experiment: must not be one deleted in MLflow, got {name!r}; choose another name, or restore it: "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return experiment.experiment_id


def has_run(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> bool:
    """Returns whether the store holds a run with these tags; a store that was wiped does not, and is sent everything.

    Raises:
        TrackingError: the run was deleted in MLflow.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
        refuse_deleted(run.info)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return tags.items() <= run.data.tags.items()


def refuse_deleted(info: RunInfo) -> None:
    """Raises TrackingError for a run that was deleted in MLflow; the message says how to restore it."""
    if info.lifecycle_stage == "deleted":
        raise TrackingError(
            f"run {info.run_name!r}: must not be deleted in MLflow, got {info.run_id}; restore it: "
            f"mlflow runs restore --run-id {info.run_id}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Drops what MLflow and its libraries log in this thread; other threads log as before.

    A full database is logged with a traceback, for one; it is raised as well, and told in one line (`tracking_error`).
    """
    import mlflow  # noqa: F401  its import installs the handlers

    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        is_mlflows = record.name.startswith(("mlflow", "alembic", "urllib3"))  # a handler may serve other loggers, too
        return not is_mlflows or record.thread != thread or record.levelno >= logging.CRITICAL

    # urllib3 logs without handlers of its own, so its logger is filtered; a filter of a logger does not reach the
    # loggers below it, so of mlflow and alembic the handlers are.
    filtered: list[logging.Filterer] = [logging.getLogger("urllib3.connectionpool")]
    for name in ("mlflow", "alembic"):
        filtered += logging.getLogger(name).handlers
    for each in filtered:
        each.addFilter(passes)
    try:
        yield
    finally:
        for each in filtered:
            each.removeFilter(passes)


def is_server(uri: str) -> bool:
    """Returns whether `uri` is the address of a tracking server, not of a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_path(uri: str) -> Path | None:
    """Returns the file of a SQLite address; None for any other address."""
    prefix, path = "sqlite:///", uri.partition("?")[0]
    return Path(path.removeprefix(prefix)) if path.startswith(prefix) and path != prefix else None
