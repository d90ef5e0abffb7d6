"""A run folder to send, stores to send it to, and what a store then holds."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cl_mlm.tracking.journal import Journal, read_lines
from cl_mlm.tracking.mlflow_delivery import Link
from cl_mlm.tracking.mlflow_sender import MlflowSender, sync

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

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
Points = dict[tuple[str, str], list[tuple[int, float, int]]]


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Senders look and try again often; no setting of the machine's own is read."""
    monkeypatch.setattr(MlflowSender, "poll_seconds", 0.02)
    monkeypatch.setattr(MlflowSender, "retry_seconds", (0.05, 0.1))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Writes the journal of a finished run of two stages: `write_run(folder)` returns the folder."""

    def write(folder: Path, experiment: str = "quickstart", steps: int = 3) -> Path:
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

    return write


@pytest.fixture
def send() -> Callable[[Path, str], str | None]:
    """Sends the journal of a run folder to a store; returns what hindered it."""

    def work(folder: Path, uri: str) -> str | None:
        sender = MlflowSender(folder, folder / "journal.jsonl", uri)
        sender.start()
        return sender.finish(TIMEOUT)

    return work


@pytest.fixture(scope="session")
def client_of() -> Callable[[str], "MlflowClient"]:
    """MLflow's own client of a store."""

    def make(uri: str) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)

    return make


@pytest.fixture(scope="session")
def runs_of(client_of: Callable[[str], "MlflowClient"]) -> Callable[..., "list[Run]"]:
    """The runs that a store holds of an experiment."""

    def find(uri: str, experiment: str = "quickstart") -> "list[Run]":
        client = client_of(uri)
        return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])

    return find


@pytest.fixture(scope="session")
def points_of(client_of: Callable[[str], "MlflowClient"]) -> Callable[[str, Path], Points]:
    """Every stored point of a run and its stages, by (run name, key): `points_of(uri, folder)`."""

    def read(uri: str, folder: Path) -> Points:
        client, link = client_of(uri), Link.load(folder)
        assert link is not None
        points: dict[tuple[str, str], Any] = {}
        for run_id in [link.run_id, *link.children.values()]:
            run = client.get_run(run_id)
            for key in run.data.metrics:
                history = client.get_metric_history(run_id, key)
                points[run.info.run_name, key] = sorted((m.step, m.value, m.timestamp) for m in history)
        return points

    return read


@pytest.fixture(scope="session")
def points_written() -> Callable[[Path], Points]:
    """Every point of a journal in the form of `points_of`, where its keys need no cleaning."""

    def read(folder: Path) -> Points:
        names: dict[int | None, str] = {None: folder.name}
        points: dict[tuple[str, str], Any] = {}
        for line, _ in read_lines(folder / "journal.jsonl"):
            if line["kind"] == "stage_start":
                names[line["stage"]] = f"{folder.name} / {line['name']}"
            if line["kind"] == "metrics":
                for key, value in line["values"].items():
                    points.setdefault((names[line["stage"]], key), []).append((line["step"], value, line["time"]))
        return {place: sorted(history) for place, history in points.items() if "?" not in place[1]}

    return read


@pytest.fixture(scope="session")
def assert_sent(
    points_of: Callable[[str, Path], Points], points_written: Callable[[Path], Points]
) -> Callable[[str, Path], None]:
    """A store holds the points of a run's journal and no others; keys that need cleaning are left out."""

    def check(uri: str, folder: Path) -> None:
        stored = {
            place: history for place, history in points_of(uri, folder).items() if not place[1].startswith("train/odd")
        }
        assert stored == points_written(folder)

    return check


@dataclass
class Beginning:
    """Two processes that began together, without a store."""

    database: Path
    output: str
    returncode: int
    sent: int


@pytest.fixture(scope="session")
def beginning(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Beginning:
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
def finished(
    beginning: Beginning, tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]
) -> tuple[str, Path]:
    """The address of a store and the folder of a run that is sent to it."""
    root = tmp_path_factory.mktemp("finished")
    shutil.copyfile(beginning.database, root / "mlflow.db")
    uri, folder = f"sqlite:///{root / 'mlflow.db'}", write_run(root / "run")
    assert sync(folder, uri) > 0
    return uri, folder
