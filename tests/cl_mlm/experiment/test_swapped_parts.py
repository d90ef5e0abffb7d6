"""What is whole and stands in the wrong place, or is not what a run wrote: named, and never taken for the right one."""

import json
import shutil

import pytest
import torch
from killing import die_at
from safetensors.torch import load_file

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.preparation import prepare
from cl_mlm.experiment.prompt_run import _load
from cl_mlm.experiment.shared_stages import FOLDER
from cl_mlm.results.runs import load_run
from cl_mlm.results.summary_file import summary_faults
from cl_mlm.run_folder import MANIFEST
from cl_mlm.storage.checkpoint import last_good
from cl_mlm.storage.state_files import damage


@pytest.fixture(scope="module")
def config(make_fast, tmp_path_factory):
    root = tmp_path_factory.mktemp("swapped")
    found = make_fast(root / "runs")
    found["training"] |= {"steps": 4}
    found["checkpoint"] = {"keep_stages": "all", "reuse_stages": 0, "every_steps": 2, "every_minutes": None}
    found["tracking"] = {"uri": f"sqlite:///{root}/mlflow.db", "log_every": 2}
    torch.set_num_threads(1)
    return found


@pytest.fixture(scope="module")
def made(config):
    """Two finished runs that differ in their seed."""
    return [cl_mlm.run(config, seed=seed, progress=False).folder for seed in (0, 1)]


@pytest.fixture
def pair(made, tmp_path):
    return [shutil.copytree(folder, tmp_path / "runs" / "fast" / folder.name) for folder in made]


@pytest.mark.parametrize("harm", ["gone", "edited"])
def test_a_run_that_is_not_as_it_was_finished_is_not_compared_with_itself(harm, pair, cli):
    folder = pair[0]
    if harm == "gone":
        (folder / "per_class.csv").unlink()
    else:
        text = (folder / "summary.json").read_text()
        (folder / "summary.json").write_text(text.replace('"average_accuracy": ', '"average_accuracy": 0.0', 1))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    said = cli("rerun", folder)
    assert said.code == 2
    assert "is not as it was finished: " in said.err
    assert ("per_class.csv: is missing" if harm == "gone" else "summary.json: ") in said.err
    assert f"`cl-mlm resume {folder}`" in said.err
    assert all(path.read_bytes() == content for path, content in before.items())


def test_one_more_run_does_not_mend_a_finished_one_that_is_damaged(config, tmp_path):
    layer = {**config, "output": str(tmp_path / "runs")}
    first = cl_mlm.run(layer, progress=False)
    (first.folder / "per_class.csv").unlink()
    again = cl_mlm.run(layer, again=True, progress=False)
    assert again.folder.name == f"{first.folder.name}-2"
    assert not (first.folder / "per_class.csv").exists()
    assert again.summary["accuracy_matrix"] == first.summary["accuracy_matrix"]


def test_a_summary_that_was_edited_or_is_another_runs_is_not_compared(pair):
    first, second = pair
    load_run(first)
    shutil.copy(second / "summary.json", first / "summary.json")
    with pytest.raises(RunFolderError, match=r"summary\.json: .*it is not what the run wrote; `cl-mlm resume"):
        load_run(first)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("settings", "limit"), "many", "settings.limit: must be an integer or null, got 'many'"),
        (("stream", "labels"), 5, "stream.labels: must be an object, got 5"),
        (("tasks", "a"), 5, "tasks.a: must be an object, got 5"),
    ],
)
def test_values_of_a_damaged_summary_are_named(path, value, told, made):
    summary = json.loads((made[0] / "summary.json").read_text())
    assert summary_faults(summary) == []
    summary[path[0]][path[1]] = value
    assert summary_faults(summary) == [told]


def test_shared_stages_that_were_swapped_are_told_and_trained_again(config, tmp_path, caplog):
    layer = {**config, "output": str(tmp_path / "runs"), "checkpoint": {"reuse_stages": 1, "keep_stages": "all"}}
    layer["strategies"] = []
    results = [cl_mlm.run(layer, seed=seed, progress=False) for seed in (0, 1)]
    first, second = sorted((tmp_path / "runs" / FOLDER).glob("*-trained"))
    first.rename(tmp_path / "other")
    second.rename(first)
    (tmp_path / "other").rename(second)
    layer["strategies"] = {"replay": {"capacity": 8}}
    found = cl_mlm.run(layer, progress=False)
    assert found.summary["reused"] == []
    assert "is not what its name says; the stage is trained again" in caplog.text
    kept = [load_file(r.folder / "stages/000/model/model.safetensors") for r in (results[0], found)]
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())
    assert len(cl_mlm.run(layer, strategies={"ewc": {}}, progress=False).summary["reused"]) == 1  # written anew


def test_stages_that_were_swapped_are_damaged(pair):
    stages = pair[0] / "stages"
    assert last_good(stages) == (stages / "001", [])
    (stages / "000").rename(stages / "002")
    found, faults = last_good(stages)
    assert found == stages / "001"
    assert faults == [f"{stages / '002'}: is not what its name says, but of stage 0"]


def test_steps_that_were_swapped_are_damaged(config, tmp_path):
    layer = {**config, "output": str(tmp_path / "runs"), "training": {**config["training"], "steps": 6}}
    assert die_at(11, lambda: cl_mlm.run(layer, progress=False)) != 0
    (steps,) = (tmp_path / "runs").glob("fast/*/steps")
    names = sorted(path.name for path in steps.iterdir())
    assert names == ["001-000000002", "001-000000004"]
    (steps / names[1]).rename(steps / "001-000000006")
    assert last_good(steps) == (
        steps / names[0],
        [f"{steps / '001-000000006'}: is not what its name says, but of step 4"],
    )


def test_a_checkpoint_holds_what_its_manifest_names_and_nothing_else(pair):
    stage = pair[0] / "stages" / "001"
    (stage / ".DS_Store").write_text("")
    assert damage(stage) is None
    shutil.copytree(pair[1] / "stages" / "001" / "model", stage / "scored" / "model")
    assert damage(stage).endswith(": does not belong to the checkpoint")
    shutil.rmtree(stage / "scored")
    (stage / MANIFEST).write_text("{}")
    assert damage(stage) is not None
    (stage / MANIFEST).write_text('{"a":' * 100_000)
    assert "cannot be read" in damage(stage)


def test_a_run_that_goes_on_keeps_the_distance_of_its_curves(config, tmp_path):
    layer = {**config, "output": str(tmp_path / "runs"), "tracking": {**config["tracking"], "log_every": 3}}
    assert die_at(6, lambda: cl_mlm.run(layer, progress=False)) != 0
    layer["tracking"]["log_every"] = 2
    with pytest.raises(RunFolderError, match=r"cannot go on with tracking\.log_every=2, .* every 3 steps; set it back"):
        cl_mlm.run(layer, progress=False)
    layer["tracking"]["log_every"] = 3
    folder = cl_mlm.run(layer, progress=False).folder
    layer["tracking"]["log_every"] = 2
    assert cl_mlm.run(layer, progress=False).folder == folder  # of a finished run it changes nothing


def test_mlflow_runs_of_another_run_are_named(pair):
    links = [json.loads((folder / "mlflow.json").read_text()) for folder in pair]
    assert all(found.is_whole for folder in pair for found in cl_mlm.verify(folder))
    swapped = {**links[0], "run_id": links[1]["run_id"], "children": links[1]["children"], "sha256": None}
    (pair[0] / "mlflow.json").write_text(json.dumps(swapped))
    (found,) = cl_mlm.verify(pair[0])
    told = [fault.what for fault in found.faults]
    assert "MLflow: the run that mlflow.json names is another run's" in told
    assert "MLflow: stage 1 that mlflow.json names is another run's" in told


def test_a_damaged_model_is_not_asked(pair):
    weights = pair[0] / "stages" / "001" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    prepared = prepare(load_config(pair[0] / "config.yaml"))
    with pytest.raises(RunFolderError, match=r"is damaged \(its checksum differs\); its model is not asked"):
        _load(pair[0], prepared, 1)
