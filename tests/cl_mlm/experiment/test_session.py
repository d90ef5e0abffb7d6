"""What a result gives, which models are kept, and how a run goes with its tracking."""

import json
import math

import pytest
import torch

import cl_mlm
from cl_mlm.errors import RunFolderError
from cl_mlm.storage.run_lookup import is_finished, read_summary
from cl_mlm.tracking.mlflow_delivery import Delivery
from cl_mlm.training.loop import StageTraining
from strategies.replay import Replay


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
    last, default = result.model(1).state_dict(), result.model().state_dict()
    assert last.keys() == default.keys()
    assert all(torch.equal(default[name], value) for name, value in last.items())


def test_a_finished_run_is_returned_as_it_is(result, make_fast, small_stream):
    config = make_fast(result.folder.parents[1])
    again = cl_mlm.run(config, stream=small_stream, strategies=[Replay(capacity=6)])
    assert (again.is_new, again.folder, again.summary) == (False, result.folder, read_summary(result.folder))


@pytest.mark.parametrize(("keep", "stages"), [("all", ["000", "001"]), ("last", ["001"]), ("none", [])])
def test_models_are_kept_as_the_config_says(quick, keep, stages):
    folder = cl_mlm.run(quick, checkpoint={"keep_stages": keep}).folder
    assert sorted(path.name for path in folder.glob("stages/[0-9]*")) == stages


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


def test_mlflow_is_not_begun_with_before_the_first_step_is_done(quick, monkeypatch):
    monkeypatch.setattr("cl_mlm.experiment.session.SENDING_WAITS_SECONDS", 3600.0)
    steps, seen, send = [], [], Delivery.send
    take_step = StageTraining.take_step
    monkeypatch.setattr(Delivery, "send", lambda delivery: [seen.append(len(steps)), send(delivery)][1])
    monkeypatch.setattr(StageTraining, "take_step", lambda *given: [take_step(*given), steps.append(1)][0])
    result = cl_mlm.run(quick)
    assert seen[0]
    assert not result.warnings
