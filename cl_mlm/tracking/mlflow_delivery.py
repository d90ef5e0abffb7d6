"""Delivers a journal to an MLflow store: sends the lines that the store does not have yet, each once.

`mlflow_sender.py` calls `Delivery.send` from its thread during a run, and from `cl-mlm sync` after one. A run is one
MLflow run with a child run for each stage; `Link` notes in `mlflow.json` which MLflow runs those are, and how much of
the journal is sent.

Sending a line twice changes nothing: every point has the time of its journal line, and a database store identifies a
point by key, step, value and time. Only `MlflowClient` is used, never the fluent API (`mlflow.log_metric`), so that a
user's own active run and autologging are left alone.

Relied on beyond MLflow's documented API, and tested with MLflow 3.17.2 and SQLAlchemy 2.1.9: the limits below
(`mlflow/utils/validation.py`), the tag `mlflow.parentRunId`, and that a database store lets
`sqlalchemy.exc.SQLAlchemyError` through.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import posixpath
import re
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cl_mlm.errors import RunFolderError
from cl_mlm.tracking.credentials import public_address
from cl_mlm.tracking.journal import read_lines
from cl_mlm.tracking.mlflow_store import (
    TrackingError,
    close_store,
    experiment_id,
    has_run,
    is_server,
    knock,
    open_store,
    quiet,
    refuse_deleted,
    sqlite_path,
    tracking_error,
)
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

LINK_FILE: Final = "mlflow.json"
# MLflow's limits: entries a batch, characters a key or value.
METRICS_A_BATCH: Final = 1000
PARAMS_A_BATCH: Final = 100
KEY_LENGTH: Final = 250
PARAM_LENGTH: Final = 6000
TAG_LENGTH: Final = 8000
# A request may have 1 MB, and a character takes up to 6 bytes in JSON (`\uXXXX`).
CHARACTERS_A_BATCH: Final = 150_000
LINES_AT_ONCE: Final = 2000
# Tags that resuming reads in the journal; MLflow has them in the artifacts `versions.json` and `summary.json`.
JOURNAL_ONLY: Final = ("version/", "hardware/", "overlap/")
SOURCE_TAG: Final = "cl_mlm.tracking.journal"
CHECKSUM: Final = "sha256"  # of all else in the link

logger = logging.getLogger(__name__)


@dataclass
class Link:
    """The MLflow runs of a run, and how much of its journal they have; kept in `mlflow.json` of the run folder.

    Attributes:
        uri: the address of the store, without credentials.
        experiment_id: the MLflow experiment; empty before the first delivery.
        run_id: the MLflow run of the whole run; empty before the first delivery.
        children: the id of the MLflow run of each stage, by stage index.
        offset: bytes of the journal that are sent.
        database: the file of a SQLite store, relative to the run folder: both may be moved together; else empty.
    """

    uri: str
    experiment_id: str = ""
    run_id: str = ""
    children: dict[int, str] = field(default_factory=dict)
    offset: int = 0
    database: str = ""

    @classmethod
    def load(cls, folder: Path) -> Link | None:
        """Returns the link saved in `folder`; None if there is none, or it cannot be read."""
        try:
            saved = json.loads((folder / LINK_FILE).read_text())
            if saved.pop(CHECKSUM, None) not in (None, _checksum(saved)):  # earlier versions wrote none
                return None
            children = {int(stage): str(run_id) for stage, run_id in saved["children"].items()}
            ids, offset = (saved["experiment_id"], saved["run_id"]), int(saved["offset"])
            return cls(saved["uri"], *ids, children, offset, str(saved.get("database", "")))
        except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return None  # nothing is lost: the runs are found in MLflow by their tag (`SOURCE_TAG`)

    def save(self, folder: Path) -> None:
        """Writes the link to `folder`, whole or not at all."""
        path = sqlite_path(self.uri)
        self.database = "" if path is None else os.path.relpath(path.absolute(), folder.absolute())
        temporary = folder / f".{LINK_FILE}.tmp"
        try:
            values = json.loads(json.dumps(asdict(self)))  # as they are read: numbers of stages are texts
            temporary.write_text(json.dumps({**values, CHECKSUM: _checksum(values)}, indent=1) + "\n")
            temporary.replace(folder / LINK_FILE)
        except OSError:  # a full disk must not stay full of what cannot be used
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def uri_now(self, folder: Path) -> str:
        """Returns the address of the store, which may have been moved together with the run's folder."""
        moved = Path(os.path.normpath(folder.absolute() / self.database))
        return f"sqlite:///{moved}" if self.database and moved.is_file() else self.uri


@dataclass
class _Batch:
    """What a chunk of journal lines says about one MLflow run.

    Attributes:
        artifacts: paths relative to the run folder; a dict, so that each is sent once and in order.
        status: the last status of the chunk and its time in milliseconds; None: the chunk has none.
    """

    metrics: list[Metric] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    tags: list[RunTag] = field(default_factory=list)
    artifacts: dict[str, None] = field(default_factory=dict)
    status: tuple[str, int] | None = None


class Delivery:
    """Sends one journal to one store.

    Args:
        folder: the run folder; `mlflow.json` and the artifacts are in it.
        journal: the file.
        uri: the address of the store; may hold credentials.
        should_stop: asked before every part of the journal: whether the rest is left unsent.
    """

    def __init__(self, folder: Path, journal: Path, uri: str, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._folder, self._should_stop = folder, should_stop
        self._journal = journal
        self._uri = uri
        public_uri = public_address(uri)
        saved = Link.load(folder)
        # A link to another store says nothing about this one.
        is_known = saved is not None and public_uri in map(public_address, (saved.uri, saved.uri_now(folder)))
        self._link = replace(saved, uri=public_uri) if saved is not None and is_known else Link(public_uri)
        self._client: MlflowClient | None = None
        self._source = self._run_name = ""

    def send(self) -> int:
        """Sends every whole line that is not sent yet; returns the number of lines.

        Raises:
            TrackingError: the store does not take them; what it took before is noted in the link.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with quiet(), self._journal.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # one sender at a time: somebody may call `cl-mlm sync` during a run
                return self._send()
        except UnicodeEncodeError:  # MLflow keeps places of files as text, and the journal keeps no other
            raise TrackingError(
                f"tracking store {shell_line(public_address(self._uri))}: must lie below a path that is UTF-8; "
                "MLFLOW_TRACKING_URI names another store"
            ) from None
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._client = None  # the next try connects anew
            # Not chained: MLflow's messages hold the whole address, with its credentials.
            raise tracking_error(self._uri, error) from None

    def close(self) -> None:
        """Closes the connections to a database; `send` opens them again."""
        self._client = None
        if not is_server(self._uri):
            close_store(self._uri)

    def _send(self) -> int:
        saved = Link.load(self._folder)
        if saved is not None and saved.uri == self._link.uri:
            self._link = saved  # another sender may have sent lines since
        if not self._starts_a_line(self._link.offset):
            self._link.offset = 0  # a power cut took the journal's end; sending everything again does no harm
        client = self._client or self._connect()
        if client is None:
            return 0
        lines = read_lines(self._journal, self._link.offset)
        count = 0
        while not self._should_stop() and (chunk := list(islice(lines, LINES_AT_ONCE))):
            if is_server(self._uri):
                knock(self._uri)
            self._send_chunk(client, [line for line, _ in chunk])
            self._link.offset = chunk[-1][1]
            self._link.save(self._folder)
            count += len(chunk)
        return count

    def _starts_a_line(self, offset: int) -> bool:
        """Returns whether a line of the journal starts at this byte, or its last one ends before it."""
        if offset == 0:
            return True
        with self._journal.open("rb") as file:
            file.seek(offset - 1)
            return file.read(1) == b"\n"

    def _connect(self) -> MlflowClient | None:
        """Finds or creates store, experiment and parent run; returns None if the journal is empty."""
        head, _ = next(read_lines(self._journal), (None, 0))
        if head is None:
            return None
        # A tag of each MLflow run. By it a journal finds its runs again if `mlflow.json` is lost or not up to date.
        self._source = _source(head)
        self._run_name = head["run_name"]
        client = open_store(self._uri)
        # The link may be that of another run in the same store.
        if self._link.run_id and not has_run(client, self._link.run_id, {SOURCE_TAG: self._source}):
            self._link = Link(self._link.uri)
        if not self._link.run_id:
            self._link.experiment_id = experiment_id(client, head["experiment"], self._uri)
            self._link.run_id = self._run_id(client, head["run_name"], head["time"], self._source, {})
            self._link.save(self._folder)
        self._client = client
        return client

    def _run_id(self, client: MlflowClient, name: str, start: int, source: str, tags: dict[str, str]) -> str:
        """Returns the id of the MLflow run tagged with `source`; creates the run if it is missing.

        Args:
            client: of the store.
            name: of a new run.
            start: the start of a new run, in milliseconds since the epoch.
            source: the value of `SOURCE_TAG`.
            tags: further tags of a new run.

        Raises:
            TrackingError: the run was deleted in MLflow.
        """
        from mlflow.entities import ViewType

        experiment, has_tag = self._link.experiment_id, f"tags.`{SOURCE_TAG}` = '{source}'"
        tagged = client.search_runs([experiment], has_tag, run_view_type=ViewType.ALL)
        active = [run for run in tagged if run.info.lifecycle_stage != "deleted"]
        if tagged and not active:
            refuse_deleted(tagged[0].info)
        if not active:
            created = client.create_run(experiment, start_time=start, tags={SOURCE_TAG: source, **tags}, run_name=name)
            active = [*client.search_runs([experiment], has_tag)] or [created]
        # If the answer to `create_run` is lost, MLflow sends the request again and the server creates a second run.
        # The one that holds data stays; the run id only makes the choice the same every time.
        chosen, *others = sorted(active, key=lambda run: (not run.data.metrics, not run.data.params, run.info.run_id))
        for other in others:
            if not other.data.metrics and not other.data.params:
                client.delete_run(other.info.run_id)
        return str(chosen.info.run_id)

    def _start_stage(self, client: MlflowClient, line: dict[str, Any]) -> None:
        """Creates the child run of a stage if it is missing."""
        # MLflow's lists and charts show stages of many runs side by side, each by its name alone.
        stage, name = line["stage"], f" / {line['name']}"
        if stage not in self._link.children:
            tags = {
                "mlflow.parentRunId": self._link.run_id,
                "cl_mlm.stage_index": str(stage),
            }
            source = f"{self._source}/{stage}"
            # Saved with the chunk, not here: the link grows with the stages. A child that a kill leaves out of it is
            # found by its tag.
            self._link.children[stage] = self._run_id(
                client, f"{self._run_name[: KEY_LENGTH - len(name)]}{name}", line["time"], source, tags
            )

    def _send_chunk(self, client: MlflowClient, lines: list[dict[str, Any]]) -> None:
        """Sends some lines, sorted by MLflow run: a batch for each."""
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
                    sent = {k: v for k, v in line["values"].items() if not k.startswith(JOURNAL_ONLY)}
                    batch.tags += [RunTag(_key(k), _cut(str(v), TAG_LENGTH)) for k, v in sent.items()]
                case "artifact":
                    batch.artifacts[line["path"]] = None
                case "status":
                    batch.status = (line["value"], line["time"])
        for run_id, batch in batches.items():
            _send_batch(client, run_id, batch, self._folder)


def _checksum(values: Mapping[str, Any]) -> str:
    """Returns a digest of what a link holds: a wrong offset would leave lines unsent for ever."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _send_batch(client: MlflowClient, run_id: str, batch: _Batch, folder: Path) -> None:
    """Sends a batch; its status comes last, so that a run that MLflow shows as finished is complete."""
    for metrics in _portions(batch.metrics, METRICS_A_BATCH):
        client.log_batch(run_id, metrics=metrics)
    for params in _portions(batch.params, PARAMS_A_BATCH):
        client.log_batch(run_id, params=params)
    # The last value of a tag counts, and a request may hold a key only once.
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
    """Sends a file or folder of the run folder; logs a warning if it is gone.

    Raises:
        RunFolderError: `path` leads out of the run folder.
    """
    local = folder / path
    # `cl-mlm sync` may be given somebody else's run folder, whose journal could name any file of this machine.
    if not local.resolve().is_relative_to(folder.resolve()):
        raise RunFolderError(f"{folder}: artifacts must lie in the run folder, got {path!r}")
    if local.is_dir():
        client.log_artifacts(run_id, str(local), artifact_path=path)
    elif local.exists():
        client.log_artifact(run_id, str(local), artifact_path=posixpath.dirname(path) or None)
    else:
        logger.warning("%s: artifact %s is gone; MLflow gets none", folder, path)


def _key(key: str) -> str:
    """Returns a key that MLflow accepts; a changed one ends in a hash of the old, so that different keys stay so."""
    clean = posixpath.normpath(re.sub(r"[^/\w.\- :]", "_", key)).lstrip("/.") or "_"
    if clean == key and len(key) <= KEY_LENGTH:
        return key
    return f"{clean[: KEY_LENGTH - 7]}-{hashlib.blake2b(key.encode(), digest_size=3).hexdigest()}"


def _cut(text: str, length: int) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()  # bytes of a path that is no text
    return text if len(text) <= length else text[: length - 3] + "..."


def _portions(entries: list[Any], most: int) -> Iterator[list[Any]]:
    """Yields `entries` in lists of at most `most` that fit into one request."""
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


def source_of(journal: Path) -> str:
    """Returns the value of `SOURCE_TAG` of the MLflow run of a journal; empty: the journal is empty."""
    head, _ = next(read_lines(journal), (None, 0))
    return "" if head is None else _source(head)


def _source(head: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(head, sort_keys=True).encode(), digest_size=12).hexdigest()
