"""Whole runs whose stages have settings of their own: killed, shared with other runs, and as `check` counts them."""

import json
import signal

import pytest
import torch
from killing import die_at

import cl_mlm
from cl_mlm.check.look import early_look
from cl_mlm.check.look_text import look_lines
from cl_mlm.check.verification import verify_run
from cl_mlm.config.loading import load_config
from cl_mlm.experiment.preparation import prepare

pytestmark = [pytest.mark.usefixtures("fresh_process"), pytest.mark.whole_run]

STAGES = {"labels-01": {"epochs": 1}, 1: {"steps": 9, "learning_rate": 5e-3, "batch_size": 2, "patience": 1}}


@pytest.fixture
def go(fast):
    def go(folder="runs", stages=STAGES, reuse=0, training=(), **sections):
        config = fast | sections | {"output": f"{fast['output']}/{folder}"}
        config["training"] = {**fast["training"], "stages": stages, **dict(training)}
        config["checkpoint"] = {"every_steps": 2, "every_minutes": None, "reuse_stages": reuse}
        return cl_mlm.run(config, progress=False)

    return go


def points(run, name):
    lines = [json.loads(line) for line in (run.folder / "journal.jsonl").read_text().splitlines()]
    found = [(line["stage"], line["values"].get(name)) for line in lines if line["kind"] == "metrics"]
    return [(stage, value) for stage, value in found if value is not None]


def assert_same(first, second):
    names = ("accuracy_matrix", "validation_matrix", "baseline")
    assert repr([first.summary[name] for name in names]) == repr([second.summary[name] for name in names])
    a, b = first.model().state_dict(), second.model().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_each_stage_trains_by_its_own_settings_as_check_says(go, fast):
    run = go(training={"schedule": "constant", "warmup": 0.0})
    assert dict(points(run, "cost/steps")) == {0: 4, 1: 9}
    assert dict.fromkeys(points(run, "train/learning_rate")) == {(0, 1e-3): None, (1, 5e-3): None}
    assert not verify_run(run.folder).faults
    fast["training"] |= {"stages": STAGES}
    estimate = early_look(prepare(load_config(fast)), 1)
    assert [work.steps for work in estimate.work] == [4, 9]
    assert [work.validated > 0 for work in estimate.work] == [False, True]
    assert estimate.timed.own_steps.keys() == {1}
    assert any("2 to 4 rows each; 2 stages have settings" in line for line in look_lines(estimate))
    assert estimate.to_dict()["stages"][1]["settings"] == STAGES[1]


def test_a_killed_run_ends_as_if_it_had_not_been(go):
    strategies = {"replay": {"capacity": 8}, "ewc": {"weight": 10.0}}
    whole = go("whole", strategies=strategies)
    assert die_at(10, lambda: go("cut", strategies=strategies)) == -signal.SIGKILL  # at step 6 of the second stage
    assert_same(whole, go("cut", strategies=strategies))
    # Replay draws as many rows as a micro-batch of the stage has.
    assert whole.summary["cost"]["train_examples"] == 16 + 9 * (2 + 2)


def test_runs_that_differ_in_later_stages_share_the_first(go):
    first = go(reuse=2)
    other = {0: STAGES["labels-01"], 1: {"steps": 5}}
    shared = go(reuse=2, stages=other)
    assert [reused["stage"] for reused in shared.summary["reused"]] == ["labels-01"]
    assert_same(shared, go("alone", stages=other))
    # Said for all stages or for one: the first trains alike.
    again = go(reuse=2, stages={1: {"steps": 4}}, training={"epochs": 1})
    assert len(again.summary["reused"]) == 1
    assert not go(reuse=2, stages={"labels-01": {"epochs": 2}}).summary["reused"]
    assert not first.summary["reused"]


def test_a_run_is_done_again_from_its_folder(go, cli):
    run = go()
    said = cli("rerun", run.folder)
    assert said.code == 0, said.err
    assert "training.stages.1.steps" in (run.folder / "journal.jsonl").read_text()
