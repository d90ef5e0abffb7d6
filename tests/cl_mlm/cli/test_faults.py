"""Rules of errors that nobody foresaw: two lines, a file with the trace, a run that can go on."""

import json
import tempfile

import pytest

from cl_mlm.experiment.scoring import Scoring
from cl_mlm.tracking.journal import read_lines

SECRET = "http://me:s3cret@host/ answers no"


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch, tmp_path):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def config(fast, write_config, tmp_path):
    fast["training"]["steps"] = 2
    return write_config(tmp_path / "fast.yaml", fast)


def statuses(folder):
    return [
        (line["stage"], line["value"]) for line, _ in read_lines(folder / "journal.jsonl") if line["kind"] == "status"
    ]


def test_an_error_in_a_run_is_told_in_two_lines_and_the_same_command_goes_on(cli, config, monkeypatch, tmp_path):
    def fail(*given):
        raise RuntimeError(f"{SECRET}\nsecond line")

    monkeypatch.setattr(Scoring, "write", fail)
    said = cli("run", config)
    (folder,) = tmp_path.glob("runs/fast/*")
    first, second = said.err.splitlines()[-2:]
    assert said.code == 1
    assert "Traceback" not in said.err + said.out
    assert first.startswith("error: RuntimeError: http://host/ answers no (cli/test_faults.py:")
    assert second == (f"  full trace: {folder / 'traceback.txt'}; the same command goes on from the last checkpoint")
    trace = (folder / "traceback.txt").read_text()
    assert "Traceback" in trace
    assert "s3cret" not in trace + said.err
    assert statuses(folder)[-2:] == [(0, "FAILED"), (None, "FAILED")]
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert cli("run", config).code == 0
    assert json.loads((folder / "summary.json").read_text())["metrics"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(("list",), RecursionError()), (("list",), MemoryError()), (("run", "quickstart"), KeyError("x"))],
)
def test_an_error_outside_a_run_leaves_its_trace_in_the_temporary_folder(cli, monkeypatch, tmp_path, arguments, error):
    def fail(*given, **named):
        raise error

    monkeypatch.setattr("cl_mlm.cli.listing.overview", fail)
    monkeypatch.setattr("cl_mlm.config.arms.planned", fail)
    said = cli(*arguments)
    (file,) = (tmp_path / "temporary").iterdir()
    assert said.code == 1
    assert said.err.startswith(f"error: {type(error).__name__}")
    assert f"full trace: {file}; the same command " in said.err
    assert type(error).__name__ in file.read_text()


def test_a_trace_that_no_disk_takes_is_shown(cli, monkeypatch):
    monkeypatch.setattr("cl_mlm.cli.listing.overview", lambda: 1 / 0)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    said = cli("list")
    assert said.code == 1
    assert said.err.startswith("Traceback")
    assert "error: ZeroDivisionError: division by zero (cli/test_faults.py:" in said.err


@pytest.mark.parametrize("way", ["option", "variable"])
def test_debug_shows_the_trace_of_every_error(cli, monkeypatch, way):
    before = ["--debug"] if way == "option" else []
    monkeypatch.setenv("CL_MLM_DEBUG", "0" if way == "option" else "1")
    said = cli(*before, "list", "kyes")
    assert said.code == 2
    assert "Traceback" in said.err
    assert said.err.splitlines()[-1].startswith("error: list: must be one of")
    monkeypatch.setattr("cl_mlm.cli.listing.overview", lambda: 1 / 0)
    assert "Traceback" in cli(*before, "list").err
