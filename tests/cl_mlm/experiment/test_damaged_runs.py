"""A damaged run folder: the same command makes it whole again, to the bit, or names what is lost and the ways out."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
from verdict import compare

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.preparation import prepare
from cl_mlm.experiment.session import run_in
from cl_mlm.run_folder import RunFolder
from cl_mlm.storage.checkpoint import write_stage
from cl_mlm.storage.run_lookup import faults_of_finished
from cl_mlm.training.loop import StageTraining

WAYS_OUT = "bring it back as it was, and the same command goes on; or `run --again`"


class PowerCutError(Exception):
    pass


def make_config(make_fast, output, **changes):
    config = make_fast(output)
    config["checkpoint"] = {"every_steps": 4, "every_minutes": None, "reuse_stages": 0}
    config["strategies"] = {"ewc": {"weight": 10.0}}
    config["training"] |= {"steps": 8}
    return config | changes


@pytest.fixture(scope="module")
def whole(make_fast, tmp_path_factory):
    """The folder of a finished run that nothing has stopped; it keeps its last stage."""
    import torch

    torch.set_num_threads(1)
    return cl_mlm.run(make_config(make_fast, tmp_path_factory.mktemp("whole")), progress=False).folder


@pytest.fixture(scope="module")
def stopped(make_fast, tmp_path_factory):
    """The folder of the same run, ended in its second stage: two checkpoints, and journal lines after them."""
    output, take_step = tmp_path_factory.mktemp("stopped"), StageTraining.take_step

    def take_some(self, micro_batches):
        if (self.run.place.stage_index, self.run.place.step) == (1, 6):
            raise PowerCutError
        take_step(self, micro_batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageTraining, "take_step", take_some)
        with pytest.raises(PowerCutError):
            cl_mlm.run(make_config(make_fast, output), progress=False)
    return next(path for path in (output / "fast").iterdir() if path.name.startswith("ewc"))


@pytest.fixture(scope="module")
def prepared(whole):
    return prepare(load_config(whole / "config.yaml"))


@pytest.fixture
def copy_of(tmp_path):
    return lambda folder: shutil.copytree(folder, tmp_path / "runs" / "fast" / folder.name)


def go_on(folder, prepared):
    # A process of its own would have strategies of its own.
    return run_in(replace(prepared, strategies=deepcopy(prepared.strategies)), folder, progress=False)


def differences(whole, folder):
    """Returns what differs between two run folders, but for the place in which they were first written."""
    return [fault for fault in compare(whole, folder) if not fault.startswith("journal params /stage None output ")]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def assert_refused(folder, prepared, *words):
    """The run is refused in words that name its journal or table; nothing is changed by that, and nothing trained."""
    before = contents(folder)
    with pytest.raises(RunFolderError) as refused:
        go_on(folder, prepared)
    for word in (*words, WAYS_OUT):
        assert word in str(refused.value)
    assert contents(folder) == before


def lines_of(folder):
    return (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)


def delete(folder):
    (folder / "journal.jsonl").unlink()


def empty(folder):
    (folder / "journal.jsonl").write_bytes(b"")


def halve(folder):
    lines = lines_of(folder)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))


def change_a_value(folder):
    journal = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(journal.replace(b'"train/loss/stage":', b'"train/loss/other":', 1))


def leave_out_the_settings(folder):
    lines = [line for line in lines_of(folder) if b'"kind":"params"' not in line]
    (folder / "journal.jsonl").write_bytes(b"".join(lines))


def become_a_folder(folder):
    delete(folder)
    (folder / "journal.jsonl").mkdir()


HARMS = [delete, empty, halve, change_a_value, leave_out_the_settings, become_a_folder]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("kind", ["stopped", "whole"])
def test_a_journal_that_is_not_the_one_of_the_checkpoints_is_refused(harm, kind, copy_of, prepared, request):
    folder = copy_of(request.getfixturevalue(kind))
    harm(folder)
    assert_refused(folder, prepared, "journal.jsonl: ", "it must begin with the ", "when stages/00")


def test_a_journal_of_another_run_is_refused(stopped, whole, copy_of, prepared):
    folder = copy_of(stopped)
    shutil.copy(whole / "journal.jsonl", folder / "journal.jsonl")
    assert_refused(folder, prepared, "journal.jsonl: begins with other bytes")


def test_an_older_checkpoint_of_another_run_is_refused(whole, stopped, copy_of, prepared):
    folder = copy_of(whole)
    shutil.copytree(stopped / "stages" / "000", folder / "stages" / "000")
    (folder / "files.json").unlink()
    assert_refused(folder, prepared, "stages/000: is of another run, whose journal began otherwise")


def test_a_folder_in_the_place_of_a_file_is_named_with_the_way_out(whole, copy_of, prepared):
    folder = copy_of(whole)
    (folder / "versions.json").unlink()
    (folder / "versions.json").mkdir()
    with pytest.raises(RunFolderError, match=r"versions.json: must be a file, got a folder; move or delete it"):
        go_on(folder, prepared)


def double(lines):
    return [*lines, lines[-1]]


def flip(lines):
    return [*lines[:-1], lines[-1].replace(b'"time":1', b'"time":2')]


def swap(lines):
    return [*lines[:-2], lines[-1], lines[-2]]


def lose(lines):
    return [*lines[:-2], lines[-1]]


@pytest.mark.parametrize("harm", [double, flip, swap, lose], ids=lambda harm: harm.__name__)
def test_a_damaged_line_after_the_last_checkpoint_is_refused(harm, stopped, copy_of, prepared):
    folder = copy_of(stopped)
    (folder / "journal.jsonl").write_bytes(b"".join(harm(lines_of(folder))))
    assert_refused(folder, prepared, "journal.jsonl: bytes ")


def test_lines_that_are_lost_after_the_last_checkpoint_are_measured_again(stopped, whole, copy_of, prepared):
    folder = copy_of(stopped)
    *lines, last = lines_of(folder)
    (folder / "journal.jsonl").write_bytes(b"".join([*lines[:-2], last[:30]]))
    go_on(folder, prepared)
    assert differences(whole, folder) == []


def test_the_command_ends_with_2_and_names_the_journal(stopped, copy_of, cli):
    folder = copy_of(stopped)
    delete(folder)
    said = cli("resume", folder)
    assert (said.code, said.out) == (2, "")
    assert f"error: {folder}/journal.jsonl: is missing; it must begin with the " in said.err


def test_a_run_that_lost_its_journal_before_any_checkpoint_begins_anew(stopped, whole, copy_of, prepared):
    folder = copy_of(stopped)
    for name in ("stages", "steps"):
        shutil.rmtree(folder / name)
    delete(folder)
    shutil.copy(whole / "summary.json", folder)
    link = json.loads((folder / "mlflow.json").read_text())
    assert faults_of_finished(folder) is None  # the summary of nobody
    go_on(folder, prepared)
    assert differences(whole, folder) == []
    assert json.loads((folder / "mlflow.json").read_text())["run_id"] != link["run_id"]


def lose_file(path):
    path.unlink()


def cut_file(path):
    path.write_bytes(path.read_bytes()[:-5])


def replace_file(path):
    path.write_bytes(path.read_bytes()[::-1])


def test_tables_of_earlier_predictions_are_made_again(stopped, whole, copy_of, prepared, caplog):
    folder = copy_of(stopped)
    lose_file(RunFolder(folder).predictions("before"))
    replace_file(RunFolder(folder).predictions("0"))
    go_on(folder, prepared)
    assert differences(whole, folder) == []
    assert "predictions/0.parquet: " in caplog.text
    assert "it is made again from the model of that time" in caplog.text


@pytest.mark.parametrize("harm", [lose_file, cut_file, replace_file], ids=lambda harm: harm.__name__)
def test_a_table_whose_model_is_not_kept_is_refused(harm, whole, copy_of, prepared):
    folder = copy_of(whole)
    harm(RunFolder(folder).predictions("0"))
    assert_refused(folder, prepared, "predictions/0.parquet: ", "(checkpoint.keep_stages)")


def test_a_table_made_again_as_another_one_is_refused(stopped, copy_of, prepared, monkeypatch):
    from cl_mlm.experiment import lost_tables

    folder = copy_of(stopped)
    RunFolder(folder).predictions("0").unlink()
    monkeypatch.setattr(lost_tables, "scorable_columns", lambda *_: [])
    with pytest.raises(RunFolderError, match=r"predictions/0.parquet: is missing; made again .* it is another one"):
        go_on(folder, prepared)
    assert not RunFolder(folder).predictions("0").exists()


def test_a_table_lost_while_the_run_goes_on_is_named_at_its_end(make_fast, tmp_path, monkeypatch, one_thread):
    from cl_mlm.experiment.checkpoint_policy import CheckpointPolicy

    after_stage = CheckpointPolicy.after_stage

    def and_lose(self, run, record):
        after_stage(self, run, record)
        self._folder.predictions("0").unlink(missing_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointPolicy, "after_stage", and_lose)
        with pytest.raises(RunFolderError, match=r"predictions/0.parquet: is missing; the same command"):
            cl_mlm.run(make_config(make_fast, tmp_path), progress=False)
    assert len(cl_mlm.run(make_config(make_fast, tmp_path), progress=False).matrix) == 2


DERIVED = [
    "summary.json",
    "per_class.csv",
    "accuracy_matrix.csv",
    "matrices.json",
    "figures/accuracy_matrix.png",
    "versions.json",
    "config.yaml",
    "predictions/1.parquet",
    "predictions/before.parquet",
    "files.json",
]


@pytest.mark.parametrize("harm", [lose_file, cut_file, replace_file], ids=lambda harm: harm.__name__)
def test_whatever_a_finished_run_has_lost_is_written_again(harm, whole, copy_of, prepared, monkeypatch, caplog):
    folder = copy_of(whole)
    for name in DERIVED:
        harm(folder / name)
    monkeypatch.setattr("cl_mlm.experiment.running.train_stage", None)
    assert faults_of_finished(folder)
    go_on(folder, prepared)
    assert f"{folder.name} had finished, but files.json: " in caplog.text
    assert differences(whole, folder) == []
    assert faults_of_finished(folder) == []


@pytest.mark.parametrize("text", ["[]", '"finished"', "{}", '{"label": "naive"}', "null", "3"])
def test_a_summary_that_is_none_is_written_again(text, whole, copy_of):
    folder = copy_of(whole)
    (folder / "summary.json").write_text(text)
    assert faults_of_finished(folder)[0].startswith("summary.json: has ")


@pytest.mark.parametrize("text", ["[]", '"finished"', "{}", '{"label": "naive"}', "null", "3"])
def test_a_summary_that_is_none_counts_as_damaged_in_runs_without_an_inventory_too(text, whole, copy_of):
    folder = as_of_an_earlier_version(copy_of(whole))
    (folder / "summary.json").write_text(text)
    assert faults_of_finished(folder)[0].startswith("summary.json: is damaged: must ")


def test_a_run_that_was_killed_before_its_inventory_is_finished_by_the_same_command(whole, copy_of, prepared):
    folder = copy_of(whole)
    (folder / "files.json").unlink()
    assert faults_of_finished(folder) == ["files.json: is missing"]
    go_on(folder, prepared)
    assert differences(whole, folder) == []


def test_a_finished_run_is_handed_back_as_it_is(whole, copy_of, prepared):
    folder = copy_of(whole)
    before = contents(folder)
    assert not go_on(folder, prepared).is_new
    assert contents(folder) == before


def test_a_changed_checkpoint_is_a_fault_and_one_that_was_removed_is_told(whole, copy_of, prepared):
    folder = copy_of(whole)
    state = folder / "stages" / "001" / "strategies.safetensors"
    kept = state.read_bytes()
    state.write_bytes(kept[::-1])
    assert faults_of_finished(folder) == ["stages/001/strategies.safetensors: is damaged (its checksum differs)"]
    state.unlink()
    state.mkdir()
    assert faults_of_finished(folder) == ["stages/001/strategies.safetensors: is missing"]
    shutil.rmtree(folder / "stages")
    assert go_on(folder, prepared).warnings == [f"{folder}: stages/001 was removed: its model cannot be asked any more"]


def as_of_an_earlier_version(folder):
    """Takes from a run what earlier versions did not write: inventory, checksums, lengths of the journal."""
    lines = [json.loads(line) for line in lines_of(folder)]
    for line in lines:
        del line["line"], line["crc32"]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "files.json").unlink(missing_ok=True)
    for checkpoint in (folder / "stages").iterdir():
        record = json.loads((checkpoint / "record.json").read_text())
        del record["tables"]

        class Kept:
            def save(self, target, source=checkpoint / "model"):
                shutil.copytree(source, target)

        from cl_mlm.storage.checkpoint import read_stage

        write_stage(folder / "old", int(checkpoint.name), Kept(), read_stage(checkpoint)[0], record)
    shutil.rmtree(folder / "stages")
    (folder / "old").rename(folder / "stages")
    shutil.rmtree(folder / "steps", ignore_errors=True)
    return folder


def test_a_run_that_an_earlier_version_finished_is_finished(whole, copy_of, prepared):
    folder = as_of_an_earlier_version(copy_of(whole))
    assert not go_on(folder, prepared).is_new


def test_a_run_that_an_earlier_version_began_goes_on_with_a_flag(stopped, whole, copy_of, prepared):
    folder = as_of_an_earlier_version(copy_of(stopped))
    flag = "resumed from what an earlier version kept: whether the journal is whole is not known"
    result = go_on(folder, prepared)
    undisturbed = json.loads((whole / "summary.json").read_text())
    assert sorted(result.summary["flags"]) == sorted([flag, *undisturbed["flags"]])
    assert result.summary["accuracy_matrix"] == undisturbed["accuracy_matrix"]


def test_a_run_that_an_earlier_version_began_and_whose_journal_is_gone_is_refused(stopped, copy_of, prepared):
    folder = as_of_an_earlier_version(copy_of(stopped))
    delete(folder)
    assert_refused(folder, prepared, "journal.jsonl: does not say with which settings and versions")
