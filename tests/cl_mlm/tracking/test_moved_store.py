"""A folder with database, artifacts and runs is moved or copied: everything is found in its new place."""

import logging
import shutil
import sqlite3
from pathlib import Path

import pytest

from cl_mlm.tracking.artifact_folder import adopt_artifacts
from cl_mlm.tracking.journal import Journal
from cl_mlm.tracking.mlflow_delivery import Link
from cl_mlm.tracking.mlflow_sender import sync
from cl_mlm.tracking.mlflow_store import open_store

pytestmark = [
    pytest.mark.usefixtures("in_a_hurry"),
    # MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]


@pytest.fixture
def clone(beginning, tmp_path, write_run):
    """A folder with a database and a run that is sent to it."""
    root = tmp_path / "clone"
    run = write_run(root / "runs" / "quickstart" / "run")
    shutil.copyfile(beginning.database, root / "mlflow.db")
    assert sync(run, f"sqlite:///{root / 'mlflow.db'}") > 0
    return root


def read_artifact(root):
    """Returns the content of an artifact as MLflow finds it."""
    client = open_store(f"sqlite:///{root / 'mlflow.db'}")
    run_id = Link.load(root / "runs" / "quickstart" / "run").run_id
    target = root.parent / "downloaded"
    target.mkdir(exist_ok=True)
    return Path(client.download_artifacts(run_id, "config.yaml", str(target))).read_text()


def locations(root):
    with sqlite3.connect(root / "mlflow.db") as connection:
        rows = connection.execute("SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs")
        return {row for (row,) in rows if "quickstart" in row}


def test_artifacts_are_found_after_the_folder_was_moved(clone, tmp_path):
    moved = clone.rename(tmp_path / "another name")
    assert read_artifact(moved) == "seed: 0\n"
    assert len(locations(moved)) == 4  # an experiment, a run and its two stages
    assert all(location.startswith(f"{moved}/mlruns/quickstart") for location in locations(moved))


def test_a_copy_has_artifacts_of_its_own(clone, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(clone, copy)
    next(copy.glob("mlruns/quickstart/*/artifacts/config.yaml")).write_text("seed: 1\n")
    assert read_artifact(copy) == "seed: 1\n"
    assert read_artifact(clone) == "seed: 0\n"


def test_a_folder_is_moved_twice(clone, tmp_path):
    first = clone.rename(tmp_path / "first")
    read_artifact(first)
    assert read_artifact(first.rename(tmp_path / "second")) == "seed: 0\n"


def test_what_lies_elsewhere_stays(clone, tmp_path):
    before = locations(clone)
    (tmp_path / "alone").mkdir()
    shutil.copyfile(clone / "mlflow.db", tmp_path / "alone" / "mlflow.db")
    adopt_artifacts(tmp_path / "alone" / "mlflow.db")
    (tmp_path / "link").symlink_to(clone)
    adopt_artifacts(tmp_path / "link" / "mlflow.db")
    assert locations(tmp_path / "alone") == locations(clone) == before


def test_the_artifacts_of_a_name_with_odd_characters_move_too(beginning, tmp_path, write_run):
    root = tmp_path / "10%_a'b"
    run = write_run(root / "runs" / "quickstart" / "run")
    shutil.copyfile(beginning.database, root / "mlflow.db")
    sync(run, f"sqlite:///{root / 'mlflow.db'}")
    assert read_artifact(root.rename(tmp_path / "20%_a'b")) == "seed: 0\n"


@pytest.mark.parametrize("content", [b"", b"no database" * 999])
def test_another_file_is_left_alone(tmp_path, content, caplog):
    (tmp_path / "a.db").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        adopt_artifacts(tmp_path / "a.db")
    assert (tmp_path / "a.db").read_bytes() == content
    assert bool(caplog.messages) == bool(content)


def test_sync_sends_the_rest_to_the_store_that_was_moved_along(clone, tmp_path):
    moved = clone.rename(tmp_path / "moved")
    run = moved / "runs" / "quickstart" / "run"
    with Journal(run / "journal.jsonl") as journal:
        journal.metrics({"late": 1.0}, 7)
    assert sync(run) == 1
    assert not clone.exists()
    client = open_store(f"sqlite:///{moved / 'mlflow.db'}")
    assert client.get_run(Link.load(run).run_id).data.metrics["late"] == 1.0
    assert Link.load(run).uri == f"sqlite:///{moved / 'mlflow.db'}"


def test_the_command_names_the_store_that_was_moved_along(clone, tmp_path, cli):
    moved = clone.rename(tmp_path / "moved")
    said = cli("sync", str(moved / "runs" / "quickstart" / "run"))
    assert (said.code, said.out) == (0, f"sent 0 journal lines to sqlite:///{moved / 'mlflow.db'}\n")
    assert not clone.exists()


def test_a_link_of_an_earlier_version_is_read(clone):
    run = clone / "runs" / "quickstart" / "run"
    text = (run / "mlflow.json").read_text()
    kept = text[: text.index(',\n "database"')] + "\n}\n"
    (run / "mlflow.json").write_text(kept)
    assert sync(run) == 0
