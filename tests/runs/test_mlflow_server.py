"""The demonstration's config against a real tracking server, read back through MLflow's own client."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import cl_mlm

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
START_SECONDS = 90


@pytest.fixture(scope="module")
def server(empty_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_store, folder / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--workers",
        "1",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *store,
    ]
    with (folder / "log.txt").open("w") as log:
        environment = {"MLFLOW_TRACKING_URI": "", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **environment})
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while not is_up(address):
            assert process.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def is_up(address):
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def tracked(server, tmp_path_factory):
    from mlflow.tracking import MlflowClient

    result = cl_mlm.run(
        CONFIG, "limit=8", f"output={tmp_path_factory.mktemp('runs')}", f"tracking.uri={server}", arm="replay"
    )
    assert result.warnings == []
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("quickstart")
    return result, client, client.search_runs([experiment.experiment_id])


def split_family(runs):
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def test_one_parent_and_one_child_a_stage_are_finished(tracked):
    _, _, runs = tracked
    parents, children = split_family(runs)
    assert len(parents) == 1
    assert len(children) == 5
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parents[0].info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_accuracy_histories_are_the_columns_of_the_matrix(tracked):
    result, client, runs = tracked
    (parent,), _ = split_family(runs)
    for j, column in enumerate(result.summary["columns"]):
        history = sorted(
            client.get_metric_history(parent.info.run_id, f"accuracy/{column}"), key=lambda point: point.step
        )
        assert [point.step for point in history] == list(range(j, 5))
        assert [point.value for point in history] == [result.matrix[i, j] for i in range(j, 5)]


def test_summary_metrics_params_and_tags_are_there(tracked):
    result, _, runs = tracked
    (parent,), _ = split_family(runs)
    assert parent.data.metrics["summary/average_accuracy"] == result.metrics["average_accuracy"]
    assert parent.data.params["strategies.replay.capacity"] == "200"
    assert parent.data.tags["stream/fingerprint"] == result.summary["stream"]["fingerprint"]


def test_artifacts_can_be_read_back(tracked):
    result, client, runs = tracked
    (parent,), _ = split_family(runs)
    found = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"config.yaml", "summary.json", "accuracy_matrix.csv", "matrices.json", "figures"} <= found
    local = client.download_artifacts(parent.info.run_id, "summary.json")
    assert Path(local).read_bytes() == (result.folder / "summary.json").read_bytes()


def test_ui_names_the_page_of_a_server_that_is_not_its_own(tracked, server, cli):
    _, client, _ = tracked
    identity = client.get_experiment_by_name("quickstart").experiment_id
    said = cli("ui", "--uri", server)
    page = f"{server}/#/experiments/{identity}/runs?workflowType=machine_learning&compareRunsMode=CHART"
    assert said.code == 0
    assert page in said.out.splitlines()
