"""What a store holds of a journal that was sent: every point once, whatever was sent before; on SQLite files."""

import json
import shutil
import sqlite3
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_mlm.tracking import mlflow_delivery as delivery
from cl_mlm.tracking.journal import Journal, read_lines
from cl_mlm.tracking.mlflow_delivery import Link
from cl_mlm.tracking.mlflow_sender import sync

pytestmark = [
    pytest.mark.usefixtures("in_a_hurry"),
    # MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]


def test_histories_have_the_journals_values_steps_and_times(finished, assert_sent):
    uri, folder = finished
    assert_sent(uri, folder)


def test_one_parent_run_has_one_child_per_stage(finished, client_of, runs_of):
    uri, folder = finished
    link = Link.load(folder)
    children = [run for run in runs_of(uri) if run.data.tags.get("mlflow.parentRunId") == link.run_id]
    assert {run.info.run_id for run in children} == set(link.children.values())
    assert {run.info.run_name for run in children} == {f"{folder.name} / Weather & Sky", f"{folder.name} / Music"}
    assert client_of(uri).get_run(link.children[1]).info.run_name == f"{folder.name} / Music"
    assert len(runs_of(uri)) == 3


def test_stages_of_two_runs_have_names_of_their_own(uri, write_run, runs_of, tmp_path):
    long = "b" * 249
    for name in ("naive-seed0-1", long):
        assert sync(write_run(tmp_path / name), uri) > 0
    names = [run.info.run_name for run in runs_of(uri)]
    assert len(names) == len({*names}) == 6
    assert f"{long[:242]} / Music" in names  # MLflow takes 250 characters


def test_states_and_their_times_are_the_journals(finished, client_of):
    uri, folder = finished
    lines = [line for line, _ in read_lines(folder / "journal.jsonl")]
    run = client_of(uri).get_run(Link.load(folder).run_id)
    assert (run.info.status, run.info.start_time, run.info.end_time) == (
        "FINISHED",
        lines[0]["time"],
        lines[-1]["time"],
    )


def test_params_tags_and_artifacts_arrive_on_the_parent(finished, client_of):
    uri, folder = finished
    client, run_id = client_of(uri), Link.load(folder).run_id
    run = client.get_run(run_id)
    assert run.data.params["seed"] == "0"
    assert run.data.params["long"] == "x" * 5997 + "..."
    assert run.data.tags["stream"] == "phrasebook"
    assert [file.path for file in client.list_artifacts(run_id)] == ["config.yaml", "figures"]
    assert [file.path for file in client.list_artifacts(run_id, "figures")] == ["figures/matrix.txt"]


def test_a_key_that_mlflow_does_not_take_is_changed_and_stays_unique(finished, points_of):
    uri, folder = finished
    odd = [key for _, key in points_of(uri, folder) if key.startswith("train/odd")]
    assert len(set(odd)) == 1
    assert delivery._key("train/odd?") != delivery._key("train/odd!")


def test_more_entries_than_mlflow_takes_at_once_are_all_sent(uri, tmp_path, send, client_of):
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


def test_sending_the_same_lines_again_doubles_nothing(uri, tmp_path, write_run, send, points_of):
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


def test_a_sender_that_died_before_noting_its_runs_makes_no_second_ones(
    uri, tmp_path, write_run, send, runs_of, points_of
):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    before = points_of(uri, folder)
    (folder / "mlflow.json").unlink()
    assert sync(folder, uri) > 0
    assert len(runs_of(uri)) == 3
    assert points_of(uri, folder) == before


def test_a_sender_that_died_in_the_middle_goes_on_from_there(
    uri, tmp_path, monkeypatch, write_run, send, runs_of, assert_sent
):
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
    assert_sent(uri, folder)
    assert len(runs_of(uri)) == 3


def test_an_offset_beyond_a_shortened_journal_starts_over(uri, tmp_path, write_run, send, assert_sent):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    link = Link.load(folder)
    link.offset += 10_000
    link.save(folder)
    assert sync(folder) > 0
    assert_sent(uri, folder)


def test_a_resumed_run_is_running_again_then_finished(uri, tmp_path, send, client_of, runs_of):
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


def test_a_store_that_lost_the_run_gets_everything_again(uri, beginning, tmp_path, write_run, send, assert_sent):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    shutil.copyfile(beginning.database, tmp_path / "other.db")
    link = Link.load(folder)
    link.uri = other
    link.save(folder)
    assert sync(folder) > 0
    assert_sent(other, folder)


def test_a_second_sync_sends_nothing(uri, tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    assert sync(folder, uri) == len(list(read_lines(folder / "journal.jsonl")))
    assert sync(folder, uri) == 0


def test_sync_goes_where_the_run_went_before(uri, tmp_path, write_run, send):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    assert sync(folder) == 0
    assert Link.load(folder).uri == uri


def test_a_damaged_note_is_made_anew(uri, tmp_path, write_run, send, runs_of):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    (folder / "mlflow.json").write_text("{")
    assert sync(folder, uri) > 0
    assert len(runs_of(uri)) == 3


@pytest.mark.parametrize(
    "edit",
    [
        lambda link: link["children"].update({"1": "0" * 32}),
        lambda link: link.update(offset=link["offset"] + 1),
        lambda link: link.update(run_id="1" * 32),
    ],
)
def test_an_edited_note_is_made_anew_and_everything_is_there_once(uri, tmp_path, write_run, send, edit, assert_sent):
    folder = write_run(tmp_path / "run")
    send(folder, uri)
    link = json.loads((folder / "mlflow.json").read_text())
    edit(link)
    (folder / "mlflow.json").write_text(json.dumps(link))
    assert sync(folder, uri) > 0
    assert_sent(uri, folder)


def test_the_note_of_another_run_in_the_same_store_sends_nothing_to_that_run(
    uri, tmp_path, write_run, send, assert_sent, points_of
):
    first = write_run(tmp_path / "first")
    time.sleep(0.002)  # runs are told apart by the millisecond of their start
    second = write_run(tmp_path / "second")
    for folder in (first, second):
        send(folder, uri)
    before = points_of(uri, second)
    shutil.copyfile(second / "mlflow.json", first / "mlflow.json")
    assert sync(first, uri) > 0
    assert points_of(uri, second) == before
    assert_sent(uri, second)


def test_an_artifact_that_is_gone_is_told_and_the_rest_is_sent(uri, tmp_path, caplog, write_run, client_of):
    folder = write_run(tmp_path / "run")
    (folder / "config.yaml").unlink()
    assert sync(folder, uri) > 0
    assert "artifact config.yaml is gone" in caplog.text
    assert client_of(uri).get_run(Link.load(folder).run_id).info.status == "FINISHED"


@given(st.text(max_size=300))
def test_every_key_becomes_one_that_mlflow_takes(key):
    from mlflow.utils.validation import _validate_metric_name

    clean = delivery._key(key)
    _validate_metric_name(clean)
    assert len(clean) <= 250
