"""The MLflow store behind an address: opened, or made where it is a missing SQLite file; asked in few words."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cl_mlm.errors import ClMlmError
from cl_mlm.tracking.journal import without_credentials
from cl_mlm.tracking.slugs import slug

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo


class TrackingError(ClMlmError):
    """The tracking store did not take what was sent; the journal still has it.

    Attributes:
        passing: whether another try may help.
    """

    def __init__(self, message: str, passing: bool = False) -> None:
        self.passing = passing
        super().__init__(message)


def open_store(uri: str) -> MlflowClient:
    """Returns a client of the store, which is made where it is a missing SQLite file; fails fast on a dead server."""
    from mlflow import MlflowClient

    if is_server(uri):
        knock(uri)
    elif (path := sqlite_path(uri)) is not None and not path.exists():
        _make_sqlite_store(path)
    return MlflowClient(tracking_uri=uri)


def knock(uri: str) -> None:
    """Raises OSError where no server answers, or only with errors; MLflow's own calls retry for minutes before that."""
    try:
        with urllib.request.urlopen(f"{without_credentials(uri).rstrip('/')}/health", timeout=5):
            return
    except urllib.error.HTTPError as answer:
        with answer:
            if answer.code >= 500:
                raise
    except urllib.error.URLError as error:
        # MLflow has its own settings for certificates, so it shall judge them.
        if not isinstance(error.reason, ssl.SSLError):
            raise


def _make_sqlite_store(path: Path) -> None:
    """Makes an empty MLflow store: whole or not at all, and once, however many runs begin together."""
    import fcntl

    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    mark = hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
    lock = Path(tempfile.gettempdir()) / f"cl_mlm-{os.getuid()}-{mark}.lock"
    with lock.open("a") as held, tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as aside:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not path.exists():
            made = Path(aside) / "made.db"
            MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments(max_results=1)
            # MLflow keeps a connection to `made`; the store must be another file than the one it holds open.
            shutil.copyfile(made, Path(aside) / "store.db")
            (Path(aside) / "store.db").replace(path)


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """Returns the experiment called `name`, made where there is none; other runs may make it at the same time."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        path = sqlite_path(uri)
        location = None if path is None else str(path.absolute().parent / "mlruns" / slug(name))
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            found = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"experiment: must not be one deleted in MLflow, got {name!r}; choose another name, or restore it: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return found.experiment_id


def has_run(client: MlflowClient, run_id: str) -> bool:
    """Says whether the store knows a run; a wiped store does not, and gets everything again."""
    from mlflow.exceptions import MlflowException

    try:
        refuse_deleted(client.get_run(run_id).info)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def refuse_deleted(info: RunInfo) -> None:
    """Raises for a run deleted in MLflow, with the way back."""
    if info.lifecycle_stage == "deleted":
        raise TrackingError(
            f"run {info.run_name!r}: must not be deleted in MLflow, got {info.run_id}; restore it: "
            f"mlflow runs restore --run-id {info.run_id}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps MLflow's chatter in this thread off the terminal; errors and other threads are heard as before."""
    import mlflow  # noqa: F401  its import makes the handlers

    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        chatty = record.name.startswith(("mlflow", "alembic", "urllib3"))  # a handler may serve other loggers too
        return not chatty or record.thread != thread or record.levelno >= logging.ERROR

    places: list[logging.Filterer] = [logging.getLogger("urllib3.connectionpool")]
    for name in ("mlflow", "alembic"):
        places += logging.getLogger(name).handlers
    for place in places:
        place.addFilter(keep)
    try:
        yield
    finally:
        for place in places:
            place.removeFilter(keep)


def is_server(uri: str) -> bool:
    """Says whether an address is a tracking server's rather than a database's."""
    return uri.startswith(("http://", "https://"))


def sqlite_path(uri: str) -> Path | None:
    """Returns the file of a SQLite address, None for any other."""
    prefix, path = "sqlite:///", uri.partition("?")[0]
    return Path(path.removeprefix(prefix)) if path.startswith(prefix) and path != prefix else None
