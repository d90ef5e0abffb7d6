"""`cl-mlm ui` as a process: the address it tells, what it serves after a move, and how signals end it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from killing import heard

from cl_mlm.tracking.journal import Journal
from cl_mlm.tracking.mlflow_delivery import Link
from cl_mlm.tracking.mlflow_sender import sync

# MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")
GUARD_SECONDS = 120


@pytest.fixture(autouse=True)
def signals_are_heard():
    """In the processes that are started, too: pytest may run in the background, where they are ignored."""
    with heard(signal.SIGINT, signal.SIGHUP):
        yield


@pytest.fixture
def clone(empty_store, tmp_path, monkeypatch):
    """A folder with a database and a run, that was moved after the run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "before" / "runs" / "r"
    run.mkdir(parents=True)
    shutil.copyfile(empty_store, tmp_path / "before" / "mlflow.db")
    (run / "config.yaml").write_text("seed: 0\n")
    with Journal(run / "journal.jsonl") as journal:
        journal.start("weather", "r")
        journal.metrics({"average_accuracy": 0.5}, 0)
        journal.artifact("config.yaml")
        journal.status("FINISHED")
    sync(run, f"sqlite:///{tmp_path / 'before' / 'mlflow.db'}")
    return (tmp_path / "before").rename(tmp_path / "after")


class Ui:
    """The command, in a process of its own that leads a group; its browser is a script that notes the address."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.opened = folder / "opened.txt"
        note = f"{sys.executable} -c \"import sys; open('{self.opened}', 'w').write(sys.argv[1])\" %s"
        environment = {**os.environ, "BROWSER": note, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-m", "cl_mlm", "ui", "--port", str(self.port), "--browser"]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def page(self) -> str:
        """Returns the address that the command tells."""
        for line in self.process.stdout:
            if line.startswith("http"):
                return line.strip()
        raise AssertionError("no address was told")

    def wait_for(self, found) -> None:
        deadline = time.monotonic() + GUARD_SECONDS
        while not found():
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.1)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=GUARD_SECONDS) as answer:
            return answer.read()

    def is_gone(self) -> bool:
        """Whether no process of its group is left."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def ui(clone):
    command = Ui(clone)
    yield command
    if not command.is_gone():
        os.killpg(command.process.pid, signal.SIGKILL)
    command.process.wait(GUARD_SECONDS)
    command.process.stdout.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_it_tells_and_opens_the_page_of_runs_serves_moved_artifacts_and_leaves_nobody(ui, clone, number, code):
    link = Link.load(clone / "runs" / "r")
    page = f"http://127.0.0.1:{ui.port}/#/experiments/{link.experiment_id}/runs?workflowType=machine_learning"
    assert ui.page() == f"{page}&compareRunsMode=CHART"
    ui.wait_for(ui.opened.exists)
    ui.wait_for(ui.opened.read_text)
    assert ui.opened.read_text() == f"{page}&compareRunsMode=CHART"
    assert ui.get(f"/get-artifact?run_id={link.run_id}&path=config.yaml") == b"seed: 0\n"
    assert re.search(rb"<title>\s*MLflow", ui.get("/"))
    ui.process.send_signal(number)
    assert ui.process.wait(GUARD_SECONDS) == code
    assert ui.is_gone()
    with pytest.raises(urllib.error.URLError):
        ui.get("/health")


def test_a_taken_port_fails_at_once_with_code_1_and_a_free_port(clone):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "cl_mlm", "ui", "--port", str(port), "--no-browser"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(rf"error: port {port} is taken; this one is free: cl-mlm ui --port \d+\n", done.stderr)
    assert "Traceback" not in done.stderr
