"""Sends a run's journal to MLflow, from a thread beside the training; what cannot be sent now is sent later."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Final

from cl_mlm.errors import ClMlmError, ConfigError, RunFolderError
from cl_mlm.tracking.journal import without_credentials
from cl_mlm.tracking.mlflow_delivery import Delivery, Link
from cl_mlm.tracking.mlflow_store import TrackingError, is_server, sqlite_path

JOURNAL_FILE: Final = "journal.jsonl"


def tracking_uri(configured: str | None) -> str:
    """Returns where to track: `configured`, else `$MLFLOW_TRACKING_URI`, else `mlflow.db` in the working folder.

    A relative SQLite path is made absolute.

    Raises:
        ConfigError: for MLflow's file store, which keeps doubled points and which MLflow no longer maintains.
    """
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    key = "tracking.uri" if configured else "MLFLOW_TRACKING_URI"
    uri = configured or environment or "sqlite:///mlflow.db"
    if uri.startswith("file:") or ("://" not in uri and uri != "databricks"):
        raise ConfigError(
            f"{key}: must be a server (http://host:5000) or a database (sqlite:///mlflow.db, postgresql://...), "
            f"not a folder, got {without_credentials(uri)!r}"
        )
    path = sqlite_path(uri)
    return uri if path is None else uri.replace(uri.partition("?")[0], f"sqlite:///{path.absolute()}", 1)


def ui_command(uri: str) -> list[str]:
    """Returns the command that serves the MLflow UI on a database; empty for a server, whose address is its UI."""
    if is_server(uri):
        return []
    return [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--backend-store-uri", uri]


class MlflowSender:
    """Follows a journal and sends its lines, from a daemon thread that never disturbs the training.

    Start it when torch and transformers are imported: the thread imports mlflow (2 s) and makes the store (2 s). Both
    are Python, which training can then not run: whoever is about to train lets the thread wait until that is under way.

    Attributes:
        uri: where to; it may hold credentials, so show `without_credentials(uri)`.
        poll_seconds: the time between two looks at the journal.
        retry_seconds: the first and the longest pause after a failure.
    """

    poll_seconds = 1.0
    retry_seconds = (1.0, 60.0)

    def __init__(self, folder: Path, journal_path: Path, uri: str | None) -> None:
        self.uri = tracking_uri(uri)
        self._folder = folder
        self._delivery = Delivery(folder, journal_path, self.uri)
        self._begun, self._wait_seconds = threading.Event(), 0.0
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._sent_all = False
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-sender", daemon=True)

    def start(self, wait_seconds: float = 0.0) -> None:
        """Starts the thread; where to is kept first, for `sync` must know it though the store is never reached.

        Args:
            wait_seconds: the thread does nothing for so long, or until `begin` or `finish` is called.
        """
        self._wait_seconds = wait_seconds
        _calm_mlflow()
        if Link.load(self._folder) is None:
            Link(without_credentials(self.uri)).save(self._folder)
        self._thread.start()

    def begin(self) -> None:
        """Ends the waiting that `start` was asked for."""
        self._begun.set()

    def finish(self, timeout_s: float) -> str | None:
        """Waits until every line of the journal is sent, at most `timeout_s` seconds.

        Returns:
            None, or in one line why something is not sent and how to send it.
        """
        self._closing.set()
        self.begin()
        self._thread.join(timeout_s)
        self._abandoned.set()
        if self._sent_all:
            return None
        name = without_credentials(self.uri)
        if self._problem is None:
            stopped = "did not take everything" if self._thread.is_alive() else "the sender stopped, see its traceback"
            self._problem = f"tracking {name}: {stopped} within {timeout_s:g} s"
        return f"{self._problem}; the journal holds everything: cl-mlm sync {self._folder} sends it"

    def _work(self) -> None:
        self._begun.wait(self._wait_seconds)
        first, longest = self.retry_seconds
        pause = first
        while not self._abandoned.is_set():
            closing = self._closing.is_set()  # read before sending: what was written before finish() is then sent
            try:
                self._delivery.send()
            except (ClMlmError, ImportError) as error:  # the training may be importing the same packages right now
                self._problem = str(error)
                if closing and not (isinstance(error, TrackingError) and error.passing):
                    return
                self._wait(pause)
                pause = min(2 * pause, longest)
                continue
            self._problem = None
            pause = first
            if closing:
                self._sent_all = True
                return
            self._wait(self.poll_seconds)

    def _wait(self, seconds: float) -> None:
        """Waits until `finish` is called, then no longer than half a second at a time."""
        if self._closing.is_set():
            self._abandoned.wait(min(seconds, 0.5))
        else:
            self._closing.wait(seconds)


def sync(folder: Path, uri: str | None = None) -> int:
    """Sends what MLflow does not have yet of the run in `folder`; returns the number of journal lines sent.

    The store is `uri`, else the one that the run was sent to before, else the default of `tracking_uri`.

    Raises:
        RunFolderError: where there is no journal, or a damaged one.
        TrackingError: where the store does not take it; calling again goes on from there.
    """
    journal = folder / JOURNAL_FILE
    if not journal.exists():
        raise RunFolderError(f"{folder}: must be a run folder, got one without {JOURNAL_FILE}")
    link = Link.load(folder)
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    # The kept address has no credentials; the same address in the environment may have them.
    known = link.uri if link and without_credentials(environment or "") != link.uri else None
    _calm_mlflow()
    return Delivery(folder, journal, tracking_uri(uri or known)).send()


def _calm_mlflow() -> None:
    """Turns off MLflow's telemetry and its links on stdout, unless the user has said otherwise."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
