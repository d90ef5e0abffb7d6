"""Rules of sending a journal to MLflow, against real stores: SQLite files and a server on loopback."""

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.tracking import mlflow_delivery as delivery
from cl_mlm.tracking.journal import Journal
from cl_mlm.tracking.mlflow_delivery import Link
from cl_mlm.tracking.mlflow_sender import MlflowSender, sync, tracking_uri

pytestmark = [
    pytest.mark.usefixtures("in_a_hurry"),
    # MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]


TIMEOUT = 60


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Outage:
    """A run made while its server was down; the server comes up meanwhile."""

    url: str
    folder: Path
    reason: str | None
    seconds: float
    database: Path
    artifacts: Path

    def wait_for_server(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(self.url)


@pytest.fixture(scope="module")
def outage(beginning, tmp_path_factory, write_run):
    root = tmp_path_factory.mktemp("outage")
    port, folder = free_port(), write_run(root / "run")
    url = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    sender = MlflowSender(folder, folder / "journal.jsonl", url)
    sender.start()
    reason = sender.finish(2.0)
    seconds = time.monotonic() - began
    database = root / "server.db"
    shutil.copyfile(beginning.database, database)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(root / "artifacts")]
    with (root / "server.log").open("w") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=root,
            start_new_session=True,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
    yield Outage(url, folder, reason, seconds, database, root / "artifacts")
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_finish_says_in_one_line_that_the_server_is_down(outage):
    assert outage.reason == (
        f"tracking server {outage.url} not reachable: [Errno 111] Connection refused; "
        f"the journal holds everything: cl-mlm sync {outage.folder} sends it"
    )
    assert outage.seconds < 10


def test_lines_are_sent_while_the_run_goes_on(uri, tmp_path, client_of):
    folder = tmp_path / "run"
    folder.mkdir()
    with Journal(folder / "journal.jsonl") as journal:
        sender = MlflowSender(folder, journal.path, uri)
        sender.start()
        journal.start("quickstart", "run")
        journal.metrics({"a": 1.0}, step=0)
        deadline = time.monotonic() + TIMEOUT
        while (link := Link.load(folder)) is None or link.offset < journal.path.stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert client_of(uri).get_metric_history(link.run_id, "a")[0].value == 1.0
        journal.metrics({"a": 2.0}, step=1)
    assert sender.finish(TIMEOUT) is None
    assert len(client_of(uri).get_metric_history(link.run_id, "a")) == 2


def test_a_sender_that_waits_does_nothing_until_it_is_told_to_begin(uri, tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    sender = MlflowSender(folder, folder / "journal.jsonl", uri)
    sender.start(wait_seconds=3600)
    time.sleep(0.3)
    assert Link.load(folder) == Link(uri, database="../mlflow.db")
    sender.begin()
    deadline = time.monotonic() + TIMEOUT
    while Link.load(folder).offset < (folder / "journal.jsonl").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sender.finish(TIMEOUT) is None


def test_a_sender_that_still_waits_at_the_end_sends_everything_then(
    uri, tmp_path, write_run, points_of, points_written
):
    folder = write_run(tmp_path / "run")
    sender = MlflowSender(folder, folder / "journal.jsonl", uri)
    sender.start(wait_seconds=3600)
    assert sender.finish(TIMEOUT) is None
    assert points_written(folder).items() <= points_of(uri, folder).items()


def test_a_failed_send_is_tried_again(uri, tmp_path, monkeypatch, write_run, send, assert_sent):
    folder, tries = write_run(tmp_path / "run"), []
    really = delivery.open_store

    def open_store(uri: str):
        tries.append(uri)
        if len(tries) < 4:
            raise ConnectionResetError("hung up")
        return really(uri)

    monkeypatch.setattr(delivery, "open_store", open_store)
    assert send(folder, uri) is None
    assert len(tries) == 4
    assert_sent(uri, folder)


def test_a_server_that_answers_500_is_not_reachable_and_sync_sends_all_later(uri, tmp_path, write_run, assert_sent):
    class Broken(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(500)

        def log_message(self, *_):
            pass

    folder = write_run(tmp_path / "run")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        sender = MlflowSender(folder, folder / "journal.jsonl", f"http://127.0.0.1:{server.server_port}")
        sender.start()
        reason = sender.finish(1.0)
        server.shutdown()
        thread.join()
    assert "not reachable: HTTP Error 500" in reason
    assert sync(folder, uri) > 0
    assert_sent(uri, folder)


def test_finish_does_not_wait_longer_than_it_may(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        sender = MlflowSender(folder, folder / "journal.jsonl", f"http://127.0.0.1:{silent.getsockname()[1]}")
        sender.start()
        began = time.monotonic()
        reason = sender.finish(0.3)
        assert time.monotonic() - began < 2
        assert "did not take everything within 0.3 s; the journal holds everything" in reason


def test_sync_without_a_journal_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="must be a run folder"):
        sync(tmp_path)


def test_a_damaged_journal_is_told_by_finish(uri, tmp_path, write_run, send):
    folder = write_run(tmp_path / "run")
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(b"nonsense\n")
    assert "must be a JSON line, got b'nonsense" in send(folder, uri)


def test_a_users_own_active_run_is_left_alone(uri, tmp_path, write_run, send, client_of):
    import mlflow

    own = f"sqlite:///{tmp_path / 'own.db'}"
    shutil.copyfile(tmp_path / "mlflow.db", tmp_path / "own.db")
    mlflow.set_tracking_uri(own)
    try:
        with mlflow.start_run() as run:
            folder = write_run(tmp_path / "run")
            assert send(folder, uri) is None
            assert mlflow.active_run().info.run_id == run.info.run_id
            assert mlflow.get_tracking_uri() == own
    finally:
        mlflow.set_tracking_uri(None)
    assert client_of(own).get_run(run.info.run_id).data.metrics == {}


def test_the_uri_is_the_configured_one_then_the_environments_then_a_database_here(monkeypatch, tmp_path):
    assert tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking_uri(None) == "http://tracker:5000"
    assert tracking_uri("postgresql://host/db") == "postgresql://host/db"


@pytest.mark.parametrize(
    ("given", "expected"),
    [("sqlite:///a/b.db", "sqlite:///{}/a/b.db"), ("sqlite:////a/b.db?timeout=9", "sqlite:////a/b.db?timeout=9")],
)
def test_a_sqlite_path_is_made_absolute(given, expected, tmp_path):
    assert tracking_uri(given) == expected.format(tmp_path)


@pytest.mark.parametrize("folder", ["./mlruns", "file:///tmp/mlruns", "localhost:5000"])
def test_a_folder_or_bare_host_is_refused(folder):
    with pytest.raises(ConfigError, match=r"tracking.uri: must be a server .* or a database"):
        tracking_uri(folder)


def test_a_refused_environment_variable_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI: must be"):
        tracking_uri(None)


def test_a_server_gets_all_that_was_written_while_it_was_down_and_no_credentials(outage, client_of, assert_sent):
    outage.wait_for_server()
    assert sync(outage.folder, outage.url.replace("//", "//me:s3cret@")) > 0
    client, link = client_of(outage.url), Link.load(outage.folder)
    assert_sent(outage.url, outage.folder)
    assert client.get_run(link.run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(link.run_id)] == ["config.yaml", "figures"]
    assert link.uri == outage.url
    assert json.loads((outage.folder / "mlflow.json").read_text())["children"].keys() == {"0", "1"}
    assert b"s3cret" not in outage.database.read_bytes() + (outage.folder / "mlflow.json").read_bytes()
    assert sync(outage.folder) == 0


def test_where_to_is_known_though_the_store_was_never_reached(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.start("experiment", "run")
    sender = MlflowSender(tmp_path, tmp_path / "journal.jsonl", "http://bob:s3cret@127.0.0.1:9")
    sender.start()
    link = Link.load(tmp_path)
    sender.finish(0.0)
    assert link is not None
    assert link.uri == "http://127.0.0.1:9"
