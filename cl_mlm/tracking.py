"""Sends a run's journal to MLflow, from a thread beside the training; what cannot be sent now is sent later.

The journal is the truth and MLflow the copy: lines go out with the journal's own timestamps, so that sending one twice
changes nothing (a point of a database store is its key, step, value and time). Only `MlflowClient` is used, never the
fluent API, so a user's own active run and autologging are left alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import re
import shutil
import ssl
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from cl_mlm.errors import ClMlmError, ConfigError, RunFolderError
from cl_mlm.journal import read_lines, without_credentials
from cl_mlm.slugs import slug

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunInfo, RunTag

JOURNAL_FILE: Final = "journal.jsonl"
LINK_FILE: Final = "mlflow.json"
# What MLflow takes, in entries a batch and characters a value.
METRICS_A_BATCH: Final = 1000
PARAMS_A_BATCH: Final = 100
KEY_LENGTH: Final = 250
PARAM_LENGTH: Final = 6000
TAG_LENGTH: Final = 8000
# A request may have 1 MB, and a character up to 6 bytes in JSON.
CHARACTERS_A_BATCH: Final = 150_000
LINES_AT_ONCE: Final = 2000
SOURCE_TAG: Final = "cl_mlm.journal"
# Answers that another try does not change.
HOPELESS: Final = frozenset({"INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND"})

logger = logging.getLogger(__name__)


class TrackingError(ClMlmError):
    """The tracking store did not take what was sent; the journal still has it.

    Attributes:
        passing: whether another try may help.
    """

    def __init__(self, message: str, passing: bool = False) -> None:
        self.passing = passing
        super().__init__(message)


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
    path = _sqlite_path(uri)
    return uri if path is None else uri.replace(uri.partition("?")[0], f"sqlite:///{path.absolute()}", 1)


def ui_command(uri: str) -> list[str]:
    """Returns the command that serves the MLflow UI on a database; empty for a server, whose address is its UI."""
    if _is_server(uri):
        return []
    return [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--backend-store-uri", uri]


@dataclass
class Link:
    """Where a run stands in MLflow; kept in `mlflow.json` of the run folder.

    Attributes:
        uri: without credentials.
        children: the MLflow run of each stage.
        offset: bytes of the journal that are sent.
    """

    uri: str
    experiment_id: str = ""
    run_id: str = ""
    children: dict[int, str] = field(default_factory=dict)
    offset: int = 0

    @classmethod
    def load(cls, folder: Path) -> Link | None:
        """Returns the link kept in `folder`, None where there is none that can be read: MLflow can be asked again."""
        try:
            kept = json.loads((folder / LINK_FILE).read_text())
            children = {int(stage): str(run_id) for stage, run_id in kept["children"].items()}
            return cls(kept["uri"], kept["experiment_id"], kept["run_id"], children, int(kept["offset"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, folder: Path) -> None:
        """Writes the link to `folder`, whole or not at all."""
        temporary = folder / f".{LINK_FILE}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
        temporary.replace(folder / LINK_FILE)


class MlflowSender:
    """Follows a journal and sends its lines, from a daemon thread that never disturbs the training.

    Start it when torch and transformers are imported: the thread imports mlflow (2 s) and makes the store (2 s).

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
        self._delivery = _Delivery(folder, journal_path, self.uri)
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._sent_all = False
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-sender", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        _calm_mlflow()
        self._thread.start()

    def finish(self, timeout_s: float) -> str | None:
        """Waits until every line of the journal is sent, at most `timeout_s` seconds.

        Returns:
            None, or in one line why something is not sent and how to send it.
        """
        self._closing.set()
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
    return _Delivery(folder, journal, tracking_uri(uri or known)).send()


@dataclass
class _Batch:
    """What a chunk of lines says about one MLflow run; of states only the last counts."""

    metrics: list[Metric] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    tags: list[RunTag] = field(default_factory=list)
    artifacts: dict[str, None] = field(default_factory=dict)
    status: tuple[str, int] | None = None


class _Delivery:
    """One journal and one store: sends the lines that the store does not have yet."""

    def __init__(self, folder: Path, journal: Path, uri: str) -> None:
        self._folder = folder
        self._journal = journal
        self._uri = uri
        shown = without_credentials(uri)
        kept = Link.load(folder)
        self._link = kept if kept is not None and kept.uri == shown else Link(shown)
        self._client: MlflowClient | None = None
        self._source = ""

    def send(self) -> int:
        """Sends every whole line that is not sent yet; returns how many.

        Raises:
            TrackingError: where the store does not take them; what it took is noted.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with _quiet():
                return self._send()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._client = None  # the next try connects anew
            # Not chained: MLflow's messages hold the whole address, credentials and all.
            raise self._told(error) from None

    def _send(self) -> int:
        if not self._starts_a_line(self._link.offset):
            self._link.offset = 0  # the journal lost its end in a power cut: sending all again does no harm
        client = self._client or self._connect()
        if client is None:
            return 0
        lines = read_lines(self._journal, self._link.offset)
        count = 0
        while chunk := list(islice(lines, LINES_AT_ONCE)):
            self._send_chunk(client, [line for line, _ in chunk])
            self._link.offset = chunk[-1][1]
            self._link.save(self._folder)
            count += len(chunk)
        return count

    def _starts_a_line(self, offset: int) -> bool:
        if offset == 0:
            return True
        with self._journal.open("rb") as file:
            file.seek(offset - 1)
            return file.read(1) == b"\n"

    def _connect(self) -> MlflowClient | None:
        """Finds or makes store, experiment and parent run; returns None while the journal is empty."""
        head, _ = next(read_lines(self._journal), (None, 0))
        if head is None:
            return None
        # The same journal finds its runs again, also where `mlflow.json` is lost or older than the store.
        self._source = hashlib.blake2b(json.dumps(head, sort_keys=True).encode(), digest_size=12).hexdigest()
        client = _open_store(self._uri)
        if self._link.run_id and not _has_run(client, self._link.run_id):
            self._link = Link(self._link.uri)
        if not self._link.run_id:
            self._link.experiment_id = _experiment_id(client, head["experiment"], self._uri)
            self._link.run_id = self._run_id(client, head["run_name"], head["time"], self._source, {})
            self._link.save(self._folder)
        self._client = client
        return client

    def _run_id(self, client: MlflowClient, name: str, start: int, source: str, tags: dict[str, str]) -> str:
        """Returns the MLflow run tagged with `source`, made where there is none."""
        from mlflow.entities import ViewType

        found = client.search_runs(
            [self._link.experiment_id], f"tags.`{SOURCE_TAG}` = '{source}'", run_view_type=ViewType.ALL, max_results=1
        )
        if found:
            _refuse_deleted(found[0].info)
            return str(found[0].info.run_id)
        made = client.create_run(
            self._link.experiment_id, start_time=start, tags={SOURCE_TAG: source, **tags}, run_name=name
        )
        return str(made.info.run_id)

    def _start_stage(self, client: MlflowClient, line: dict[str, Any]) -> None:
        """Makes the child run of a stage where there is none."""
        stage, name = line["stage"], line["name"]
        if stage not in self._link.children:
            tags = {
                "mlflow.parentRunId": self._link.run_id,
                "cl_mlm.stage": name[:TAG_LENGTH],
                "cl_mlm.stage_index": str(stage),
            }
            source = f"{self._source}/{stage}"
            self._link.children[stage] = self._run_id(client, name[:KEY_LENGTH], line["time"], source, tags)
            self._link.save(self._folder)

    def _send_chunk(self, client: MlflowClient, lines: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        batches: dict[str, _Batch] = {}
        for line in lines:
            stage = line.get("stage")
            if line["kind"] == "stage_start":
                self._start_stage(client, line)
            batch = batches.setdefault(self._link.run_id if stage is None else self._link.children[stage], _Batch())
            match line["kind"]:
                case "metrics":
                    time, step = line["time"], line["step"]
                    batch.metrics += [Metric(_key(key), value, time, step) for key, value in line["values"].items()]
                case "params":
                    batch.params += [Param(_key(k), _cut(str(v), PARAM_LENGTH)) for k, v in line["values"].items()]
                case "tags":
                    batch.tags += [RunTag(_key(k), _cut(str(v), TAG_LENGTH)) for k, v in line["values"].items()]
                case "artifact":
                    batch.artifacts[line["path"]] = None
                case "status":
                    batch.status = (line["value"], line["time"])
        for run_id, batch in batches.items():
            _send_batch(client, run_id, batch, self._folder)

    def _told(self, error: Exception) -> TrackingError:
        """Returns a failure of the store in one line without credentials."""
        network = _innermost_os_error(error)
        text = str(network or error).strip()
        password = urlsplit(self._uri).password
        for secret in {password, unquote(password)} if password else ():
            text = text.replace(secret, "***")
        line = without_credentials(text.splitlines()[0] if text else type(error).__name__)
        if _is_server(self._uri):
            said = f"tracking server {self._link.uri} " + ("not reachable" if network else "refused")
        else:
            said = f"tracking store {self._link.uri} not usable"
        passing = getattr(error, "error_code", "") not in HOPELESS or network is not None
        return TrackingError(f"{said}: {_cut(line, 300)}", passing)


def _send_batch(client: MlflowClient, run_id: str, batch: _Batch, folder: Path) -> None:
    """Sends a batch, its state last, so that a finished run is a complete one."""
    for metrics in _portions(batch.metrics, METRICS_A_BATCH):
        client.log_batch(run_id, metrics=metrics)
    for params in _portions(batch.params, PARAMS_A_BATCH):
        client.log_batch(run_id, params=params)
    # A tag set twice keeps its last value; within one request a key may appear only once.
    for tags in _portions(list({tag.key: tag for tag in batch.tags}.values()), PARAMS_A_BATCH):
        client.log_batch(run_id, tags=tags)
    for path in batch.artifacts:
        _send_artifact(client, run_id, folder, path)
    if batch.status is not None:
        status, time = batch.status
        if status == "RUNNING":
            client.update_run(run_id, status=status)
        else:
            client.set_terminated(run_id, status, end_time=time)


def _send_artifact(client: MlflowClient, run_id: str, folder: Path, path: str) -> None:
    local = folder / path
    if local.is_dir():
        client.log_artifacts(run_id, str(local), artifact_path=path)
    elif local.exists():
        client.log_artifact(run_id, str(local), artifact_path=posixpath.dirname(path) or None)
    else:
        logger.warning("%s: artifact %s is gone; MLflow gets none", folder, path)


def _open_store(uri: str) -> MlflowClient:
    """Returns a client of the store, which is made where it is a missing SQLite file; fails fast on a dead server."""
    from mlflow import MlflowClient

    if _is_server(uri):
        _knock(uri)
    elif (path := _sqlite_path(uri)) is not None and not path.exists():
        _make_sqlite_store(path)
    return MlflowClient(tracking_uri=uri)


def _knock(uri: str) -> None:
    """Raises OSError where no server listens; MLflow's own calls retry for minutes before they say so."""
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
    with lock.open("w") as held, tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as aside:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not path.exists():
            made = Path(aside) / "made.db"
            MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments(max_results=1)
            # MLflow keeps a connection to `made`; the store must be another file than the one it holds open.
            shutil.copyfile(made, Path(aside) / "store.db")
            (Path(aside) / "store.db").replace(path)


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """Returns the experiment called `name`, made where there is none; other runs may make it at the same time."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        path = _sqlite_path(uri)
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


def _has_run(client: MlflowClient, run_id: str) -> bool:
    """Says whether the store knows a run; a wiped store does not, and gets everything again."""
    from mlflow.exceptions import MlflowException

    try:
        _refuse_deleted(client.get_run(run_id).info)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _refuse_deleted(info: RunInfo) -> None:
    if info.lifecycle_stage == "deleted":
        raise TrackingError(
            f"run {info.run_name!r}: must not be deleted in MLflow, got {info.run_id}; restore it: "
            f"mlflow runs restore --run-id {info.run_id}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
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


def _calm_mlflow() -> None:
    """Turns off MLflow's telemetry and its links on stdout, unless the user has said otherwise."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def _key(key: str) -> str:
    """Returns a key that MLflow takes; one that has to change ends in a hash, so that two stay two."""
    clean = posixpath.normpath(re.sub(r"[^/\w.\- :]", "_", key)).lstrip("/.") or "_"
    if clean == key and len(key) <= KEY_LENGTH:
        return key
    return f"{clean[: KEY_LENGTH - 7]}-{hashlib.blake2b(key.encode(), digest_size=3).hexdigest()}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _portions(entries: list[Any], most: int) -> Iterator[list[Any]]:
    """Yields `entries` in lists that MLflow takes as one request."""
    portion: list[Any] = []
    characters = 0
    for entry in entries:
        size = len(entry.key) + len(str(entry.value)) + 50
        if portion and (len(portion) == most or characters + size > CHARACTERS_A_BATCH):
            yield portion
            portion, characters = [], 0
        portion.append(entry)
        characters += size
    if portion:
        yield portion


def _innermost_os_error(error: BaseException) -> OSError | None:
    """Returns the deepest network or file error among the causes: `Connection refused` says more than its wrappers."""
    deepest = None
    cause: BaseException | None = error
    while cause is not None:
        deepest = cause if isinstance(cause, OSError) else deepest
        cause = cause.__cause__ or cause.__context__
    return deepest


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _sqlite_path(uri: str) -> Path | None:
    """Returns the file of a SQLite address, None for any other."""
    prefix, path = "sqlite:///", uri.partition("?")[0]
    return Path(path.removeprefix(prefix)) if path.startswith(prefix) and path != prefix else None
