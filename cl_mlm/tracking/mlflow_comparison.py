"""Compares what MLflow has of a run with its journal; nothing is written, neither to the store nor beside it.

MLflow's own client would create folders and tables, so a SQLite store is read by itself, and a server by its REST API.
Relied on, and tested with MLflow 3.17.2: the tables `runs` and `metrics`, and `GET /api/2.0/mlflow/...` of a server.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cl_mlm.errors import ClMlmError
from cl_mlm.tracking.credentials import public_address, without_credentials
from cl_mlm.tracking.mlflow_delivery import LINK_FILE, SOURCE_TAG, Link, source_of
from cl_mlm.tracking.mlflow_sender import JOURNAL_FILE, store_of
from cl_mlm.tracking.mlflow_store import is_server, sqlite_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TIMEOUT_SECONDS: Final = 5.0
SERVER_SECONDS: Final = 30.0
API: Final = "api/2.0/mlflow"
RUN: Final = "SELECT status, lifecycle_stage FROM runs WHERE run_uuid = ?"
SOURCE: Final = "SELECT value FROM tags WHERE run_uuid = ? AND key = ?"
POINTS: Final = "SELECT count(*) FROM metrics WHERE run_uuid = ?"


@dataclass(frozen=True)
class StoredRun:
    """What a store has of one MLflow run.

    Attributes:
        status: as MLflow names it.
        is_deleted: whether it was deleted in MLflow.
        num_points: points of all metrics; None: not counted.
        source: what it says of the journal that it was made of.
    """

    status: str
    is_deleted: bool
    num_points: int | None
    source: str = ""


@dataclass(frozen=True)
class MlflowComparison:
    """What a comparison has found.

    Attributes:
        seen: how much was compared; empty: nothing.
        faults: what differs.
        note: why nothing was compared; empty: it was.
        is_behind: whether lines of the journal are not sent yet.
    """

    seen: str = ""
    faults: tuple[str, ...] = ()
    note: str = ""
    is_behind: bool = False


def compare_with_store(
    folder: Path, statuses: Mapping[int | None, str], num_points: Mapping[int | None, int]
) -> MlflowComparison:
    """Returns in what the MLflow runs of a run folder differ from its journal.

    Args:
        folder: of the run.
        statuses: by the journal, of the run (None) and of every stage.
        num_points: likewise the finite points.
    """
    link = Link.load(folder)
    if link is None:
        fault = "is damaged" if (folder / LINK_FILE).is_file() else "is missing"
        return MlflowComparison("", (f"{LINK_FILE}: {fault}, so it is not known which store has the run",))
    try:
        store = store_of(folder)
    except ClMlmError as error:
        return MlflowComparison(note=f"MLflow: not compared: {error}")
    shown = public_address(store)
    if not link.run_id:
        return MlflowComparison(note=f"MLflow: not compared, for nothing was sent to {shown} yet")
    ids: dict[int | None, str] = {None: link.run_id} | dict(link.children.items())
    try:
        stored = _from_server(store, ids) if is_server(store) else _from_database(store, ids)
    except (OSError, ValueError, KeyError, TypeError, sqlite3.Error) as error:
        said = without_credentials(str(error).replace(store, shown))
        return MlflowComparison(
            note=f"MLflow: {shown} not reachable, so it is not compared: {type(error).__name__}: {said}"
        )
    source = source_of(folder / JOURNAL_FILE)
    faults = [
        f"MLflow: {'the run' if stage is None else f'stage {stage}'} that {LINK_FILE} names is another run's"
        for stage, run in stored.items()
        if run is not None and run.source != (source if stage is None else f"{source}/{stage}")
    ]
    faults += [
        fault for stage in statuses for fault in _faults(stage, stored, statuses[stage], num_points.get(stage, 0))
    ]
    is_behind = link.offset < (folder / JOURNAL_FILE).stat().st_size
    number = sum(run.num_points or 0 for run in stored.values() if run is not None)
    return MlflowComparison(f"{number:,} points of {len(stored)} runs in {shown}", tuple(faults), is_behind=is_behind)


def _faults(
    stage: int | None, stored: Mapping[int | None, StoredRun | None], status: str, num_points: int
) -> list[str]:
    where = "MLflow: the run" if stage is None else f"MLflow: stage {stage}"
    run = stored.get(stage)
    if run is None:
        return [f"{where} is missing in the store"]
    if run.is_deleted:
        return [f"{where} was deleted in the store"]
    faults = []
    if run.status != status:
        faults.append(f"{where} is {run.status} in the store, {status} in the journal")
    if run.num_points is not None and run.num_points != num_points:
        faults.append(f"{where} has {run.num_points:,} points in the store, {num_points:,} in the journal")
    return faults


def _from_database(store: str, ids: Mapping[int | None, str]) -> dict[int | None, StoredRun | None]:
    """Returns what a SQLite store has.

    Raises:
        OSError: it is missing, or is another database.
    """
    path = sqlite_path(store)
    if path is None:
        raise OSError("only servers and SQLite files are read")
    if not path.is_file():
        raise FileNotFoundError("no such file")
    found: dict[int | None, StoredRun | None] = dict.fromkeys(ids)
    # Read only: SQLite would create a file that is missing.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=TIMEOUT_SECONDS)) as database:
        for stage, run_id in ids.items():
            row = database.execute(RUN, (run_id,)).fetchone()
            if row is not None:
                (number,) = database.execute(POINTS, (run_id,)).fetchone()
                (source,) = database.execute(SOURCE, (run_id, SOURCE_TAG)).fetchone() or ("",)
                found[stage] = StoredRun(str(row[0]), row[1] == "deleted", int(number), str(source))
    return found


def _from_server(store: str, ids: Mapping[int | None, str]) -> dict[int | None, StoredRun | None]:
    """Returns what a tracking server has.

    Raises:
        OSError: it does not answer, or too slowly.
    """
    found: dict[int | None, StoredRun | None] = dict.fromkeys(ids)
    end = time.monotonic() + SERVER_SECONDS
    for stage, run_id in ids.items():
        if time.monotonic() > end:
            raise TimeoutError(f"it takes more than {SERVER_SECONDS:g} s to ask for everything")
        try:
            run = _get(store, "runs/get", run_id=run_id)["run"]
        except urllib.error.HTTPError as answer:
            if answer.code != 404:
                raise
            continue
        keys = [str(metric["key"]) for metric in run.get("data", {}).get("metrics", [])]
        number = sum(_num_points(store, run_id, key) for key in keys)
        info = run["info"]
        tags = {str(tag["key"]): str(tag["value"]) for tag in run.get("data", {}).get("tags", [])}
        is_deleted = info.get("lifecycle_stage") == "deleted"
        found[stage] = StoredRun(str(info["status"]), is_deleted, number, tags.get(SOURCE_TAG, ""))
    return found


def _num_points(store: str, run_id: str, key: str) -> int:
    """Returns how many points a metric has, page by page."""
    number, token = 0, ""
    while True:
        page = {"page_token": token} if token else {}
        answer = _get(store, "metrics/get-history", run_id=run_id, metric_key=key, **page)
        number += len(answer.get("metrics", []))
        token = str(answer.get("next_page_token") or "")
        if not token:
            return number


def _get(store: str, what: str, **query: str) -> Any:
    parts = urllib.parse.urlsplit(store)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")
    request = urllib.request.Request(f"{bare}/{API}/{what}?{urllib.parse.urlencode(query)}")
    user = urllib.parse.unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = urllib.parse.unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    if user:
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {login}")
    elif token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        return json.load(answer)
