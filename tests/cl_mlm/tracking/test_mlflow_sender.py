"""Rules of sending a journal to MLflow, against real stores: SQLite files and a server on loopback."""

import http.server
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.tracking import mlflow_delivery as delivery
from cl_mlm.tracking import mlflow_store as store
from cl_mlm.tracking.journal import Journal, read_lines
from cl_mlm.tracking.mlflow_delivery import Link
from cl_mlm.tracking.mlflow_sender import MlflowSender, sync, tracking_uri, ui_command
from cl_mlm.tracking.mlflow_store import TrackingError

# MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

TIMEOUT = 60
NEW_PROCESS = """
import os, sys
from pathlib import Path
from cl_mlm.tracking.mlflow_store import TrackingError
from cl_mlm.tracking.mlflow_sender import MlflowSender
assert "mlflow" not in sys.modules
folder = Path(sys.argv[1])
sender = MlflowSender(folder, folder / "journal.jsonl", sys.argv[2])
sender.start()
assert sender.finish(60) is None
import mlflow
assert mlflow.active_run() is None
assert "MLFLOW_TRACKING_URI" not in os.environ
"""


def write_run(folder: Path, experiment: str = "quickstart", steps: int = 3) -> Path:
    """Writes the journal of a finished run of two stages."""
    folder.mkdir(parents=True)
    (folder / "figures").mkdir()
    (folder / "figures" / "matrix.txt").write_text("1 0\n0 1\n")
    (folder / "config.yaml").write_text("seed: 0\n")
    with Journal(folder / "journal.jsonl") as journal:
        journal.start(experiment, folder.name)
        journal.params({"seed": 0, "long": "x" * 7000})
        journal.tags({"stream": "phrasebook"})
        journal.artifact("config.yaml")
        for stage, name in enumerate(["Weather & Sky", "Music"]):
            journal.stage_start(stage, name)
            for step in range(steps):
                journal.metrics({"train/loss": 1 / (1 + step + stage), "train/odd?": step}, step, stage)
            journal.metrics({"accuracy/weather-sky": 0.5 + stage}, stage)
            journal.status("FINISHED", stage)
        journal.artifact("figures")
        journal.status("FINISHED")
    return folder


def send(folder: Path, uri: str) -> str | None:
    sender = MlflowSender(folder, folder / "journal.jsonl", uri)
    sender.start()
    return sender.finish(TIMEOUT)


def client_of(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(uri: str, experiment: str = "quickstart") -> list:
    client = client_of(uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def points_of(uri: str, folder: Path) -> dict[tuple[str, str], list[tuple]]:
    """Returns every stored point of a run and its stages, by (run name, key)."""
    client, link = client_of(uri), Link.load(folder)
    found = {}
    for run_id in [link.run_id, *link.children.values()]:
        run = client.get_run(run_id)
        for key in run.data.metrics:
            history = client.get_metric_history(run_id, key)
            found[run.info.run_name, key] = sorted((m.step, m.value, m.timestamp) for m in history)
    return found


def points_written(folder: Path) -> dict[tuple[str, str], list[tuple]]:
    """Returns every point of a journal in the form of `points_of`, where its keys need no cleaning."""
    names, found = {None: folder.name}, {}
    for line, _ in read_lines(folder / "journal.jsonl"):
        if line["kind"] == "stage_start":
            names[line["stage"]] = line["name"]
        if line["kind"] == "metrics":
            for key, value in line["values"].items():
                found.setdefault((names[line["stage"]], key), []).append((line["step"], value, line["time"]))
    return {place: sorted(points) for place, points in found.items() if "?" not in place[1]}


def without_odd(points: dict) -> dict:
    return {place: history for place, history in points.items() if not place[1].startswith("train/odd")}


@dataclass
class Beginning:
    """Two processes that began together, without a store."""

    database: Path
    output: str
    returncode: int
    sent: int


@pytest.fixture(scope="session")
def beginning(tmp_path_factory) -> Beginning:
    root = tmp_path_factory.mktemp("beginning")
    database = root / "new" / "mlflow.db"
    uri = f"sqlite:///{database}"
    other, mine = write_run(root / "other", "begun"), write_run(root / "mine", "begun")
    process = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", NEW_PROCESS, str(other), uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")},
        cwd=Path(__file__).parents[3],
    )
    sent = sync(mine, uri)
    output, _ = process.communicate(timeout=120)
    return Beginning(database, output, process.returncode, sent)


@pytest.fixture
def uri(beginning: Beginning, tmp_path: Path) -> str:
    """A ready SQLite store of this test's own."""
    shutil.copyfile(beginning.database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="module")
def finished(beginning: Beginning, tmp_path_factory) -> tuple[str, Path]:
    """The address of a store and the folder of a run that is sent to it."""
    root = tmp_path_factory.mktemp("finished")
    shutil.copyfile(beginning.database, root / "mlflow.db")
    uri, folder = f"sqlite:///{root / 'mlflow.db'}", write_run(root / "run")
    assert sync(folder, uri) > 0
    return uri, folder


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch, tmp_path):
    monkeypatch.setattr(MlflowSender, "poll_seconds", 0.02)
    monkeypatch.setattr(MlflowSender, "retry_seconds", (0.05, 0.1))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    monkeypatch.chdir(tmp_path)


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
def outage(beginning: Beginning, tmp_path_factory):
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


def test_a_new_store_is_made_without_a_word_on_the_terminal(beginning):
    assert (beginning.output, beginning.returncode) == ("", 0)


def test_two_runs_that_begin_together_share_the_store_and_the_experiment(beginning):
    names = [run.info.run_name for run in runs_of(f"sqlite:///{beginning.database}", "begun")]
    assert sorted(name for name in names if name in ("mine", "other")) == ["mine", "other"]
    assert beginning.sent > 0


def test_a_new_store_leaves_only_itself_and_its_artifacts(beginning):
    assert sorted(path.name for path in beginning.database.parent.iterdir()) == ["mlflow.db", "mlruns"]


def test_histories_have_the_journals_values_steps_and_times(finished):
    uri, folder = finished
    assert without_odd(points_of(uri, folder)) == points_written(folder)


def test_one_parent_run_has_one_child_per_stage(finished):
    uri, folder = finished
    link = Link.load(folder)
    children = [run for run in runs_of(uri) if run.data.tags.get("mlflow.parentRunId") == link.run_id]
    assert {run.info.run_id for run in children} == set(link.children.values())
    assert {run.data.tags["cl_mlm.stage"] for run in children} == {"Weather & Sky", "Music"}
    assert client_of(uri).get_run(link.children[1]).info.run_name == "Music"
    assert len(runs_of(uri)) == 3


def test_states_and_their_times_are_the_journals(finished):
    uri, folder = finished
    lines = [line for line, _ in read_lines(folder / "journal.jsonl")]
    run = client_of(uri).get_run(Link.load(folder).run_id)
    assert (run.info.status, run.info.start_time, run.info.end_time) == (
        "FINISHED",
        lines[0]["time"],
        lines[-1]["time"],
    )


def test_params_tags_and_artifacts_arrive_on_the_parent(finished):
    uri, folder = finished
    client, run_id = client_of(uri), Link.load(folder).run_id
    run = client.get_run(run_id)
    assert run.data.params["seed"] == "0"
    assert run.data.params["long"] == "x" * 5997 + "..."
    assert run.data.tags["stream"] == "phrasebook"
    assert [file.path for file in client.list_artifacts(run_id)] == ["config.yaml", "figures"]
    assert [file.path for file in client.list_artifacts(run_id, "figures")] == ["figures/matrix.txt"]


def test_artifacts_lie_beside_the_database(finished):
    _, folder = finished
    stored = folder.parent / "mlruns" / "quickstart" / Link.load(folder).run_id / "artifacts" / "config.yaml"
    assert stored.read_text() == "seed: 0\n"


def test_a_key_that_mlflow_does_not_take_is_changed_and_stays_unique(finished):
    uri, folder = finished
    odd = [key for _, key in points_of(uri, folder) if key.startswith("train/odd")]
    assert len(set(odd)) == 1
    assert delivery._key("train/odd?") != delivery._key("train/odd!")


def test_more_entries_than_mlflow_takes_at_once_are_all_sent(uri, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with Journal(folder / "journal.jsonl") as journal:
        journal.start("quickstart", "run")
        journal.params({f"p{number}": "ü" * 3000 for number in range(150)})
        journal.tags({f"t{number}": number for number in range(150)})
        for step in range(3):
            journal.metrics({f"m{number}": number for number in range(700)}, step)
    assert send(folder, uri) is None
    data = client_of(uri).get_run(Link.load(folder).run_id).data
    assert (len(data.params), len(data.metrics)) == (150, 700)
    assert sum(key.startswith("t") for key in data.tags) == 150


def test_sending_the_same_lines_again_doubles_nothing(uri, tmp_path):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    before = points_of(uri, folder)
    link = Link.load(folder)
    link.offset = 0
    link.save(folder)
    assert sync(folder) > 0
    assert points_of(uri, folder) == before
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        stored = database.execute("select count(*) from metrics where run_uuid = ?", [link.run_id]).fetchone()[0]
    database.close()
    assert stored == 2


def test_a_sender_that_died_before_noting_its_runs_makes_no_second_ones(uri, tmp_path):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    before = points_of(uri, folder)
    (folder / "mlflow.json").unlink()
    assert sync(folder, uri) > 0
    assert len(runs_of(uri)) == 3
    assert points_of(uri, folder) == before


def test_a_sender_that_died_in_the_middle_goes_on_from_there(uri, tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    whole = (folder / "journal.jsonl").read_bytes()
    cut = whole.index(b'"name":"Music"')
    (folder / "journal.jsonl").write_bytes(whole[:cut])
    assert send(folder, uri) is None
    offset = Link.load(folder).offset
    assert whole[:offset].endswith(b"\n")
    assert offset < cut
    (folder / "journal.jsonl").write_bytes(whole)
    assert send(folder, uri) is None
    assert without_odd(points_of(uri, folder)) == points_written(folder)
    assert len(runs_of(uri)) == 3


def test_an_offset_beyond_a_shortened_journal_starts_over(uri, tmp_path):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    link = Link.load(folder)
    link.offset += 10_000
    link.save(folder)
    assert sync(folder) > 0
    assert without_odd(points_of(uri, folder)) == points_written(folder)


def test_a_resumed_run_is_running_again_then_finished(uri, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    states = []
    for status in ("FAILED", None, "FINISHED"):
        with Journal(folder / "journal.jsonl") as journal:
            journal.start("quickstart", "run")
            if status:
                journal.status(status)
        send(folder, uri)
        states.append(client_of(uri).get_run(Link.load(folder).run_id).info.status)
    assert states == ["FAILED", "RUNNING", "FINISHED"]
    assert len(runs_of(uri)) == 1


def test_lines_are_sent_while_the_run_goes_on(uri, tmp_path):
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


def test_a_sender_that_waits_does_nothing_until_it_is_told_to_begin(uri, tmp_path):
    folder = write_run(tmp_path / "run")
    sender = MlflowSender(folder, folder / "journal.jsonl", uri)
    sender.start(wait_seconds=3600)
    time.sleep(0.3)
    assert Link.load(folder) == Link(uri)
    sender.begin()
    deadline = time.monotonic() + TIMEOUT
    while Link.load(folder).offset < (folder / "journal.jsonl").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sender.finish(TIMEOUT) is None


def test_a_sender_that_still_waits_at_the_end_sends_everything_then(uri, tmp_path):
    folder = write_run(tmp_path / "run")
    sender = MlflowSender(folder, folder / "journal.jsonl", uri)
    sender.start(wait_seconds=3600)
    assert sender.finish(TIMEOUT) is None
    assert points_written(folder).items() <= points_of(uri, folder).items()


def test_a_failed_send_is_tried_again(uri, tmp_path, monkeypatch):
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
    assert without_odd(points_of(uri, folder)) == points_written(folder)


def test_a_server_that_answers_500_is_not_reachable_and_sync_sends_all_later(uri, tmp_path):
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
    assert without_odd(points_of(uri, folder)) == points_written(folder)


def test_finish_does_not_wait_longer_than_it_may(tmp_path):
    folder = write_run(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        sender = MlflowSender(folder, folder / "journal.jsonl", f"http://127.0.0.1:{silent.getsockname()[1]}")
        sender.start()
        began = time.monotonic()
        reason = sender.finish(0.3)
        assert time.monotonic() - began < 2
        assert "did not take everything within 0.3 s; the journal holds everything" in reason


def test_a_deleted_experiment_is_refused_with_the_way_back(uri, tmp_path):
    folder, client = write_run(tmp_path / "run"), client_of(uri)
    experiment = client.create_experiment("quickstart")
    client.delete_experiment(experiment)
    reason = send(folder, uri)
    assert f"mlflow experiments restore --experiment-id {experiment}" in reason
    with pytest.raises(TrackingError, match="deleted in MLflow, got 'quickstart'"):
        sync(folder, uri)


def test_a_deleted_run_is_refused_with_the_way_back(uri, tmp_path):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    run_id = Link.load(folder).run_id
    client_of(uri).delete_run(run_id)
    with pytest.raises(TrackingError, match=f"mlflow runs restore --run-id {run_id}"):
        sync(folder, uri)


def test_a_store_that_lost_the_run_gets_everything_again(uri, beginning, tmp_path):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    shutil.copyfile(beginning.database, tmp_path / "other.db")
    link = Link.load(folder)
    link.uri = other
    link.save(folder)
    assert sync(folder) > 0
    assert without_odd(points_of(other, folder)) == points_written(folder)


def test_an_experiment_made_by_another_run_meanwhile_is_used(uri, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    made = client_of(uri).create_experiment("quickstart")
    really, asked = MlflowClient.get_experiment_by_name, []

    def late(client, name):
        asked.append(name)
        return really(client, name) if len(asked) > 1 else None

    folder = write_run(tmp_path / "run")
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    assert sync(folder, uri) > 0
    assert Link.load(folder).experiment_id == made


def test_a_second_sync_sends_nothing(uri, tmp_path):
    folder = write_run(tmp_path / "run")
    assert sync(folder, uri) == len(list(read_lines(folder / "journal.jsonl")))
    assert sync(folder, uri) == 0


def test_sync_goes_where_the_run_went_before(uri, tmp_path):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    assert sync(folder) == 0
    assert Link.load(folder).uri == uri


def test_sync_without_a_journal_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="must be a run folder"):
        sync(tmp_path)


def test_a_damaged_note_is_made_anew(uri, tmp_path):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    (folder / "mlflow.json").write_text("{")
    assert sync(folder, uri) > 0
    assert len(runs_of(uri)) == 3


def test_an_artifact_that_is_gone_is_told_and_the_rest_is_sent(uri, tmp_path, caplog):
    folder = write_run(tmp_path / "run")
    (folder / "config.yaml").unlink()
    assert sync(folder, uri) > 0
    assert "artifact config.yaml is gone" in caplog.text
    assert client_of(uri).get_run(Link.load(folder).run_id).info.status == "FINISHED"


def test_a_damaged_journal_is_told_by_finish(uri, tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(b"nonsense\n")
    assert "must be a JSON line, got b'nonsense" in send(folder, uri)


def test_a_users_own_active_run_is_left_alone(uri, tmp_path):
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


def test_only_the_senders_own_thread_is_kept_quiet(uri, caplog):
    with store.quiet():
        handler = logging.getLogger("mlflow").handlers[0]
        record = logging.LogRecord("mlflow", logging.INFO, "", 0, "chatter", None, None)
        assert not handler.filter(record)
        record.levelno = logging.ERROR
        assert handler.filter(record)
        other = logging.LogRecord("mlflow", logging.INFO, "", 0, "chatter", None, None)
        other.thread = 0
        assert handler.filter(other)
    assert handler.filter(logging.LogRecord("mlflow", logging.INFO, "", 0, "chatter", None, None))


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


def test_the_ui_serves_a_database_and_a_server_needs_none():
    assert ui_command("sqlite:////a.db")[1:4] == ["-m", "mlflow", "ui"]
    assert ui_command("sqlite:////a.db")[-1] == "sqlite:////a.db"
    assert ui_command("http://tracker:5000") == []


@given(st.text(max_size=300))
def test_every_key_becomes_one_that_mlflow_takes(key):
    from mlflow.utils.validation import _validate_metric_name

    clean = delivery._key(key)
    _validate_metric_name(clean)
    assert len(clean) <= 250


def test_a_server_gets_all_that_was_written_while_it_was_down_and_no_credentials(outage):
    outage.wait_for_server()
    assert sync(outage.folder, outage.url.replace("//", "//me:s3cret@")) > 0
    client, link = client_of(outage.url), Link.load(outage.folder)
    assert without_odd(points_of(outage.url, outage.folder)) == points_written(outage.folder)
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
