"""What `cl-mlm ui` finds out before it serves: the store, the port, the experiment and the page; no server starts."""

import socket
import sys

import pytest

from cl_mlm.errors import ConfigError
from cl_mlm.tracking import mlflow_ui
from cl_mlm.tracking.mlflow_store import TrackingError

pytestmark = [
    pytest.mark.usefixtures("in_a_hurry"),
    # MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]


@pytest.mark.parametrize("content", [None, b"", b"no database" * 999])
def test_a_missing_or_empty_store_is_refused_and_none_is_made(tmp_path, content):
    path = tmp_path / "mlflow.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mlflow.db: (no such file|must be an MLflow store)"):
        mlflow_ui.refuse_missing(f"sqlite:///{path}")
    assert (path.read_bytes() if path.exists() else None) == content


def test_a_folder_is_no_store(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        mlflow_ui.refuse_missing(f"sqlite:///{tmp_path}")


def test_a_store_without_runs_is_refused(uri, client_of, tmp_path, beginning, empty_store):
    mlflow_ui.refuse_missing(f"sqlite:///{empty_store}")
    with pytest.raises(ConfigError, match=r"holds no runs; `cl-mlm run` tracks"):
        mlflow_ui.experiment_to_show(f"sqlite:///{empty_store}", None)


def test_the_experiment_with_the_newest_run_is_shown(finished):
    uri, _ = finished
    identity, name = mlflow_ui.experiment_to_show(uri, None)
    assert name == "quickstart"
    assert mlflow_ui.experiment_to_show(uri, "quickstart") == (identity, name)
    assert mlflow_ui.experiment_to_show(uri, "begun")[1] == "begun"


def test_an_unknown_experiment_is_told_with_those_that_are_there(finished):
    with pytest.raises(ConfigError, match=r"no experiment 'quickstrat' \(did you mean .*\?\); it has .*begun"):
        mlflow_ui.experiment_to_show(finished[0], "quickstrat")


@pytest.mark.parametrize("uri", ["http://me:s3cret@127.0.0.1:9", "nonsense://x", "postgresql+nodriver://me:s3cret@h/d"])
def test_a_store_that_cannot_be_read_is_told_without_its_password(uri):
    with pytest.raises(TrackingError, match=r"not reachable|not usable") as told:
        mlflow_ui.experiment_to_show(uri, None)
    assert "s3cret" not in str(told.value)


def test_a_taken_port_is_refused_with_a_free_one():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(mlflow_ui.PortError, match=rf"port {port} is taken; .* cl-mlm ui --port (\d+)") as told:
            mlflow_ui.listen(port)
    free = int(str(told.value).rpartition(" ")[2])
    with mlflow_ui.listen(free) as listener, pytest.raises(mlflow_ui.PortError, match="is taken"):
        mlflow_ui.listen(listener.getsockname()[1])


def test_the_page_is_that_of_training_runs_and_charts():
    page = "/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
    assert mlflow_ui.runs_page("http://tracker:5000/", "7") == f"http://tracker:5000{page}"
    assert mlflow_ui.address_of("http://me:pass@tracker:5000", 1) == "http://tracker:5000"
    assert mlflow_ui.address_of("sqlite:///a.db", 5001) == "http://127.0.0.1:5001"


@pytest.mark.parametrize(
    ("variable", "is_terminal", "opens"),
    [("DISPLAY", True, True), ("BROWSER", True, True), ("DISPLAY", False, False), ("NOTHING", True, False)],
)
def test_a_browser_is_opened_where_somebody_sees_it(monkeypatch, variable, is_terminal, opens):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "x")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    assert mlflow_ui.can_open_browser() == opens
