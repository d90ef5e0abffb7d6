"""Sends a journal to MLflow: during a run from a thread beside the training, after a run by `cl-mlm sync`.

Training never waits for the tracking store and never fails because of it. What cannot be sent stays in the journal; the
thread tries again, and after the run `sync` sends it.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Final

from cl_mlm.disk import writing
from cl_mlm.errors import ClMlmError, ConfigError, RunFolderError
from cl_mlm.tracking.credentials import (
    ADDRESS_START,
    address_fault,
    public_address,
    refused_address,
    without_credentials,
)
from cl_mlm.tracking.mlflow_delivery import LINK_FILE, Delivery, Link
from cl_mlm.tracking.mlflow_store import TrackingError, sqlite_path
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)
NOTICED_SECONDS: Final = 1.0  # a wait that is longer is told
JOURNAL_FILE: Final = "journal.jsonl"


def tracking_uri(configured: str | None) -> str:
    """Returns the address of the tracking store, a relative SQLite path made absolute.

    It is `configured`, else `$MLFLOW_TRACKING_URI`, else `mlflow.db` in the working folder.

    Raises:
        ConfigError: it is MLflow's file store, which stores a point sent twice twice and is no longer maintained; or an
            address that nobody can connect to.
    """
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    key = "tracking.uri" if configured else "MLFLOW_TRACKING_URI"
    uri = configured or environment or "sqlite:///mlflow.db"
    if uri.startswith("file:") or not (ADDRESS_START.match(uri) or uri == "databricks"):
        raise ConfigError(
            f"{key}: must be a server (http://host:5000) or a database (sqlite:///mlflow.db, postgresql://...), "
            f"not a folder, got {refused_address(uri)!r}"
        )
    if fault := address_fault(uri):
        raise ConfigError(f"{key}: {fault}, got {refused_address(uri)!r}")
    path = sqlite_path(uri)
    return uri if path is None else uri.replace(uri.partition("?")[0], f"sqlite:///{path.absolute()}", 1)


class MlflowSender:
    """Follows a journal and sends its new lines to MLflow, from a daemon thread.

    The thread first imports mlflow (2 s) and may create the store (2 s). Both hold Python's global interpreter lock. So
    start the thread after torch and transformers are imported, and let it wait until the first step is done (`start`,
    `begin`).

    Attributes:
        uri: the address of the store; it may hold credentials, so show `public_address(uri)`.
        poll_seconds: the time between two readings of the journal.
        retry_seconds: the first and the longest pause after a failure; each pause is twice the one before.
    """

    poll_seconds = 1.0
    retry_seconds = (1.0, 60.0)

    def __init__(self, folder: Path, journal_path: Path, uri: str | None) -> None:
        self.uri = tracking_uri(uri)
        self._folder = folder
        self._begun, self._wait_seconds = threading.Event(), 0.0
        self._closing = threading.Event()  # `finish` was called: send what is left, then end
        self._abandoned = threading.Event()  # the time of `finish` is over: end now
        self._sent_all = False
        self._problem: str | None = None
        self._delivery = Delivery(folder, journal_path, self.uri, self._abandoned.is_set)
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)

    def start(self, wait_seconds: float = 0.0) -> None:
        """Starts the thread.

        Args:
            wait_seconds: the thread does nothing for this time, or until `begin` or `finish` is called.
        """
        self._wait_seconds = wait_seconds
        calm_mlflow()
        # Saved before anything is sent: `sync` must know the address even if the store is never reached.
        if Link.load(self._folder) is None:
            with writing(self._folder / LINK_FILE):
                Link(public_address(self.uri)).save(self._folder)
        self._thread.start()

    def begin(self) -> None:
        """Ends the wait of `start`."""
        self._begun.set()

    def finish(self, timeout_s: float, still_sending: Callable[[float], None] = lambda seconds: None) -> str | None:
        """Waits at most `timeout_s` seconds until every line of the journal is sent.

        Args:
            timeout_s: seconds; 0: what is not sent yet is given up.
            still_sending: called after a second with the seconds that are left, if it is not all sent by then.

        Returns:
            None if everything is sent; else one line that says why not, and how to send the rest.
        """
        self._closing.set()
        self.begin()
        self._thread.join(min(timeout_s, NOTICED_SECONDS))
        if self._thread.is_alive() and timeout_s > NOTICED_SECONDS:
            still_sending(timeout_s - NOTICED_SECONDS)
            self._thread.join(timeout_s - NOTICED_SECONDS)
        self._abandoned.set()
        if self._sent_all:
            return None
        public_uri = public_address(self.uri)
        if self._problem is None:
            stopped = f"did not take everything within {timeout_s:g} s" if timeout_s else "the sending was cut short"
            self._problem = f"tracking {public_uri}: {stopped}"
        return f"{self._problem}; the journal holds everything: {shell_line('cl-mlm', 'sync', self._folder)} sends it"

    def _run(self) -> None:
        """Runs in the thread."""
        try:
            self._work()
        finally:
            self._delivery.close()

    def _work(self) -> None:
        """Sends, waits and sends again, until everything is sent after `finish`."""
        self._begun.wait(self._wait_seconds)
        first, longest = self.retry_seconds
        pause = first
        while not self._abandoned.is_set():
            # Read before sending, not after: a line written in between would be left unsent.
            closing = self._closing.is_set()
            try:
                self._delivery.send()
            except (ClMlmError, ImportError) as error:  # ImportError: the training may be importing the same package
                self._problem = str(error)
                if closing and not (isinstance(error, TrackingError) and error.passing):
                    return
                self._wait(pause)
                pause = min(2 * pause, longest)
                continue
            except Exception as error:  # an error of MLflow that nobody foresaw costs measurements there, never a run
                log.debug("the sender failed", exc_info=True)
                first_line = str(error).partition("\n")[0]
                text = f"tracking {public_address(self.uri)}: {type(error).__name__}: {first_line}"
                self._problem = without_credentials(text)
                return
            self._problem = None
            pause = first
            if closing:
                self._sent_all = not self._abandoned.is_set()  # else the rest was left
                return
            self._wait(self.poll_seconds)

    def _wait(self, seconds: float) -> None:
        """Waits for `seconds` or until `finish` is called; after `finish` at most half a second."""
        if self._closing.is_set():
            self._abandoned.wait(min(seconds, 0.5))
        else:
            self._closing.wait(seconds)


def store_of(folder: Path) -> str:
    """Returns the address of the store that the run in `folder` was sent to, where that is now.

    Of a run that was sent to none it is the default of `tracking_uri`. It may hold credentials.
    """
    link = Link.load(folder)
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    # The saved address has no credentials. If the environment has the same address, it is used instead: with them.
    is_saved = link is not None and public_address(environment or "") != public_address(link.uri)
    return tracking_uri(link.uri_now(folder) if link is not None and is_saved else None)


def sync(folder: Path, uri: str | None = None) -> int:
    """Sends the lines of the run in `folder` that MLflow does not have yet; returns their number.

    The store is `uri`, else the one of `store_of`.

    Raises:
        RunFolderError: the journal is missing or damaged.
        TrackingError: the store does not take the lines; another call continues after those that it took.
    """
    journal = folder / JOURNAL_FILE
    if not journal.exists():
        raise RunFolderError(f"{folder}: must be a run folder, got one without {JOURNAL_FILE}")
    calm_mlflow()
    return Delivery(folder, journal, tracking_uri(uri) if uri else store_of(folder)).send()


def calm_mlflow() -> None:
    """Turns off MLflow's telemetry and the links that it prints, unless the user has set these variables."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
