"""Several arms by one command, and the quickstart as it is shipped."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_arms_are_run_one_after_another_and_compared(cli, fast, write_config, tmp_path):
    arms = {"naive": {}, "joint": {"strategies": ["joint"]}}
    said = cli("run", write_config(tmp_path / "a.yaml", fast | {"arms": arms}), "--arm", "all", "training.steps=1")
    assert said.code == 0
    runs = [path for path in (tmp_path / "runs" / "fast").iterdir() if path.is_dir()]
    assert sorted(path.name.partition("-")[0] for path in runs) == ["joint", "naive"]
    assert (tmp_path / "runs" / "fast" / "compare.csv").is_file()


def smoke_run(cli, arm, output):
    """Runs arms of the quickstart on 20 rows a split; returns the strategies of the runs it has made."""
    path, settings = ROOT / "configs" / "quickstart.yaml", ("training.threads=1", "training.device=cpu")
    assert cli("run", path, "--arm", arm, "--limit", "20", f"output={output}", *settings).code == 0
    folders = [path.name for path in (output / "quickstart").iterdir() if path.is_dir()]
    return sorted(name.removeprefix("limit20-").partition("-")[0] for name in folders)


def test_a_smoke_run_of_the_quickstart_ends_well(cli, own_store, tmp_path):
    assert smoke_run(cli, "replay", tmp_path) == ["replay"]


@pytest.mark.slow
def test_a_smoke_run_of_every_arm_of_the_quickstart_ends_well(cli, own_store, tmp_path):
    assert smoke_run(cli, "all", tmp_path) == ["ewc", "joint", "lwf", "naive", "replay"]
    assert (tmp_path / "quickstart" / "compare.csv").is_file()
