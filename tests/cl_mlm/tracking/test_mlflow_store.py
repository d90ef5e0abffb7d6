"""Opening a store and asking it: what is made, what is refused, what is kept quiet; on SQLite files."""

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cl_mlm.tracking import mlflow_store as store
from cl_mlm.tracking.mlflow_delivery import Delivery, Link
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
        record.levelno = logging.CRITICAL
        assert handler.filter(record)
        other = logging.LogRecord("mlflow", logging.INFO, "", 0, "chatter", None, None)
        other.thread = 0
        assert handler.filter(other)
    assert handler.filter(logging.LogRecord("mlflow", logging.INFO, "", 0, "chatter", None, None))


MAKER = """
import sys, time
from pathlib import Path
from cl_mlm.tracking import mlflow_store as store
path = Path(sys.argv[1])
with store._alone(path):
    store._making(path).mkdir()
    (store._making(path) / "made.db").write_text("x" * 1000)
    print("making", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("is_made", [False, True], ids=["before the store was there", "after"])
def test_what_a_killed_maker_of_a_store_leaves_is_removed_by_the_next_run(tmp_path, empty_store, is_made):
    path = tmp_path / "mlflow.db"
    with subprocess.Popen([sys.executable, "-c", MAKER, str(path)], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout.readline() == "making\n"
        if is_made:
            shutil.copyfile(empty_store, path)
        maker.kill()
    assert {".mlflow.db.making", ".mlflow.db.lock"} <= {file.name for file in tmp_path.iterdir()}
    store.open_store(f"sqlite:///{path}")
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_who_waited_for_the_lock_of_a_store_takes_it_anew(tmp_path):
    """The file that was waited for is gone by then: a third one, which makes it again, must not pass beside."""
    path, inside, most = tmp_path / "mlflow.db", [], []

    def pass_through():
        for _ in range(20):
            with store._alone(path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=pass_through) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (80, 1)
    assert [*tmp_path.iterdir()] == []


def test_no_file_of_a_store_stays_open_when_it_was_made_or_sent_to(empty_store, uri, write_run, send, tmp_path):
    assert send(write_run(tmp_path / "run"), uri) is None
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that listed the folder
            links.append(os.readlink(descriptor))  # noqa: PTH115 - what is deleted is told by its text alone
    assert not [link for link in links if "made.db" in link or link.startswith(str(tmp_path))]


def test_a_sender_whose_time_is_over_leaves_the_rest_and_says_so(uri, write_run, tmp_path):
    folder = write_run(tmp_path / "run")
    delivery = Delivery(folder, folder / "journal.jsonl", uri, should_stop=lambda: True)
    assert delivery.send() == 0
    assert sync(folder, uri) > 0
