"""A tracking server that is away, slow, broken or hangs up: the run goes on, and MLflow gets every point once.

A real server stands behind a proxy that misbehaves as each test says.
"""

import fcntl
import http.client
import http.server
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import cl_mlm
from cl_mlm.experiment import session
from cl_mlm.experiment.running import Experiment
from cl_mlm.tracking.journal import Journal, read_lines
from cl_mlm.tracking.mlflow_delivery import Delivery, Link
from cl_mlm.tracking.mlflow_sender import MlflowSender, sync
from cl_mlm.tracking.mlflow_store import TrackingError

differences = runpy.run_path(str(Path(__file__).parents[1] / "kill" / "mirror.py"))["differences"]
GUARD_SECONDS = 60  # a test that waits longer has failed
PASS, ERROR, CUT, HOLD = "pass", "error", "cut", "hold"


class Proxy:
    """Stands before a server; `rule` says of each request, by path and body, what becomes of it.

    PASS: it is answered; ERROR: 500; CUT: the server does it, its answer is lost; HOLD: it is answered when
    `release` is set.

    Attributes:
        seen: method, path and fate of every request.
    """

    def __init__(self, target: int) -> None:
        self.target, self.seen, self.release = target, [], threading.Event()
        self.rule: Callable[[str, bytes], str] = lambda path, body: PASS
        self.server = None
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listens, always at the same port."""
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815  the base class's names

            def log_message(self, *_) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def down(self) -> None:
        """Refuses connections from now on."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def handle(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        fate = self.rule(request.path, body)
        self.seen.append((request.command, request.path, fate))
        if fate == HOLD:
            self.release.wait(GUARD_SECONDS)
        if fate == ERROR:
            request.send_error(500)
            return
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        upstream = http.client.HTTPConnection("127.0.0.1", self.target, timeout=GUARD_SECONDS)
        upstream.request(request.command, request.path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fate != CUT:
            request.send_response(answer.status)
            request.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)

    def count(self, fate: str) -> int:
        return sum(found == fate for *_, found in self.seen)


class Run:
    """A run without a training: it writes a journal of two stages and has a sender."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "config.yaml").write_text("seed: 0\n")
        self.journal = Journal(folder / "journal.jsonl")
        self.sender = MlflowSender(folder, self.journal.path, url)
        self.sender.start()
        self.journal.start(f"outage {folder.parent.name}", folder.name)
        self.journal.params({"seed": 0, "strategies.replay.capacity": 8})
        self.journal.tags({"stream": "phrasebook"})
        self.journal.artifact("config.yaml")

    def stage(self, stage: int) -> None:
        self.journal.stage_start(stage, f"stage {stage}")
        for step in range(20):
            self.journal.metrics({"train/loss": 1 / (1 + step + stage), "train/rate": 0.1 * step}, step, stage)
        self.journal.metrics({"accuracy/weather": 0.5 + stage / 4}, stage)
        self.journal.status("FINISHED", stage)

    def end(self, limit: float = GUARD_SECONDS) -> str | None:
        self.journal.artifact("config.yaml")
        self.journal.status("FINISHED")
        self.journal.close()
        return self.sender.finish(limit)

    def is_sent(self) -> bool:
        link = Link.load(self.folder)
        return link is not None and link.offset == self.journal.path.stat().st_size


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GUARD_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_SECONDS)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server(empty_store, tmp_path_factory):
    """The port of a real MLflow server."""
    root, port = tmp_path_factory.mktemp("server"), free_port()
    shutil.copyfile(empty_store, root / "server.db")
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root}/server.db",
        "--artifacts-destination",
        str(root / "artifacts"),
    ]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=root, start_new_session=True, env=os.environ | environment
        )
    try:
        wait_until(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, (root / "log.txt").read_text()
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def proxy(server):
    made = Proxy(server)
    yield made
    made.release.set()
    made.down()


@pytest.fixture
def failures(monkeypatch) -> list[TrackingError]:
    """Every failure that a sender has had."""
    heard, send = [], Delivery.send

    def listening(self):
        try:
            return send(self)
        except TrackingError as error:
            heard.append(error)
            raise

    monkeypatch.setattr(Delivery, "send", listening)
    return heard


@pytest.fixture
def run(proxy, tmp_path):
    return Run(tmp_path / "run", proxy.url)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(MlflowSender, "poll_seconds", 0.02)
    monkeypatch.setattr(MlflowSender, "retry_seconds", (0.02, 0.05))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def faults(server):
    """What MLflow holds otherwise than the journal of a run folder."""
    from mlflow import MlflowClient

    return lambda folder: differences(MlflowClient(f"http://127.0.0.1:{server}"), folder)


def lines_of(folder: Path) -> list[dict]:
    return [line for line, _ in read_lines(folder / "journal.jsonl")]


def once_each(fate: str) -> Callable[[str, bytes], str]:
    """Returns a rule: every request but a look at the server's health meets `fate` the first time it is made."""
    known: set[tuple[str, bytes]] = set()

    def rule(path: str, body: bytes) -> str:
        if path == "/health" or (path, body) in known:
            return PASS
        known.add((path, body))
        return fate

    return rule


def first(number: int, fate: str, path: str = "") -> Callable[[str, bytes], str]:
    """Returns a rule: the first requests to a path that ends so meet `fate`."""
    left = iter(range(number))
    return lambda found, body: fate if found.endswith(path) and next(left, None) is not None else PASS


def test_a_server_that_is_down_at_the_start_gets_everything_when_it_is_up(proxy, failures, tmp_path, faults):
    proxy.down()
    run = Run(tmp_path / "run", proxy.url)
    run.stage(0)
    wait_until(lambda: len(failures) > 1)
    proxy.up()
    run.stage(1)
    assert run.end() is None
    assert faults(run.folder) == []


def test_a_server_that_is_down_in_the_middle_gets_what_it_missed(proxy, run, failures, faults):
    run.stage(0)
    wait_until(run.is_sent)
    proxy.down()
    run.stage(1)
    wait_until(lambda: len(failures) > 1)
    proxy.up()
    assert run.end() is None
    assert faults(run.folder) == []


def test_a_server_that_is_down_at_the_end_gets_the_rest_by_sync(proxy, run, failures, faults):
    run.stage(0)
    wait_until(run.is_sent)
    proxy.down()
    run.stage(1)
    wait_until(lambda: failures)
    said = run.end(0.1)
    assert (
        f"not reachable: [Errno 111] Connection refused; the journal holds everything: cl-mlm sync {run.folder}" in said
    )
    proxy.up()
    missed = len(lines_of(run.folder))
    assert 0 < sync(run.folder) < missed
    assert faults(run.folder) == []


def test_a_slow_server_does_not_hold_up_the_run(proxy, tmp_path, faults):
    proxy.rule = first(1, HOLD, "log-batch")
    run = Run(tmp_path / "run", proxy.url)
    wait_until(lambda: proxy.count(HOLD))
    run.stage(0)
    run.stage(1)
    assert lines_of(run.folder)[-1]["kind"] == "status"  # all is written while the first answer is still awaited
    assert not Link.load(run.folder).offset
    proxy.rule = lambda path, body: time.sleep(0.01) or PASS
    proxy.release.set()
    assert run.end() is None
    assert faults(run.folder) == []


@pytest.mark.parametrize("path", ["", "log-batch", "config.yaml"])
def test_a_server_that_answers_500_for_a_while_is_asked_again(path, proxy, tmp_path, faults):
    proxy.rule = first(5, ERROR, path)
    run = Run(tmp_path / "run", proxy.url)
    run.stage(0)
    run.stage(1)
    assert run.end() is None
    assert proxy.count(ERROR) >= 4
    assert faults(run.folder) == []


@pytest.mark.parametrize("retries", [0, 1])
def test_what_a_server_did_without_saying_so_is_not_done_twice(retries, proxy, tmp_path, monkeypatch, faults):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    proxy.rule = once_each(CUT)
    run = Run(tmp_path / "run", proxy.url)
    run.stage(0)
    run.stage(1)
    assert run.end() is None
    cut = {path.rpartition("/")[2] for _, path, fate in proxy.seen if fate == CUT}
    assert {"create", "log-batch", "update", "config.yaml"} <= cut
    assert faults(run.folder) == []


def test_a_server_that_hangs_holds_up_the_end_of_a_run_no_longer_than_the_sender_may(
    proxy, fast, monkeypatch, tmp_path, faults
):
    monkeypatch.setattr(session, "SENDING_SECONDS", 0.1)
    monkeypatch.setattr(session, "SENDING_WAITS_SECONDS", 0.0)
    proxy.rule = first(1, HOLD, "log-batch")
    finish = Experiment._finish

    def when_it_hangs(experiment, *given):  # so short a run may have ended before the first batch is sent
        wait_until(lambda: HOLD in [request[2] for request in proxy.seen])
        return finish(experiment, *given)

    monkeypatch.setattr(Experiment, "_finish", when_it_hangs)
    result = cl_mlm.run({**fast, "experiment": tmp_path.name, "tracking": {"uri": proxy.url}}, progress=False)
    assert "did not take everything within 0.1 s" in result.warnings[0]
    assert proxy.seen[-1][2] == HOLD  # the run has ended and the first batch is not answered
    assert lines_of(result.folder)[-1]["value"] == "FINISHED"
    proxy.release.set()
    sync(result.folder)
    assert faults(result.folder) == []


def test_a_whole_run_beside_a_server_with_every_fault_is_tracked_in_full(proxy, fast, failures, tmp_path, faults):
    cut = once_each(CUT)
    proxy.rule = lambda path, body: ERROR if len(proxy.seen) in range(20, 27) else cut(path, body)
    config = {**fast, "experiment": tmp_path.name, "tracking": {"uri": proxy.url, "log_every": 1}}
    result = cl_mlm.run(config, progress=False)
    assert result.warnings == []
    assert failures
    assert proxy.count(CUT) > 20
    assert faults(result.folder) == []


def test_a_sync_beside_a_run_waits_until_the_run_has_sent_what_it_has(proxy, tmp_path, monkeypatch, faults):
    locks, lock = [], fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: (locks.append(arguments), lock(*arguments)))
    proxy.rule = first(1, HOLD, "runs/create")
    run = Run(tmp_path / "run", proxy.url)
    wait_until(lambda: proxy.count(HOLD))
    requests, held = len(proxy.seen), len(locks)
    beside = threading.Thread(target=sync, args=(run.folder, proxy.url))
    beside.start()
    wait_until(lambda: len(locks) > held)
    assert len(proxy.seen) == requests
    proxy.release.set()
    run.stage(0)
    run.stage(1)
    beside.join()
    assert run.end() is None
    assert faults(run.folder) == []
