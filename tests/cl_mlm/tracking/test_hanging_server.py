"""Rules of a tracking server that accepts and does not answer, or slowly: it holds up no end."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import cl_mlm
from cl_mlm.experiment.scoring import Scoring
from cl_mlm.tracking.mlflow_sender import MlflowSender

ROOT = Path(__file__).parents[3]
ENDING = """
import sys, time
from pathlib import Path
from cl_mlm.tracking.mlflow_sender import MlflowSender
folder = Path(sys.argv[1])
sender = MlflowSender(folder, folder / "journal.jsonl", sys.argv[2])
sender.start()
input()
print(sender.finish(0.5), flush=True)
print(time.time(), flush=True)
"""


@pytest.fixture
def silent():
    """The address of a server that accepts every connection and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def half_alive():
    """The address of a server that says it is well and answers nothing else; an event that it was asked something."""
    asked, release = threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/health":
                asked.set()
                release.wait(60)
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET  # noqa: N815  the base class's name

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        release.set()
        server.shutdown()
        thread.join()


def test_the_end_of_a_process_does_not_wait_for_a_request_that_hangs(half_alive, tmp_path, write_run):
    url, asked = half_alive
    folder = write_run(tmp_path / "run")
    command = [sys.executable, "-c", ENDING, str(folder), url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes) as process:
        assert asked.wait(60)
        said, _ = process.communicate("\n", timeout=60)
    problem, ended = said.splitlines()
    assert process.returncode == 0
    assert time.time() - float(ended) < 5
    assert "did not take everything within 0.5 s; the journal holds everything: cl-mlm sync" in problem


def test_a_longer_wait_is_told_once(silent, tmp_path, write_run):
    told = []
    folder = write_run(tmp_path / "run")
    sender = MlflowSender(folder, folder / "journal.jsonl", silent)
    sender.start()
    assert "cl-mlm sync" in sender.finish(1.2, told.append)
    assert told == [pytest.approx(0.2)]


def test_an_interrupted_run_names_the_sync_that_sends_the_rest(silent, fast, monkeypatch, capsys, tmp_path):
    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("cl_mlm.experiment.session.SENDING_SECONDS", 1.0)
    monkeypatch.setattr(Scoring, "write", interrupt)
    fast["training"]["steps"] = 1
    with pytest.raises(KeyboardInterrupt):
        cl_mlm.run(fast, tracking={"uri": silent})
    (folder,) = (tmp_path / "runs" / "fast").iterdir()
    assert f"the journal holds everything: cl-mlm sync {folder} sends it" in capsys.readouterr().err


def test_an_error_of_mlflow_that_nobody_foresaw_is_a_warning(tmp_path, write_run, monkeypatch):
    def fail(delivery):
        raise ZeroDivisionError("http://me:s3cret@host/ failed")

    monkeypatch.setattr("cl_mlm.tracking.mlflow_delivery.Delivery.send", fail)
    folder = write_run(tmp_path / "run")
    sender = MlflowSender(folder, folder / "journal.jsonl", "http://me:s3cret@127.0.0.1:9")
    sender.start()
    assert sender.finish(5.0) == (
        "tracking http://127.0.0.1:9: ZeroDivisionError: http://host/ failed; "
        f"the journal holds everything: cl-mlm sync {folder} sends it"
    )
