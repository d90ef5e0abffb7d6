"""What MLflow gets of a run beside its curves: few tags, a description, a source, and two metrics after every stage."""

import json
from pathlib import Path

import pytest

import cl_mlm
from cl_mlm.experiment.mlflow_tags import source_name
from cl_mlm.metrics import average_accuracy, forgetting
from cl_mlm.tracking.journal import Journal, read_lines
from cl_mlm.tracking.mlflow_delivery import JOURNAL_ONLY

# MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def tracked(make_fast, empty_store, tmp_path_factory):
    """A run of an arm, MLflow's client of its store, and its MLflow run."""
    import shutil

    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("tags")
    shutil.copyfile(empty_store, root / "mlflow.db")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    config = make_fast(root / "runs")
    config["training"] |= {"steps": 3}
    config["tracking"] = {"uri": uri}
    config["arms"] = {"er small": {"strategies": {"replay": {"capacity": 4}}}}
    result = cl_mlm.run(config, arm="er small", progress=False)
    assert result.warnings == []
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("fast").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return result, client, parent


def test_average_accuracy_and_forgetting_so_far_are_there_after_every_stage(tracked):
    result, client, parent = tracked

    def points(key):
        return {point.step: point.value for point in client.get_metric_history(parent.info.run_id, key)}

    matrix = result.matrix
    assert points("average_accuracy") == {i: average_accuracy(matrix[: i + 1], (0, 1)) for i in (0, 1)}
    assert points("forgetting") == {1: forgetting(matrix, (0, 1))}
    assert points("average_accuracy")[1] == result.metrics["average_accuracy"]


def test_versions_are_one_artifact_and_no_tags(tracked):
    result, client, parent = tracked
    assert not [key for key in parent.data.tags if key.startswith(JOURNAL_ONLY)]
    assert len(parent.data.tags) <= 15
    found = json.loads(Path(client.download_artifacts(parent.info.run_id, "versions.json")).read_text())
    assert found["versions"] == result.summary["versions"]
    assert {"processor", "cores", "accelerator"} <= found["hardware"].keys()


def test_the_journal_keeps_the_versions_that_resuming_compares(tracked):
    lines = [line for line, _ in read_lines(tracked[0].folder / "journal.jsonl") if line["kind"] == "tags"]
    kept = {key for line in lines for key in line["values"]}
    assert {"version/torch", "version/source", "hardware/processor", "stream/fingerprint"} <= kept


def test_name_description_source_and_commit_stand_where_mlflow_shows_them(tracked):
    result, _, parent = tracked
    tags = parent.data.tags
    assert parent.info.run_name == result.folder.name
    assert (tags["arm"], tags["strategies"]) == ("er small", "replay")
    note = tags["mlflow.note.content"]
    assert "**er small**, seed 0, experiment fast" in note
    assert "- strategies: replay (capacity 4" in note
    assert f"average accuracy {100 * result.metrics['average_accuracy']:.1f} %" in note
    assert f"cl-mlm rerun {result.folder.name}" in note
    assert tags["mlflow.source.name"]
    commit = result.summary["versions"]["commit"]
    assert tags.get("mlflow.source.git.commit", "unknown") == commit.rstrip("+")


def test_a_stage_says_of_which_arm_it_is_by_its_name_and_tags(tracked):
    result, client, parent = tracked
    runs = client.search_runs([parent.info.experiment_id], "tags.arm = 'er small'")
    stages = {run.info.run_name: run.data.tags for run in runs if run.info.run_id != parent.info.run_id}
    assert {*stages} == {f"{result.folder.name} / {stage}" for stage in ("labels-01", "labels-02")}
    for name, tags in stages.items():
        assert (tags["strategies"], tags["seed"]) == ("replay", "0")
        assert name.endswith(tags["stage"])


@pytest.mark.parametrize(
    ("command", "source"),
    [
        (["/bin/cl-mlm", "run", "--arm", "all", "a.yaml", "seed=1"], "a.yaml"),
        (["x/cl_mlm/__main__.py", "run", "a.yaml"], "a.yaml"),
        (["cl-mlm", "rerun", "old"], "old/config.yaml"),
        (["cl-mlm", "run", "gone.yaml"], "cl-mlm"),
        (["train.py", "a.yaml"], "train.py"),
        ([""], "python"),
        ([], "python"),
    ],
)
def test_the_source_is_the_config_of_a_command_or_the_script(command, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "a.yaml").touch()
    (tmp_path / "old" / "config.yaml").touch()
    assert source_name(command) == source


def test_a_tag_that_is_to_be_kept_stays_as_it_was_first_written(tmp_path):
    for source in ("first", "second"):
        with Journal(tmp_path / "journal.jsonl") as journal:
            journal.start("e", "r")
            journal.tags({"mlflow.source.name": source}, keep=True)
            journal.tags({"flags": source})
    written = [line["values"] for line, _ in read_lines(tmp_path / "journal.jsonl") if line["kind"] == "tags"]
    assert written == [{"mlflow.source.name": "first"}, {"flags": "first"}, {"flags": "second"}]
