"""A kept stage that going on would not write again, and a folder in place of a file, are named with the ways out."""

import shutil

import pytest
from verdict import compare

import cl_mlm
from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.resuming import resume_run
from cl_mlm.run_folder import RunFolder
from cl_mlm.storage.run_lookup import faults_of_finished
from cl_mlm.storage.unmendable import lost_stages, misplaced


@pytest.fixture(scope="module")
def runs(make_fast, tmp_path_factory):
    """The folders of two finished runs with all stages kept, of two seeds."""
    import torch

    torch.set_num_threads(1)
    output, folders = tmp_path_factory.mktemp("kept"), []
    for seed in (0, 1):
        config = make_fast(output)
        config["training"] |= {"steps": 2}
        config |= {"seed": seed, "checkpoint": {"keep_stages": "all", "reuse_stages": 0}}
        folders.append(cl_mlm.run(config, progress=False).folder)
    return folders


@pytest.fixture
def copied(runs, tmp_path):
    return shutil.copytree(runs[0], tmp_path / "runs" / runs[0].name)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def of_another_run(stage, runs):
    shutil.rmtree(stage)
    shutil.copytree(runs[1] / "stages" / stage.name, stage)


DAMAGES = {
    "a model cut short": lambda stage, runs: cut(stage / "model" / "model.safetensors"),
    "no manifest": lambda stage, runs: (stage / "manifest.json").unlink(),
    "a manifest cut short": lambda stage, runs: cut(stage / "manifest.json"),
    "another run's stage": of_another_run,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_stage_before_the_last_is_refused_and_verify_names_it(damage, copied, runs, cli):
    DAMAGES[damage](copied / "stages" / "000", runs)
    with pytest.raises(RunFolderError, match=r"(?s)stages/000.*run --again"):
        resume_run(copied)
    answer = cli("verify", copied)
    assert answer.code == 1
    assert "stages/000" in answer.out


def test_without_the_damaged_stage_the_run_is_handed_back(copied):
    shutil.rmtree(copied / "stages" / "000")
    (warning,) = resume_run(copied).warnings
    assert "stages/000 was removed" in warning


def test_a_damaged_last_stage_is_made_again_to_the_bit(copied, runs):
    cut(copied / "stages" / "001" / "model" / "model.safetensors")
    assert lost_stages(RunFolder(copied)) == []
    resume_run(copied)
    assert compare(runs[0], copied) == []


@pytest.mark.parametrize("name", ["versions.json", "mlflow.json", "summary.json", "per_class.csv", "config.yaml"])
def test_a_folder_in_place_of_a_file_is_named(name, copied, cli):
    (copied / name).unlink()
    (copied / name).mkdir()
    (wrong,) = misplaced(RunFolder(copied))
    assert wrong.startswith(f"{copied / name}: must be a file, got a folder; move or delete it")
    answer = cli("verify", copied)
    assert (answer.code, name in answer.out) == (1, True)
    if name not in (
        "mlflow.json",
        "config.yaml",
    ):  # no result; told as a config that is gone
        with pytest.raises(RunFolderError, match=f"{name}: must be a file, got a folder; move or delete it"):
            resume_run(copied)


def test_a_folder_in_place_of_the_lock_is_named(copied, cli):
    (copied / ".lock").unlink()
    (copied / ".lock").mkdir()
    assert ".lock: must be a file" in cli("verify", copied).out
    (copied / "summary.json").unlink()
    with pytest.raises(RunFolderError, match=r"\.lock: must be a file, got a folder; move or delete it"):
        resume_run(copied)


@pytest.mark.parametrize("name", ["predictions", "figures", "steps/000-000000001"])
def test_a_file_in_place_of_a_folder_is_named(name, copied):
    shutil.rmtree(copied / name, ignore_errors=True)
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).touch()
    (copied / "summary.json").unlink()
    with pytest.raises(RunFolderError, match=f"{name}: must be a folder, got a file; move or delete it"):
        resume_run(copied)


@pytest.mark.parametrize("command", ["resume", "rerun"])
def test_of_another_runs_journal_the_journal_is_named_and_not_the_config(copied, runs, cli, command):
    shutil.copyfile(runs[1] / "journal.jsonl", copied / "journal.jsonl")
    answer = cli(command, copied)
    assert answer.code == 2
    assert "journal.jsonl: begins with other bytes" in answer.err or "journal.jsonl: has" in answer.err
    assert "was edited" not in answer.err


def test_an_edited_digest_in_the_inventory_is_found(copied, runs):
    path = copied / "files.json"
    text = path.read_text()
    place = text.index('"sha256": "', text.index("stages/000")) + len('"sha256": "')
    path.write_text(f"{text[:place]}{'0' if text[place] != '0' else '1'}{text[place + 1 :]}")
    assert faults_of_finished(copied) == ["files.json: is damaged (its checksum differs)"]
    resume_run(copied)
    assert compare(runs[0], copied) == []
