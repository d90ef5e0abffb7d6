"""Rules of the first and the last lines of a command that trains."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cl_mlm.cli.run_lines import next_command
from tests.odd_inputs.tracking import summary

ROOT = Path(__file__).parents[3]
LIGHT = """
import sys
from pathlib import Path
from cl_mlm.cli.run_lines import opening_lines
from cl_mlm.config.arms import planned

variants = planned("quickstart", ["naive", "ewc"], [0, 1])
print(*opening_lines(Path("quickstart"), ["output=elsewhere", "model=tiny-decoder"], variants), sep="\\n")
assert not {"torch", "transformers", "mlflow", "datasets"} & {*sys.modules}, "the first lines must not wait for these"
"""


def test_the_first_lines_say_what_will_run_before_anything_heavy_is_imported(tmp_path):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{LIGHT}"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.stderr == ""
    lines = said.stdout.splitlines()
    assert lines[0].startswith("cl-mlm ")
    assert lines[1] == "  4 runs: arms naive, ewc; seeds 0, 1; stream phrasebook; model tiny-decoder"
    assert lines[2].startswith("  below elsewhere/quickstart, tracked in sqlite:///")


def test_the_first_lines_come_before_the_faults(cli, fast, write_config, tmp_path):
    said = cli("run", write_config(tmp_path / "a.yaml", fast), "training.epochs=0", "seed=4")
    assert said.code == 2
    first, *_, last = said.err.splitlines()
    assert first.endswith(str(tmp_path / "a.yaml"))
    assert "1 run: seed 4; stream files; model tiny" in said.err
    assert last == "error: training.epochs: must be at least 1, got 0"


def test_a_password_of_the_store_is_not_shown(cli, fast, write_config, tmp_path):
    said = cli("run", write_config(tmp_path / "a.yaml", fast), "tracking.uri=http://me:secret@host:1", "seed=x")
    assert "tracked in http://" in said.err
    assert "secret" not in said.err


def ends(said):
    """Returns the last lines of a command by their names."""
    return dict(line.strip().split(": ", 1) for line in said.out.splitlines()[-6:])


def test_the_last_lines_say_where_everything_is_and_what_may_come_next(cli, fast, write_config, tmp_path, monkeypatch):
    config = write_config(tmp_path / "a.yaml", fast)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said = cli("run", config, "training.steps=2", "--limit", "5")
    last = ends(said)
    assert said.code == 0
    assert Path(last["run"], "summary.json").is_file()
    assert last["report"] == f"{last['run']}/figures"
    assert all(Path(last["run"], name).is_file() for name in last["beside it"].split(", "))
    assert Path(last["model"], "config.json").is_file()
    assert shlex.split(last["UI"]) == ["cl-mlm", "ui", "--experiment", "fast", "--uri", fast["tracking"]["uri"]]
    assert shlex.split(last["next"]) == ["cl-mlm", "run", str(config), "training.steps=2"]
    assert "at chance" not in said.out.replace("none is flagged as being at chance", "")
    assert said.out.count("its scores mean nothing") == 1
    again = cli("run", config, "training.steps=2", "--limit", "5")
    assert again.out.startswith("already finished")
    assert ends(again) == last


def test_a_model_that_is_not_kept_is_said_to_be_gone(cli, fast, write_config, tmp_path):
    fast["checkpoint"] = {"keep_stages": "none"}
    said = cli("run", write_config(tmp_path / "a.yaml", fast), "training.steps=1", "--limit", "4")
    assert ends(said)["model"] == "not kept (checkpoint.keep_stages=none)"


def result(folder, seed=0, limit=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(summary(seed=seed, limit=limit))
    values = json.loads((folder / "summary.json").read_text())
    return SimpleNamespace(folder=folder, summary=values)


@pytest.mark.parametrize(
    ("arms", "overrides", "runs", "expected"),
    [
        ([], [], [0], "cl-mlm run quickstart --arm all"),
        ([], ["strategies=[ewc]"], [0], "cl-mlm run quickstart 'strategies=[ewc]' --seed 0 --seed 1 --seed 2"),
        (["all"], [], [0, 0], "cl-mlm run quickstart --arm all --seed 0 --seed 1 --seed 2"),
        (["all"], [], [0, 1], "cl-mlm compare {} --markdown"),
    ],
)
def test_the_next_command_follows_from_what_was_run(tmp_path, arms, overrides, runs, expected):
    results = [result(tmp_path / "runs" / f"run-{k}", seed) for k, seed in enumerate(runs)]
    command = next_command(Path("quickstart"), overrides, arms, results)
    assert command == expected.format(tmp_path / "runs")


def test_a_smoke_run_is_no_run_to_compare_with(tmp_path):
    result(tmp_path / "runs" / "smoke", limit=5)
    one = result(tmp_path / "runs" / "full")
    assert next_command(Path("quickstart"), [], [], [one]) == "cl-mlm run quickstart --arm all"


def test_after_a_second_run_they_are_compared(tmp_path):
    result(tmp_path / "my runs" / "first")
    one = result(tmp_path / "my runs" / "second")
    assert next_command(Path("quickstart"), [], [], [one]) == f"cl-mlm compare '{tmp_path / 'my runs'}'"


def test_what_a_run_prints_fits_a_narrow_terminal(cli, fast, write_config, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    said = cli("run", write_config(tmp_path / "a.yaml", fast), "training.steps=2", "--limit", "5")
    assert said.code == 0
    to_copy = ("  in ", "run: ", "report: ", "model: ", "UI: ", "next: ")  # whole, however long
    shown = [*said.out.splitlines(), *said.err.splitlines()]
    printed = [line for line in shown if not line.startswith(to_copy)]
    assert any(line.startswith("report: ") and " " not in line.removeprefix("report: ") for line in shown)
    assert [line for line in printed if len(line) > 60 and " " in line.strip()] == []
    assert "…" not in said.out


def test_of_several_runs_too_all_but_paths_and_commands_fits(cli, fast, write_config, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    config = write_config(tmp_path / "a.yaml", fast)
    said = cli("run", config, "training.steps=1", "--limit", "5", "--seed", "0", "--seed", "1")
    shown = [line for line in (said.out + said.err).splitlines() if not line.startswith(("  in ", "UI: ", "next: "))]
    assert said.code == 0
    assert [line for line in shown if len(line) > 60 and " " in line.strip()] == []


def test_what_a_perfect_model_reaches_is_told_once_of_several_runs(tmp_path):
    from cl_mlm.cli.printing import result_line

    def finished(notes):
        metrics = {"average_accuracy": 0.5, "forgetting": 0.1}
        cost = {"train_seconds": 1.0, "eval_seconds": 1.0}
        summary = {"metrics": metrics, "cost": cost, "flags": [], "stream": {"notes": notes}}
        return SimpleNamespace(folder=tmp_path, summary=summary, is_new=True, warnings=[])

    told = set()
    ceiling = "column 'a': a perfect model reaches 0.900 (f1): 1 of 10 test rows cannot be right"
    other = ceiling.replace("0.900", "0.800")
    assert f"\n  data: {ceiling}" in result_line(finished(["carved", ceiling]), told)
    assert result_line(finished(["carved", ceiling, other]), told).splitlines()[1:] == [f"  data: {other}"]
    assert "data: " not in result_line(finished(["carved"]), told)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 3}', "7"])
def test_a_damaged_run_beside_it_is_none_to_compare_with(tmp_path, text):
    one = result(tmp_path / "runs" / "whole")
    result(tmp_path / "runs" / "damaged")
    (tmp_path / "runs" / "damaged" / "summary.json").write_text(text)
    assert next_command(Path("quickstart"), [], [], [one]) == "cl-mlm run quickstart --arm all"
