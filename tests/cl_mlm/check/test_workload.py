"""The work that is foretold, held against the work that runs do."""

import pytest

import cl_mlm
from cl_mlm.check.look import early_look
from cl_mlm.check.workload import workload
from cl_mlm.config.loading import load_config
from cl_mlm.experiment import scoring
from cl_mlm.experiment.preparation import prepare
from cl_mlm.strategy import Strategy
from cl_mlm.stream import pack_row_ids
from cl_mlm.tracking.journal import read_lines
from cl_mlm.training import early_stopping


class Chooser(Strategy):
    """Takes the first rows of every stage."""

    def training_data(self, run, stage):
        return pack_row_ids(run.stage_index, range(min(5, len(stage.train))))


ONLINE, INSTANCES = "stream.scenario=online", "stream.scenario=instance_incremental"


def foretold(config, *overrides, strategies=None):
    return early_look(prepare(load_config(config, overrides), strategies=strategies)).work


def steps_taken(folder):
    """Returns the optimiser steps of every stage that was trained, as the journal has them."""
    lines = [line for line, _ in read_lines(folder / "journal.jsonl")]
    return {
        line["stage"]: int(line["values"]["cost/steps"])
        for line in lines
        if line["kind"] == "metrics" and "cost/steps" in line["values"] and line["stage"] is not None
    }


def check_foretold(config, overrides, monkeypatch):
    """Runs it, and holds what was foretold against the steps that it took and the rows that it scored."""
    overrides = [*overrides, "checkpoint.reuse_stages=0"]
    expected = foretold(config, *overrides)
    scored = {"after": 0, "within": 0}

    def count(kind, original):
        def evaluate(*arguments):
            found = original(*arguments)
            scored[kind] += len(found.ids)
            return found

        return evaluate

    monkeypatch.setattr(scoring, "evaluate", count("after", scoring.evaluate))
    monkeypatch.setattr(early_stopping, "evaluate", count("within", early_stopping.evaluate))
    result = cl_mlm.run(config, *overrides, progress=False)
    assert steps_taken(result.folder) == {i: stage.steps for i, stage in enumerate(expected) if stage.steps}
    assert scored["after"] == sum(stage.scored for stage in expected)
    assert scored["within"] == sum(stage.validated for stage in expected)


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.epochs=2", "training.batch_size=5", "training.accumulation=2"],
        ["training.steps=3"],
        ["limit=6"],
        ["training.epochs=1", "strategies=[joint]"],
        ["training.epochs=1", "strategies=[cumulative]", "training.batch_size=7"],
        ["training.epochs=2", "training.patience=5"],
        [ONLINE, "stream.chunk_rows=6", "stream.evaluate_every=2", "training.epochs=1", "training.patience=1"],
        [ONLINE, "stream.chunk_rows=8", "stream.evaluate_every=3", "training.epochs=1", "strategies=[cumulative]"],
        ["stream.scenario=blurry", "stream.blur=0.25", "training.epochs=2", "training.patience=5"],
        [INSTANCES, "stream.num_stages=3", "training.epochs=2", "training.patience=5"],
        ["stream.probes.cold=PROBE", "stream.overlap=keep", "training.epochs=1"],
    ],
)
def test_a_run_does_what_was_foretold(fast, overrides, monkeypatch, data_folder):
    check_foretold(fast, [o.replace("PROBE", str(data_folder)) for o in overrides], monkeypatch)


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.epochs=2", "training.batch_size=5", "training.accumulation=2"],
        ["training.epochs=1", "training.batch_size=3", "training.accumulation=2", "strategies=[cumulative]"],
        ["training.epochs=1", "training.batch_size=5", "strategies=[joint]"],
        ["training.epochs=1", "training.patience=1"],
    ],
)
def test_a_run_of_several_objectives_does_what_was_foretold(mixed, overrides, monkeypatch):
    check_foretold(mixed, overrides, monkeypatch)


def test_a_run_on_blocks_does_what_was_foretold(packed, monkeypatch):
    check_foretold(packed, ["training.epochs=2", "training.batch_size=3", "training.patience=5"], monkeypatch)


def test_blocks_are_not_known_without_a_tokenizer(packed):
    work = workload(prepare(load_config(packed)))
    assert [(stage.rows, stage.steps, stage.scored) for stage in work] == [(None, None, None)]
    assert workload(prepare(load_config(packed, ["training.steps=2"])))[0].steps == 2


def test_steps_are_counted_by_hand(fast):
    # 16 training rows a stage: 4 micro-batches of 5, 2 steps an epoch.
    work = foretold(fast, "training.epochs=3", "training.batch_size=5", "training.accumulation=2")
    assert [(stage.rows, stage.steps) for stage in work] == [(16, 6), (16, 6)]
    # Before: 12 test rows of the first column. After: validation and test, 8 + 12, of one and of two columns.
    assert [stage.scored for stage in work] == [12 + 20, 40]


def test_joint_asks_for_one_stage(fast):
    first, last = foretold(fast, "strategies=[joint]", "training.epochs=1")
    assert (first.rows, first.steps, first.scored) == (0, 0, 0)
    assert (last.rows, last.steps) == (32, 8)


def test_cumulative_grows(fast):
    work = foretold(fast, "strategies=[cumulative]", "training.epochs=1")
    assert [(stage.rows, stage.steps) for stage in work] == [(16, 4), (32, 8)]


def test_rows_that_a_strategy_chooses_are_not_known(fast):
    assert [(s.rows, s.steps) for s in foretold(fast, strategies=[Chooser()])] == [(None, None)] * 2
    assert [(s.rows, s.steps) for s in foretold(fast, "training.steps=7", strategies=[Chooser()])] == [(None, 7)] * 2


def test_splits_that_are_not_evaluated_are_not_counted(fast):
    assert [stage.scored for stage in foretold(fast, "evaluation.splits=[validation]")] == [8, 16]
