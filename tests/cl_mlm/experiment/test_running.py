"""Rules of a whole run: what it writes, that it is repeated and resumed to the bit, and what it flags."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cl_mlm
from cl_mlm.errors import OwnCodeError, TrainingError
from cl_mlm.strategy import Strategy
from cl_mlm.tracking.journal import read_lines

# MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

ROOT = Path(__file__).parents[3]
HALTING = """
import os
import signal

from typing_extensions import override

from cl_mlm.strategy import Strategy


class Halting(Strategy):
    "Stops the process in stage 2, in the way that HALT says."

    @override
    def before_stage(self, run, stage):
        if run.stage_index == 1 and os.environ.get("HALT") == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    @override
    def after_step(self, run):
        if (run.stage_index, run.step) == (1, 2):
            if os.environ.get("HALT") == "interrupt":
                raise KeyboardInterrupt
            if os.environ.get("HALT") == "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            if os.environ.get("HALT") == "fail":
                raise ZeroDivisionError("a fault in a strategy")
"""
HOLDING = """
import sys
from pathlib import Path
from cl_mlm.storage.run_lookup import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""
STRATEGIES = {"halting.Halting": {}, "replay": {"capacity": 6}, "ewc": {"weight": 10}, "lwf": {"own_classes": False}}
CLOCKS = ("train_seconds", "eval_seconds", "peak_memory_bytes")


def comparable(summary):
    """Returns a summary without what names the run, tells the time, or describes the machine."""
    kept = {key: value for key, value in summary.items() if key not in ("run_id", "versions")}
    return {**kept, "cost": {name: value for name, value in kept["cost"].items() if name not in CLOCKS}}


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def results_of(folder):
    """Returns everything of a finished run that must be equal to the bit."""
    model = folder / "stages" / "001" / "model" / "model.safetensors"
    predictions = [path.read_bytes() for path in sorted((folder / "predictions").iterdir())]
    return comparable(summary_of(folder)), model.read_bytes(), predictions


def states_of(folder, stage=None):
    lines = [line for line, _ in read_lines(folder / "journal.jsonl")]
    return [line["value"] for line in lines if line["kind"] == "status" and line["stage"] == stage]


def only_run(output):
    (folder,) = [path for path in (output / "fast").iterdir() if path.is_dir()]
    return folder


@pytest.fixture(scope="module")
def halting(tmp_path_factory):
    """A folder on the path with the module `halting`, whose strategy stops a run on demand."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "halting.py").write_text(HALTING)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def undisturbed(make_fast, halting, tmp_path_factory):
    """The folder of a run that nothing has stopped."""
    output = tmp_path_factory.mktemp("undisturbed")
    return cl_mlm.run({**make_fast(output), "strategies": STRATEGIES}).folder


@pytest.fixture
def config(fast, halting, write_config, tmp_path):
    """A file with the config of `undisturbed`, in an output of this test's own."""
    return write_config(tmp_path / "fast.yaml", {**fast, "strategies": STRATEGIES})


@pytest.fixture
def copied(undisturbed, config, tmp_path):
    """The finished run of `config`, for a test to change."""
    return Path(shutil.copytree(undisturbed, tmp_path / "runs" / "fast" / undisturbed.name))


class TestFinishedRun:
    def test_every_file_is_written(self, undisturbed):
        for name in (
            "config.yaml",
            "journal.jsonl",
            "summary.json",
            "accuracy_matrix.csv",
            "validation_matrix.csv",
            "matrices.json",
            "per_class.csv",
            "figures/forgetting_curves.png",
            "figures/accuracy_matrix.png",
            "predictions/0.parquet",
            "predictions/1.parquet",
            "stages/001/model/config.json",
            "mlflow.json",
        ):
            assert (undisturbed / name).stat().st_size, name

    def test_the_summary_has_its_documented_keys(self, undisturbed):
        summary = summary_of(undisturbed)
        assert set(summary) >= {
            *("run_id", "experiment", "stream", "strategies", "model", "seed", "accuracy_matrix", "validation_matrix"),
            *("columns", "home", "baseline", "metrics", "reasons", "flags", "cost", "versions"),
        }
        assert set(summary["stream"]) >= {"name", "scenario", "fingerprint", "stages", "labels", "overlap"}
        assert set(summary["cost"]) == {
            *("train_seconds", "eval_seconds", "train_examples", "train_tokens", "peak_memory_bytes", "buffer_bytes"),
            *("strategy_state_bytes", "trainable_parameters", "hook_examples", "hook_tokens"),
        }

    def test_the_summary_is_json_without_nan(self, undisturbed):
        def refuse(constant):
            raise AssertionError(constant)

        summary = json.loads((undisturbed / "summary.json").read_text(), parse_constant=refuse)
        assert summary["accuracy_matrix"][0][1] is None

    def test_a_metric_without_value_has_a_reason(self, undisturbed):
        summary = summary_of(undisturbed)
        missing = {name for name, value in summary["metrics"].items() if value is None}
        assert missing == {"forward_transfer"} == set(summary["reasons"])

    def test_the_matrix_is_what_the_predictions_say(self, undisturbed):
        import pyarrow.parquet as pq

        rows = pq.read_table(undisturbed / "predictions" / "1.parquet").to_pylist()
        hits = {
            name: [r["prediction"] == r["reference"] for r in rows if r["column"] == name]
            for name in ("labels-01", "labels-02")
        }
        assert [len(values) for values in hits.values()] == [12, 12]
        assert summary_of(undisturbed)["accuracy_matrix"][1] == [np.mean(values) for values in hits.values()]

    def test_the_baseline_is_what_the_predictions_before_training_say(self, undisturbed):
        import pyarrow.parquet as pq

        rows = pq.read_table(undisturbed / "predictions" / "before.parquet").to_pylist()
        assert [row["column"] for row in rows] == ["labels-01"] * 12
        hits = [row["prediction"] == row["reference"] for row in rows]
        assert summary_of(undisturbed)["baseline"] == [np.mean(hits), None]

    def test_the_small_model_learns(self, undisturbed):
        assert summary_of(undisturbed)["metrics"]["learning_accuracy"] > 0.8

    def test_costs_are_counted(self, undisturbed):
        cost = summary_of(undisturbed)["cost"]
        # Two stages of 16 rows, six epochs; each of the 24 steps of stage 2 brings back four rows of memory.
        assert cost["train_examples"] == 2 * 6 * 16 + 24 * 4
        # EWC's Fisher reads the rows of both stages, LwF's teacher those of stage 2.
        assert cost["hook_examples"] == 2 * 16 + 16
        assert cost["train_seconds"] > 0

    def test_the_kept_config_is_resolved(self, undisturbed):
        from cl_mlm.config.loading import load_config

        config = load_config(undisturbed / "config.yaml")
        assert config.run_name == undisturbed.name
        assert list(config.strategies) == list(STRATEGIES)

    def test_the_kept_model_is_loaded_by_plain_transformers(self, undisturbed):
        from transformers import pipeline

        classify = pipeline("text-classification", model=str(undisturbed / "stages" / "001" / "model"))
        assert classify("snow and ice")[0]["label"] in ("cold", "hot", "loud", "quiet")

    def test_mlflow_has_the_run_with_its_stages(self, undisturbed, shared_store):
        from mlflow import MlflowClient

        link = json.loads((undisturbed / "mlflow.json").read_text())
        run = MlflowClient(tracking_uri=shared_store).get_run(link["run_id"])
        assert run.info.status == "FINISHED"
        assert run.data.metrics["summary/average_accuracy"] == summary_of(undisturbed)["metrics"]["average_accuracy"]
        assert run.data.params["strategies.ewc.weight"] == "10.0"
        assert len(link["children"]) == 2


class TestRepeating:
    def test_the_same_command_says_finished_and_trains_nothing(self, cli, config, copied, monkeypatch):
        def fail(*arguments):
            raise AssertionError("trained again")

        monkeypatch.setattr("cl_mlm.experiment.running.train_stage", fail)
        said = cli("run", config)
        assert said.code == 0
        assert said.out.startswith(f"already finished (--again runs it once more): {copied}\n")

    def test_again_makes_a_second_folder_with_an_equal_summary(self, cli, config, copied):
        said = cli("run", config, "--again")
        second = copied.with_name(f"{copied.name}-2")
        assert said.code == 0
        assert f"run: {second}" in said.out
        assert summary_of(second)["run_id"] != summary_of(copied)["run_id"]
        assert results_of(second) == results_of(copied)

    def test_rerun_says_equal(self, cli, copied):
        said = cli("rerun", copied)
        assert said.code == 0
        assert "the accuracy matrix is equal, to the last bit" in said.out
        assert "predictions: 3 files, all equal" in said.out
        assert "weights after the last stage: equal" in said.out

    def test_rerun_says_how_far_a_matrix_differs(self, cli, copied, monkeypatch):
        summary = summary_of(copied)
        summary["accuracy_matrix"][1][0] += 0.25
        monkeypatch.setattr(
            "cl_mlm.experiment.resuming.run_prepared", lambda prepared, again: cl_mlm.Result(copied, summary)
        )
        said = cli("rerun", copied)
        assert said.code == 1
        assert "the accuracy matrix differs: by up to 0.2500 (row 1, column 0)" in said.out

    def test_compare_writes_its_files(self, cli, copied):
        said = cli("compare", copied.parent)
        assert said.code == 0
        for name in ("compare.csv", "curves.csv", "compare.png"):
            assert (copied.parent / name).stat().st_size
            assert f"written: {copied.parent / name}" in said.out

    def test_another_seed_gives_another_run(self, cli, config, undisturbed):
        # One step is enough: what is asked is whether the seed arrives, not what it does to a score.
        said = cli("run", config, "--seed", "1", "training.steps=1")
        folder = only_run(config.parent / "runs")
        assert said.code == 0
        assert folder.name.startswith("halting+replay+ewc+lwf-seed1-")
        assert results_of(folder)[1] != results_of(undisturbed)[1]


class TestStopping:
    def test_ctrl_c_keeps_the_finished_stage_and_the_same_command_ends_as_if_nothing_was(
        self, cli, config, undisturbed, monkeypatch
    ):
        monkeypatch.setenv("HALT", "interrupt")
        said = cli("run", config)
        folder = only_run(config.parent / "runs")
        assert said.code == 130
        assert "interrupted: what was measured is kept; the same command goes on from there" in said.err
        assert said.err.endswith(f"\nnext: cl-mlm resume {folder}\n")
        assert "Traceback" not in said.err
        assert sorted(path.name for path in (folder / "stages").iterdir()) == ["000"]
        assert [states_of(folder, stage)[-1] for stage in (0, 1, None)] == ["FINISHED", "KILLED", "KILLED"]
        assert not (folder / "summary.json").exists()

        monkeypatch.delenv("HALT")
        assert cli("run", config).code == 0
        assert [states_of(folder, stage)[-1] for stage in (0, 1, None)] == ["FINISHED"] * 3
        assert results_of(folder) == results_of(undisturbed)

    def test_sigterm_ends_a_run_as_tidily(self, cli, config, monkeypatch):
        monkeypatch.setenv("HALT", "terminate")
        said = cli("run", config)
        folder = only_run(config.parent / "runs")
        assert said.code == 128 + signal.SIGTERM
        assert states_of(folder)[-1] == "KILLED"
        assert "\nSIGTERM: writing a checkpoint after this step" in said.err
        assert "\nended by SIGTERM: what was measured is kept; the same command goes on" in said.err
        assert said.err.endswith(f"\nnext: cl-mlm resume {folder}\n")

    def test_a_fault_in_a_strategy_is_shown_and_the_run_marked_failed(self, config, halting, monkeypatch):
        monkeypatch.setenv("HALT", "fail")
        with pytest.raises(
            OwnCodeError, match=r"halting\.Halting, hook after_step, .*: raised ZeroDivisionError: a fault"
        ):
            cl_mlm.run(config)
        assert states_of(only_run(config.parent / "runs"))[-1] == "FAILED"

    def test_a_killed_process_is_resumed_to_the_same_summary(self, cli, config, halting, undisturbed):
        environment = {**os.environ, "HALT": "kill", "PYTHONPATH": str(halting)}
        killed = subprocess.run([sys.executable, "-m", "cl_mlm", "run", config], cwd=ROOT, env=environment, check=False)
        folder = only_run(config.parent / "runs")
        assert killed.returncode == -signal.SIGKILL
        assert states_of(folder, stage=0) == ["FINISHED"]
        assert states_of(folder)[-1:] != ["FINISHED"]

        assert cli("resume", folder).code == 0
        assert results_of(folder) == results_of(undisturbed)

    def test_a_torn_last_line_of_the_journal_is_no_obstacle(self, cli, config, copied):
        journal = copied / "journal.jsonl"
        journal.write_text(journal.read_text()[:-9])
        assert cli("run", config).code == 0
        assert states_of(copied)[-1] == "FINISHED"

    def test_a_second_process_on_one_run_is_refused(self, config, cli, copied):
        (copied / "summary.json").unlink()
        with subprocess.Popen(
            [sys.executable, "-c", HOLDING, copied], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout.readline() == b"held\n"
            said = cli("run", config)
            other.communicate(b"\n", timeout=20)
        assert said.code == 2
        assert said.err.endswith(f"\nerror: {copied}: another process works on this run\n")


class Poisoned(Strategy):
    """Adds a term that is not finite in stage 2."""

    def loss_terms(self, run, batch, outputs):
        return {"poison": outputs.logits.sum() * (math.nan if run.stage_index == 1 else 0)}


class TestNotFinite:
    def test_a_run_stops_names_stage_and_term_and_keeps_what_it_has_measured(self, fast, tmp_path):
        with pytest.raises(TrainingError, match=r"stage 'labels-02', step 1, .*train/term/poison is nan"):
            cl_mlm.run(fast, strategies=[Poisoned()])
        (folder,) = (path for path in (tmp_path / "runs" / "fast").iterdir() if path.is_dir())
        lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        assert any(line["kind"] == "metrics" and "accuracy/labels-01" in line["values"] for line in lines)
        assert [line["value"] for line in lines if line["kind"] == "status"][-1] == "FAILED"
        assert (folder / "stages" / "000" / "manifest.json").is_file()

    def test_an_absurd_learning_rate_ends_the_command_with_advice(self, cli, fast, write_config, tmp_path):
        config = write_config(tmp_path / "a.yaml", fast)
        said = cli("run", config, "training.learning_rate=1e30", "training.warmup=0", "training.clip=null")
        assert said.code == 2
        assert "training.learning_rate lower than 1e+30" in said.err

    def test_memory_that_does_not_suffice_ends_the_command_with_the_settings_to_change(self, fast, monkeypatch):
        def full(self, outputs, batch):
            raise MemoryError

        monkeypatch.setattr("cl_mlm.training.run.Run.task_loss", full)
        with pytest.raises(TrainingError, match=r"out of memory: .*training\.halve_on_oom=true.*training\.batch_size"):
            cl_mlm.run(fast)


class TestFlags:
    def test_a_stage_that_learns_nothing_is_flagged(self, fast):
        result = cl_mlm.run(fast, "training.learning_rate=1e-12", "training.steps=1")
        flagged = [flag.partition(":")[0] for flag in result.summary["flags"] if "stays at chance" in flag]
        assert flagged == ["labels-01", "labels-02"]

    def test_a_smoke_run_says_once_that_its_scores_mean_nothing(self, fast):
        (flag,) = cl_mlm.run(fast, "training.learning_rate=1e-12", limit=4).summary["flags"]
        assert flag.startswith("a smoke run (limit 4): its scores mean nothing")

    def test_a_stage_that_learns_is_not_flagged(self, undisturbed):
        assert summary_of(undisturbed)["flags"] == []


def test_a_damaged_summary_of_a_finished_run_is_written_again(fast, caplog):
    fast["checkpoint"] = {"keep_stages": "last"}
    first = cl_mlm.run(fast)
    path = first.folder / "summary.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    again = cl_mlm.run(fast)
    assert "had finished, but summary.json: has " in caplog.text
    assert again.summary["accuracy_matrix"] == json.loads(whole)["accuracy_matrix"]
