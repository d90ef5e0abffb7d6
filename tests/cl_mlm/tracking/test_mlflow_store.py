"""Opening a store and asking it: what is made, what is refused, what is kept quiet; on SQLite files."""

import logging

import pytest

from cl_mlm.tracking import mlflow_store as store
from cl_mlm.tracking.mlflow_delivery import Link
from cl_mlm.tracking.mlflow_sender import sync
from cl_mlm.tracking.mlflow_store import TrackingError

pytestmark = [
    pytest.mark.usefixtures("in_a_hurry"),
    # MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]


def test_a_new_store_is_made_without_a_word_on_the_terminal(beginning):
    assert (beginning.output, beginning.returncode) == ("", 0)


def test_two_runs_that_begin_together_share_the_store_and_the_experiment(beginning, runs_of):
    names = [run.info.run_name for run in runs_of(f"sqlite:///{beginning.database}", "begun")]
    assert sorted(name for name in names if name in ("mine", "other")) == ["mine", "other"]
    assert beginning.sent > 0


def test_a_new_store_leaves_only_itself_and_its_artifacts(beginning):
    assert sorted(path.name for path in beginning.database.parent.iterdir()) == ["mlflow.db", "mlruns"]


def test_artifacts_lie_beside_the_database(finished):
    _, folder = finished
    stored = folder.parent / "mlruns" / "quickstart" / Link.load(folder).run_id / "artifacts" / "config.yaml"
    assert stored.read_text() == "seed: 0\n"


def test_a_deleted_experiment_is_refused_with_the_way_back(uri, tmp_path, write_run, send, client_of):
    folder, client = write_run(tmp_path / "run"), client_of(uri)
    experiment = client.create_experiment("quickstart")
    client.delete_experiment(experiment)
    reason = send(folder, uri)
    assert f"mlflow experiments restore --experiment-id {experiment}" in reason
    with pytest.raises(TrackingError, match="deleted in MLflow, got 'quickstart'"):
        sync(folder, uri)


def test_a_deleted_run_is_refused_with_the_way_back(uri, tmp_path, write_run, send, client_of):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    run_id = Link.load(folder).run_id
    client_of(uri).delete_run(run_id)
    with pytest.raises(TrackingError, match=f"mlflow runs restore --run-id {run_id}"):
        sync(folder, uri)


def test_an_experiment_made_by_another_run_meanwhile_is_used(uri, tmp_path, monkeypatch, write_run, client_of):
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
