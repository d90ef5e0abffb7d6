"""Rules of running from Python: objects instead of names, what a result gives, what is kept."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typing_extensions import override

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.experiment.preparation import prepare, with_objects
from cl_mlm.storage.run_lookup import is_finished, locked, read_summary, run_folder
from cl_mlm.strategy import Strategy
from cl_mlm.tracking.mlflow_delivery import Delivery
from strategies.ewc import Ewc
from strategies.replay import Replay

# MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


class Watching(Strategy):
    """Writes a line to a file at every step, so that a test sees that its hooks ran."""

    def __init__(self, path: str, times: int = 1) -> None:
        self.path = path
        self.times = times

    @override
    def validate(self):
        return ["times: must be at least 0, got -1"] * (self.times < 0)

    @override
    def after_step(self, run):
        with Path(self.path).open("a") as file:
            file.write(f"{run.stage_index} {run.step}\n" * self.times)


@pytest.fixture
def quick(fast, monkeypatch):
    """`fast` with two steps a stage and no drawing of figures, for tests that look at neither."""
    monkeypatch.setattr("cl_mlm.experiment.running.write_run_report", lambda folder, summary: [])
    fast["training"] |= {"steps": 2}
    return fast


@pytest.fixture(scope="module")
def result(make_fast, small_stream, tmp_path_factory):
    """A run of a stream handed over as an object, that keeps every stage."""
    config = make_fast(tmp_path_factory.mktemp("runs"))
    return cl_mlm.run(config, "checkpoint.keep_stages=all", stream=small_stream, strategies=[Replay(capacity=6)])


def weights(model):
    return np.concatenate([parameter.detach().numpy().ravel() for parameter in model.parameters()])


def kept(folder):
    return sorted(path.name for path in folder.glob("stages/[0-9]*"))


def test_a_stream_object_is_trained_on(result, small_stream):
    assert result.summary["stream"]["name"] == "small"
    assert result.summary["stream"]["fingerprint"] == small_stream.fingerprint
    assert result.summary["columns"] == ["stage 0", "stage 1"]


def test_the_matrix_has_a_row_for_each_stage_and_nan_for_unseen_labels(result):
    assert result.matrix.shape == (2, 2)
    assert math.isnan(result.matrix[0, 1])
    assert result.matrix[0, 0] > 0.8
    assert ((result.matrix[1] >= 0) & (result.matrix[1] <= 1)).all()


def test_the_metrics_are_those_of_the_matrix(result):
    assert result.metrics["average_accuracy"] == pytest.approx(result.matrix[1].mean())
    assert result.metrics["forgetting"] == pytest.approx(result.matrix[0, 0] - result.matrix[1, 0])
    assert result.metrics["forward_transfer"] is None


def test_the_folder_holds_the_summary_of_the_result(result):
    assert read_summary(result.folder) == json.loads(json.dumps(result.summary))


def test_the_model_of_a_stage_knows_the_labels_seen_by_then(result):
    assert list(result.model(0).config.label2id) == ["cold", "hot"]
    assert list(result.model(1).config.label2id) == ["cold", "hot", "loud", "quiet"]


def test_the_last_model_is_the_default(result):
    assert (weights(result.model()) == weights(result.model(1))).all()


def test_a_finished_run_is_returned_as_it_is(result, make_fast, small_stream):
    config = make_fast(result.folder.parents[1])
    again = cl_mlm.run(config, stream=small_stream, strategies=[Replay(capacity=6)])
    assert (again.is_new, again.folder, again.summary) == (False, result.folder, read_summary(result.folder))


def test_a_stream_object_is_cut_to_its_first_stages(quick, small_stream):
    cut = cl_mlm.run(quick, "stream.first_stages=1", stream=small_stream, progress=False)
    assert cut.summary["columns"] == ["stage 0"]
    whole = cl_mlm.run(quick, "limit=4", stream=small_stream, progress=False)
    assert whole.summary["columns"] == ["stage 0", "stage 1"]


@pytest.mark.parametrize(
    ("value", "said"), [("3", "must be at most 2 here, got 3"), ("0", "must be at least 1"), ("x", "must be a whole")]
)
def test_the_first_stages_of_a_stream_object_are_checked(quick, small_stream, value, said):
    with pytest.raises(ConfigError, match=f"stream.first_stages: {said}"):
        cl_mlm.run(quick, f"stream.first_stages={value}", stream=small_stream)


def test_the_labels_of_a_stream_object_can_be_written_out(fast, small_stream):
    overrides = ["stream.as_text=true", "model.name=tiny-decoder"]
    config = with_objects(load_config(fast, overrides, needs_stream=False), small_stream, None)
    assert config.stream["as_text"] is True
    assert prepare(config, small_stream).stream.stages[0].objective == "text_to_text"


def test_a_stream_object_without_cut_keeps_the_name_of_its_run(fast, small_stream):
    section = with_objects(load_config(fast, needs_stream=False), small_stream, None).stream
    assert section == {"name": "small", "overlap": "error", "fingerprint": small_stream.fingerprint}


@pytest.mark.parametrize("kind", ["labels", "field"])
def test_data_sets_in_memory_are_staged_and_trained_on(quick, kind):
    from datasets import Dataset

    from cl_mlm.data.staging import by_field, by_labels

    def rows(split):
        found = [(f"{label} {k} {split}", label, "ab"[k % 2]) for k in range(4) for label in ("w", "x", "y", "z")]
        return Dataset.from_dict(dict(zip(("text", "label", "domain"), zip(*found, strict=True), strict=True)))

    splits = {split: rows(split) for split in ("train", "validation", "test")}
    stream = (
        by_labels(splits, name="mine", labels_per_stage=2)
        if kind == "labels"
        else by_field(splits, "domain", name="mine")
    )
    result = cl_mlm.run(quick, stream=stream, progress=False)
    assert result.summary["columns"] == (["labels-01", "labels-02"] if kind == "labels" else ["a", "b"])
    assert result.matrix.shape == (2, 2)


def test_a_run_is_recorded_with_class_and_arguments_of_its_objects(result):
    (strategy,) = result.summary["strategies"]
    assert strategy == {"name": "strategies.replay.Replay", "capacity": 6, "weight": 1.0, "rows": None}
    assert result.folder.name.startswith("replay-seed0-")


def test_the_hooks_of_a_strategy_object_run(quick, tmp_path):
    cl_mlm.run(quick, strategies=[Watching(str(tmp_path / "steps"))])
    assert (tmp_path / "steps").read_text().splitlines() == ["0 0", "0 1", "1 0", "1 1"]


def test_an_object_used_twice_does_not_carry_one_run_into_the_next(quick, tmp_path):
    replay = Replay(capacity=6)
    cl_mlm.run(quick, strategies=[replay], seed=1)
    used = cl_mlm.run(quick, strategies=[replay], seed=2)
    fresh = cl_mlm.run(quick, strategies=[Replay(capacity=6)], seed=2, output=str(tmp_path / "fresh"))
    assert used.summary["cost"]["train_examples"] == fresh.summary["cost"]["train_examples"]
    assert (weights(used.model()) == weights(fresh.model())).all()


def test_names_and_objects_of_one_strategy_give_equal_results(quick, tmp_path):
    by_name = cl_mlm.run(quick, strategies=["ewc"], output=str(tmp_path / "names"))
    by_object = cl_mlm.run(quick, strategies=[Ewc()], output=str(tmp_path / "objects"))
    assert (weights(by_name.model()) == weights(by_object.model())).all()


def test_a_changed_argument_of_an_object_is_another_run(quick, tmp_path):
    config = load_config(quick)
    assert len({with_objects(config, None, [Watching(str(tmp_path), times)]).run_name for times in (1, 2)}) == 2


def test_names_and_objects_together_are_refused(quick):
    with pytest.raises(ConfigError, match="strategies: must be all objects or all names"):
        cl_mlm.run(quick, strategies=[Replay(), "ewc"])


def test_the_arguments_of_objects_are_checked(quick, tmp_path):
    with pytest.raises(ConfigError, match=r"strategies\.watching\.times: must be at least 0, got -1"):
        cl_mlm.run(quick, strategies=[Watching(str(tmp_path), times=-1)])


def test_one_strategy_twice_is_refused(quick):
    with pytest.raises(ConfigError, match="strategies: each may be given once, got replay twice"):
        cl_mlm.run(quick, strategies=[Replay(capacity=1), Replay(capacity=2)])


def test_settings_go_over_the_config(quick):
    folder = cl_mlm.run(quick, "training.steps=1", seed=3, model={"dropout": 0.2}).folder
    config = load_config(folder / "config.yaml")
    assert (config.seed, config.training.steps, config.model.dropout) == (3, 1, 0.2)


@pytest.mark.parametrize(("keep", "stages"), [("all", ["000", "001"]), ("last", ["001"]), ("none", [])])
def test_models_are_kept_as_the_config_says(quick, keep, stages):
    assert kept(cl_mlm.run(quick, checkpoint={"keep_stages": keep}).folder) == stages


def test_a_model_that_was_not_kept_is_named(quick):
    result = cl_mlm.run(quick)
    with pytest.raises(RunFolderError, match=r"stages/000/model: not kept; run with checkpoint.keep_stages=all"):
        result.model(0)


def test_a_tracking_server_out_of_reach_is_a_warning_and_the_run_is_finished(quick, monkeypatch):
    monkeypatch.setattr("cl_mlm.experiment.session.SENDING_SECONDS", 0.5)
    result = cl_mlm.run(quick, tracking={"uri": "http://127.0.0.1:9"})
    assert is_finished(result.folder)
    (warning,) = result.warnings
    assert "http://127.0.0.1:9 not reachable" in warning
    assert f"cl-mlm sync {result.folder}" in warning


def test_mlflow_is_not_begun_with_before_the_first_step_is_done(quick, tmp_path, monkeypatch):
    monkeypatch.setattr("cl_mlm.experiment.session.SENDING_WAITS_SECONDS", 3600.0)
    steps, seen, send = tmp_path / "steps.txt", [], Delivery.send
    monkeypatch.setattr(Delivery, "send", lambda delivery: [seen.append(steps.exists()), send(delivery)][1])
    result = cl_mlm.run(quick, strategies=[Watching(str(steps))])
    assert seen[0]
    assert not result.warnings


def test_a_run_folder_is_held_by_one_process_only(tmp_path):
    with locked(tmp_path / "run"), pytest.raises(RunFolderError, match="another process works on this run"):  # noqa: SIM117
        with locked(tmp_path / "run"):
            pass


def test_a_run_folder_is_free_again_afterwards(tmp_path):
    with locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_damaged_summary_is_named(tmp_path):
    (tmp_path / "summary.json").write_text('{"run_id":')
    with pytest.raises(RunFolderError, match=r"summary.json: cannot be read as a summary"):
        read_summary(tmp_path)


def test_an_experiment_with_odd_characters_gets_a_plain_folder(fast):
    fast["experiment"] = "Öl & Gas/../x"
    assert run_folder(load_config(fast)).parent.name == "ol-gas-..-x"


def test_a_mapping_of_strategies_sets_their_arguments(quick):
    result = cl_mlm.run(quick, strategies={"replay": {"capacity": 3}}, progress=False)
    assert result.summary["strategies"][0]["capacity"] == 3


def test_one_strategy_may_be_given_by_its_name_alone(quick):
    result = cl_mlm.run(quick, strategies="replay", progress=False)
    assert [strategy["name"] for strategy in result.summary["strategies"]] == ["replay"]


def test_a_folder_that_cannot_be_made_is_told_as_a_fault_of_the_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output: nothing can be written in"), locked(tmp_path / "file" / "run"):
        pass
