"""`verify` names everything that is not as a run wrote it, and finds nothing in a whole one."""

import json
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from killing import die_at

import cl_mlm
from cl_mlm.errors import RunFolderError


@pytest.fixture(scope="module")
def made(make_fast, tmp_path_factory):
    """A finished run of two stages, in a store of its own, and one that was cut off in its second stage."""
    root = tmp_path_factory.mktemp("made")
    layer = make_fast(root / "runs")
    layer["tracking"] = {"uri": f"sqlite:///{root}/mlflow.db", "log_every": 2}
    layer["training"] = {**layer["training"], "steps": 5}
    layer["checkpoint"] = {"keep_stages": "all", "reuse_stages": 0}
    result = cl_mlm.run(layer, progress=False, strategies={"replay": {"capacity": 8}})
    return result.folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / made.name))


def faults(folder):
    (found,) = cl_mlm.verify(folder)
    assert found.is_whole == (not found.faults)
    return [fault.what for fault in found.faults]


def test_a_whole_run_has_no_fault_and_a_line_for_every_part(folder, cli):
    said = cli("verify", folder)
    assert said.code == 0
    first, *lines = said.out.splitlines()
    assert first == f"{folder}: finished, nothing is damaged"
    parts = ["config", "versions", "journal", "summary", "checkpoints", "predictions", "tables and figures", "MLflow"]
    for part in parts:
        assert any(line.startswith(f"  {part}: ") and line.endswith("whole") for line in lines), part
    assert "3 tables" in said.out
    assert "fault:" not in said.out


ONLINE = ["stream.scenario=online", "stream.chunk_rows=8", "stream.evaluate_every=2", "training.epochs=1"]


@pytest.mark.parametrize(
    "settings",
    [ONLINE, ["strategies=[joint]", "evaluation.splits=[validation]"], ["training.patience=1", "tracking.log_every=7"]],
    ids=["online", "joint", "patience"],
)
def test_runs_of_other_kinds_have_no_fault(fast, settings):
    fast["training"] |= {"epochs": 2}
    assert faults(cl_mlm.run(fast, *settings, progress=False)) == []


def test_code_that_a_folder_names_is_not_run(folder, monkeypatch):
    edit(folder / "config.yaml", "name: files", "name: my_streams.made")
    monkeypatch.setattr("cl_mlm.check.kept_settings.load_config", lambda *_: pytest.fail("was loaded"))
    (found,) = cl_mlm.verify(folder)
    assert any("names code of its own" in note for note in found.notes)


def test_nothing_is_written_where_runs_are_verified(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert faults(folder) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def delete(path):
    path.unlink()


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        *((delete, name) for name in ("config.yaml", "summary.json", "predictions/before.parquet", "files.json")),
        *((delete, name) for name in ("stages/001/model/tokenizer.json", "mlflow.json", "figures/accuracy_matrix.png")),
        *((cut, name) for name in ("config.yaml", "versions.json", "journal.jsonl", "predictions/1.parquet")),
        *((cut, name) for name in ("accuracy_matrix.csv", "figures/forgetting_curves.png", "stages/001/record.json")),
        *((empty, name) for name in ("journal.jsonl", "matrices.json", "stages/000/manifest.json", "mlflow.json")),
        *(
            (flip, name)
            for name in ("files.json", "predictions/0.parquet", "figures/accuracy_matrix.png", "per_class.csv")
        ),
        *((flip, name) for name in ("stages/000/model/model.safetensors", "stages/001/strategies.safetensors")),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_named(folder, harm, name):
    harm(folder / name)
    named = "summary.json" if (harm, name) == (cut, "journal.jsonl") else name  # it contradicts the journal
    assert any(fault.startswith(named) for fault in faults(folder))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_damage_at_a_random_place_is_named(folder, seed):
    draw = random.Random(seed)
    beside = {folder / name for name in (".lock", "config.yaml")}  # of the config some settings may be edited
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path not in beside))
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(draw.choice([content, content[:place], content + b"x", b""]))
    (found,) = cl_mlm.verify(folder)
    is_link = path.name == "mlflow.json"  # a digit of an address that is not there any more
    assert found.faults or (is_link and found.notes), path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_edited_config_is_named_by_its_key(folder, cli):
    edit(folder / "config.yaml", "  steps: 5\n", "  steps: 6\n")
    said = cli("verify", folder)
    assert said.code == 1
    assert "fault: config.yaml: training.steps was 5 at the start, got 6" in said.out
    assert "set it back; or `cl-mlm run" in said.out


def test_settings_that_change_no_result_may_be_edited(folder):
    edit(folder / "config.yaml", "keep_stages: all", "keep_stages: last")
    assert faults(folder) == []


def test_a_number_that_was_edited_in_the_summary_is_named(folder):
    summary = json.loads((folder / "summary.json").read_text())
    summary["accuracy_matrix"][1][0] = 0.123
    (folder / "summary.json").write_text(json.dumps(summary))
    found = " ".join(faults(folder))
    assert "accuracy_matrix: labels-01 after stage 1 is 0.123 here and " in found
    assert "metrics.average_accuracy must be" in found
    assert "stages/001/record.json: its scores are not those of summary.json" in found
    assert "predictions/1.parquet: gives a score of" in found


def without(path, part):
    """Removes the last line that holds `part`."""
    lines = path.read_text().splitlines(keepends=True)
    del lines[max(i for i, line in enumerate(lines) if part in line)]
    path.write_text("".join(lines))


@pytest.mark.parametrize(
    "part", ['"train/loss/stage"', '"cost/steps"', '"accuracy/', '"validation/labels', '"stage":0,"value"']
)
def test_a_line_that_is_gone_from_the_journal_is_named(folder, part):
    without(folder / "journal.jsonl", part)
    assert any("journal" in fault for fault in faults(folder))


def test_a_point_that_stands_twice_in_the_journal_is_named(folder):
    path = folder / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, next(line for line in lines if "train/loss/stage" in line)]))
    assert any("journal.jsonl" in fault for fault in faults(folder))


def test_tables_of_predictions_that_were_swapped_are_named(folder):
    first, second = folder / "predictions" / "0.parquet", folder / "predictions" / "1.parquet"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert {fault.partition(":")[0] for fault in faults(folder)} >= {"predictions/0.parquet", "predictions/1.parquet"}


def test_an_unfinished_run_says_how_far_it_is_and_may_be_whole(fast, tmp_path, cli):
    fast["tracking"]["uri"] = f"sqlite:///{tmp_path}/mlflow.db"
    die_at(30, lambda: cl_mlm.run(fast, progress=False, strategies=["replay"]))
    (folder,) = tmp_path.glob("runs/fast/*")
    said = cli("verify", folder)
    assert (said.code, said.out.splitlines()[0]) == (0, f"{folder}: not finished: stage 2 of 2, nothing is damaged")
    delete(folder / "predictions" / "0.parquet")
    flip(folder / "stages" / "000" / "model" / "model.safetensors")
    said = cli("verify", folder)
    assert said.code == 1
    assert "fault: predictions/0.parquet: is missing" in said.out
    assert "fault: stages/000/model/model.safetensors: is damaged" in said.out


def test_each_run_of_an_experiment_is_verified(folder, made, cli):
    shutil.copytree(made, folder.with_name(f"{made.name}-2"))
    delete(folder / "predictions" / "0.parquet")
    said = cli("verify", folder.parent)
    assert said.code == 1
    assert "2 runs: 1 without a fault, 1 with faults" in said.out
    assert [one.is_whole for one in cl_mlm.verify(folder.parent)] == [False, True]


def test_a_folder_without_a_run_is_refused(tmp_path, cli):
    for place, text in ((tmp_path, "holds no run"), (tmp_path / "none", "no such folder")):
        said = cli("verify", place)
        assert said.code == 2
        assert text in said.err
        with pytest.raises(RunFolderError, match=text):
            cl_mlm.verify(place)


@pytest.fixture
def store(folder, made, tmp_path):
    """A copy of the store, of which the copied run is told."""
    path = tmp_path / "mlflow.db"
    shutil.copy(made.parents[2] / "mlflow.db", path)
    link = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(
        json.dumps({**link, "sha256": None, "uri": f"sqlite:///{path}", "database": ""})
    )
    return path


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM metrics WHERE key = 'train/loss/stage' AND step = 2", "points in the store"),
        ("UPDATE runs SET status = 'FAILED'", "the run is FAILED in the store, FINISHED in the journal"),
        ("UPDATE runs SET lifecycle_stage = 'deleted'", "stage 1 was deleted in the store"),
        ("UPDATE runs SET run_uuid = 'x' WHERE name LIKE '%labels-02'", "stage 1 is missing in the store"),
    ],
)
def test_what_mlflow_lacks_is_named_with_the_command_that_sends_it(folder, store, statement, told, cli):
    assert faults(folder) == []
    database = sqlite3.connect(store)
    with database:
        database.execute(statement)
    database.close()
    said = cli("verify", folder)
    assert said.code == 1
    assert told in said.out
    assert f"`cl-mlm sync {folder}` sends what is missing" in said.out


@pytest.mark.parametrize(
    "uri", ["sqlite:///{}/none/mlflow.db", "http://me:secret@127.0.0.1:9", "postgresql://a:secret@h/d"]
)
def test_a_store_out_of_reach_is_a_note_and_none_is_made(folder, tmp_path, uri, cli):
    link = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(
        json.dumps({**link, "sha256": None, "uri": uri.format(tmp_path), "database": ""})
    )
    said = cli("verify", folder)
    assert said.code == 0
    assert "not reachable, so it is not compared" in said.out
    assert "secret" not in said.out
    assert not (tmp_path / "none").exists()
