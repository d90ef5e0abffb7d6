"""Delivers the lines of a run's journal to an MLflow store: what it has not got yet, once.

Lines go out with the journal's own timestamps, so that sending one twice changes nothing (a point of a database store
is its key, step, value and time). Only `MlflowClient` is used, never the fluent API, so a user's own active run and
autologging are left alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import posixpath
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from cl_mlm.errors import RunFolderError
from cl_mlm.tracking.journal import read_lines, without_credentials
from cl_mlm.tracking.mlflow_store import (
    TrackingError,
    experiment_id,
    has_run,
    is_server,
    knock,
    open_store,
    quiet,
    refuse_deleted,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

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
SOURCE_TAG: Final = "cl_mlm.tracking.journal"
# Answers that another try does not change.
HOPELESS: Final = frozenset({"INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND"})

logger = logging.getLogger(__name__)


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
        temporary = folder / f".{LINK_FILE}.tmp"
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
        temporary.replace(folder / LINK_FILE)


@dataclass
class _Batch:
    """What a chunk of lines says about one MLflow run; of states only the last counts."""

    metrics: list[Metric] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    tags: list[RunTag] = field(default_factory=list)
    artifacts: dict[str, None] = field(default_factory=dict)
    status: tuple[str, int] | None = None


class Delivery:
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
            with quiet(), self._journal.open("rb") as held:
                fcntl.flock(held, fcntl.LOCK_EX)  # one sender at a time: a run and a `sync` beside it
                return self._send()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._client = None  # the next try connects anew
            # Not chained: MLflow's messages hold the whole address, credentials and all.
            raise self._told(error) from None

    def _send(self) -> int:
        kept = Link.load(self._folder)
        if kept is not None and kept.uri == self._link.uri:
            self._link = kept  # another sender may have gone on
        if not self._starts_a_line(self._link.offset):
            self._link.offset = 0  # the journal lost its end in a power cut: sending all again does no harm
        client = self._client or self._connect()
        if client is None:
            return 0
        lines = read_lines(self._journal, self._link.offset)
        count = 0
        while chunk := list(islice(lines, LINES_AT_ONCE)):
            if is_server(self._uri):
                knock(self._uri)
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
        client = open_store(self._uri)
        if self._link.run_id and not has_run(client, self._link.run_id):
            self._link = Link(self._link.uri)
        if not self._link.run_id:
            self._link.experiment_id = experiment_id(client, head["experiment"], self._uri)
            self._link.run_id = self._run_id(client, head["run_name"], head["time"], self._source, {})
            self._link.save(self._folder)
        self._client = client
        return client

    def _run_id(self, client: MlflowClient, name: str, start: int, source: str, tags: dict[str, str]) -> str:
        """Returns the MLflow run tagged with `source`, made where there is none."""
        from mlflow.entities import ViewType

        experiment, which = self._link.experiment_id, f"tags.`{SOURCE_TAG}` = '{source}'"
        found = client.search_runs([experiment], which, run_view_type=ViewType.ALL)
        active = [run for run in found if run.info.lifecycle_stage != "deleted"]
        if found and not active:
            refuse_deleted(found[0].info)
        if not active:
            made = client.create_run(experiment, start_time=start, tags={SOURCE_TAG: source, **tags}, run_name=name)
            active = [*client.search_runs([experiment], which)] or [made]
        # MLflow asks again by itself where an answer is lost, and a server that had made the run makes a second one.
        kept, *others = sorted(active, key=lambda run: (not run.data.metrics, not run.data.params, run.info.run_id))
        for double in others:
            if not double.data.metrics and not double.data.params:
                client.delete_run(double.info.run_id)
        return str(kept.info.run_id)

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
        if is_server(self._uri):
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
    if not local.resolve().is_relative_to(folder.resolve()):  # a journal of others could name any file of this machine
        raise RunFolderError(f"{folder}: artifacts must lie in the run folder, got {path!r}")
    if local.is_dir():
        client.log_artifacts(run_id, str(local), artifact_path=path)
    elif local.exists():
        client.log_artifact(run_id, str(local), artifact_path=posixpath.dirname(path) or None)
    else:
        logger.warning("%s: artifact %s is gone; MLflow gets none", folder, path)


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
