"""Whole runs whose stages and columns do not pair up: what they measure, write and go on from."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typing_extensions import override

import cl_mlm
from cl_mlm.results.comparison import compare
from cl_mlm.strategy import Strategy

# MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

SCENARIOS = {
    "instance_incremental": {"stages_by": "whole", "labels_per_stage": None, "num_stages": 2},
    "online": {"chunk_rows": 8, "evaluate_every": 2},
    "blurry": {"blur": 0.25},
}
STRATEGIES = [{}, {"replay": {"capacity": 8}, "ewc": {"weight": 1}}]


def config_of(fast, scenario, **section):
    values = {**fast, "training": {**fast["training"], "epochs": 1, "patience": None}}
    stream = {
        **fast["stream"],
        **({"scenario": scenario} if scenario else {}),
        **SCENARIOS.get(scenario, {}),
        **section,
    }
    return {**values, "stream": stream}


@pytest.mark.parametrize("strategies", STRATEGIES, ids=["naive", "replay+ewc"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_runs_and_measures_its_columns(fast, scenario, strategies):
    summary = cl_mlm.run(config_of(fast, scenario), strategies=strategies).summary
    matrix = np.array(summary["accuracy_matrix"], dtype=float)
    shape = {"instance_incremental": (2, 1), "online": (4, 2), "blurry": (2, 2)}[scenario]
    assert matrix.shape == shape
    assert summary["home"] == {"instance_incremental": [0], "online": [1, 3], "blurry": [0, 1]}[scenario]
    assert not np.isnan(matrix[-1]).any()
    assert summary["metrics"]["average_accuracy"] == pytest.approx(matrix[-1].mean())
    assert summary["stream"]["scenario"] == scenario
    if scenario == "online":
        assert np.isnan(matrix[[0, 2]]).all()
        assert summary["reasons"]["accuracy_matrix"] == "rows of 2 of 4 stages are not measured (evaluate_every)"
        assert summary["metrics"]["forgetting"] == pytest.approx(matrix[1, 0] - matrix[3, 0])
        assert summary["start"] == [0, 2]


def test_early_stopping_reads_the_columns_that_a_stage_trains_for(fast):
    values = config_of(fast, "instance_incremental")
    values["training"] |= {"patience": 1, "epochs": 2}
    assert cl_mlm.run(values).summary["home"] == [0]


@pytest.fixture
def probed(fast, write_rows, tmp_path):
    """A config of two stages with a probe over the first labels."""
    held = [{"text": f"{word} {word} held {i}", "label": label} for i in range(3) for word, label in WORDS]
    path = write_rows(tmp_path / "held", train=[], validation=[], test=held)
    for split in ("train", "validation"):
        (path / f"{split}.jsonl").unlink()
    return config_of(fast, None, probes={"held out": str(path)})


WORDS = (("snow", "cold"), ("beach", "hot"))


def test_a_probe_is_scored_before_training_and_after_every_stage_and_kept_out_of_averages(probed, tmp_path):
    result = cl_mlm.run(probed)
    summary, matrix = result.summary, result.matrix
    assert summary["columns"] == ["labels-01", "labels-02", "held out"]
    assert summary["home"] == [0, 1, None]
    assert not np.isnan(matrix[:, 2]).any()
    before, after = summary["baseline"][2], matrix[-1, 2]
    assert summary["probes"] == {
        "held out": {"before": before, "after": after, "change": pytest.approx(after - before)}
    }
    assert summary["metrics"]["average_accuracy"] == pytest.approx(matrix[-1, :2].mean())
    table = pq.read_table(result.folder / "predictions" / "1.parquet")
    assert set(table["column"].to_pylist()) == set(summary["columns"])
    with (result.folder / "per_class.csv").open() as file:
        rows = sum(int(row["rows"]) for row in csv.DictReader(file))
    assert rows == 24, "rows of the probe are counted"
    assert summary["validation_matrix"][0][2] is None
    text = compare(result.folder.parent, tmp_path / "out").markdown()
    assert "probe held out pt" in text


def test_a_probe_of_later_labels_has_no_change_and_says_why(probed):
    path = Path(probed["stream"]["probes"]["held out"]) / "test.jsonl"
    path.write_text(path.read_text().replace("cold", "quiet").replace("hot", "loud"))
    summary = cl_mlm.run(probed).summary
    assert summary["probes"]["held out"]["before"] is summary["probes"]["held out"]["change"] is None
    assert summary["probes"]["held out"]["after"] is not None
    assert summary["reasons"]["probe held out"] == "not all its labels are known before training"


def test_without_probes_the_rest_of_a_summary_is_the_same(fast, probed):
    probed_summary, plain = cl_mlm.run(probed).summary, cl_mlm.run(config_of(fast, None)).summary
    assert probed_summary["metrics"] == plain["metrics"]
    assert [row[:2] for row in probed_summary["accuracy_matrix"]] == plain["accuracy_matrix"]
    assert "probes" not in plain
    assert "start" not in plain


class Failing(Strategy):
    """Fails once, in a stage that is not measured."""

    failed = False

    @override
    def before_stage(self, run, stage):
        if run.stage_index == 4 and not Failing.failed:
            Failing.failed = True
            raise ZeroDivisionError


def test_a_run_goes_on_from_the_last_measured_stage_to_the_same_numbers(fast):
    values = config_of(fast, "online", chunk_rows=6, evaluate_every=9)
    Failing.failed = True
    whole = cl_mlm.run({**values, "output": fast["output"] + "-whole"}, strategies=[Failing()])
    Failing.failed = False
    with pytest.raises(cl_mlm.ClMlmError, match="raised ZeroDivisionError"):
        cl_mlm.run(values, strategies=[Failing()])
    kept = (Path(fast["output"]) / "fast" / whole.folder.name / "stages").glob("[0-9]*")
    assert [path.name for path in kept] == ["002"]
    again = cl_mlm.run(values, strategies=[Failing()])
    assert json.dumps(again.summary["accuracy_matrix"]) == json.dumps(whole.summary["accuracy_matrix"])
    assert again.summary["cost"]["train_examples"] == whole.summary["cost"]["train_examples"] == 32
