"""Arms of one file by one command: their names in folders, summaries, MLflow and tables, and what is compared."""

import csv
import json
import shutil

import pytest
from omegaconf import OmegaConf

import cl_mlm
from cl_mlm.tracking.journal import read_lines

ARMS = {name: {"strategies": {"replay": {"capacity": size}}} for name, size in {"er small": 4, "er large": 8}.items()}


@pytest.fixture(scope="module")
def both(make_fast, write_config, tmp_path_factory):
    """The folder of an experiment in which both arms, each limited to 2 steps a stage, and a run by hand are done."""
    root = tmp_path_factory.mktemp("arms")
    config = make_fast(root / "runs")
    config["training"] |= {"steps": 2}
    cl_mlm.run(config, "seed=5", progress=False)
    return write_config(root / "arms.yaml", config | {"arms": ARMS})


@pytest.fixture
def said(cli, both):
    return cli("run", both, "--arm", "all")


def folders(config, pattern="er-*"):
    return sorted((config.parent / "runs" / "fast").glob(pattern))


def rows_of(config):
    with (config.parent / "runs" / "fast" / "compare.csv").open() as file:
        return {row["group"] for row in csv.DictReader(file)}


def test_the_arm_is_in_folder_config_summary_and_journal(said, both):
    assert said.code == 0
    large, small = folders(both)
    assert large.name.startswith("er-large-seed0-")
    assert small.name.startswith("er-small-seed0-")
    assert OmegaConf.load(large / "config.yaml").arm == "er large"
    summary = json.loads((large / "summary.json").read_text())
    assert (summary["arm"], summary["label"], summary["run_id"]) == ("er large", "replay", large.name)
    lines = [line for line, _ in read_lines(large / "journal.jsonl")]
    assert lines[0]["run_name"] == large.name
    tags = {key: value for line in lines if line["kind"] == "tags" for key, value in line["values"].items()}
    assert (tags["arm"], tags["strategies"]) == ("er large", "replay")


def test_the_command_compares_its_own_runs_and_always_draws_them(said, both):
    folder = both.parent / "runs" / "fast"
    assert rows_of(both) == {"er small", "er large"}
    (folder / "compare.png").unlink()
    assert "er large" in said.out
    assert "er-large-seed0" in said.out


def test_handed_back_and_a_single_arm_are_compared_too(said, both, cli):
    folder = both.parent / "runs" / "fast"
    (folder / "compare.png").unlink(missing_ok=True)
    (folder / "compare.csv").unlink()
    assert cli("run", both, "--arm", "all").code == 0
    assert rows_of(both) == {"er small", "er large"}
    assert (folder / "compare.png").is_file()


def test_compare_of_the_folder_has_the_run_by_hand_as_well(said, both, cli):
    assert cli("compare", both.parent / "runs" / "fast").code == 0
    assert rows_of(both) == {"er small", "er large", "naive"}


def test_a_smoke_run_does_not_join_a_later_comparison(said, both, cli):
    limited = cli("run", both, "--arm", "all", "--limit", "8")
    assert "smoke runs: " in limited.out
    assert (both.parent / "runs" / "fast" / "compare.png").is_file()
    compared = cli("compare", both.parent / "runs" / "fast")
    assert "left out, for smoke runs (limit) are no results: 2: limit8-er-large-seed0-" in compared.out
    for folder in folders(both):
        if json.loads((folder / "summary.json").read_text())["settings"]["limit"]:
            shutil.rmtree(folder)


def test_a_run_of_an_arm_is_resumed_and_rerun_from_its_folder(said, both, cli):
    large, _ = folders(both)
    (large / "summary.json").unlink()
    assert cli("resume", large).code == 0
    assert json.loads((large / "summary.json").read_text())["arm"] == "er large"
    again = cli("rerun", large)
    assert again.code == 0, again
    second = large.with_name(f"{large.name}-2")
    assert f"again: {second}" in again.out
    shutil.rmtree(second)
