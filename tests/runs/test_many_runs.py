"""One process makes many runs: what it holds does not grow with them."""

import gc
import os
import shutil
from pathlib import Path

import pytest
import yaml

import cl_mlm
from cl_mlm.experiment import session

pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

SETTLED = 4  # runs after which imports and caches of libraries are complete
RUN_BYTES = 1_000_000  # that a run may leave at most, on average; about 20 kB are measured


def held():
    """Returns what this process holds: open files, threads, temporary files, resident bytes."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    here, temporary = (len([*Path(folder).iterdir()]) for folder in ("/proc/self/fd", os.environ["TMPDIR"]))
    return {"files": here, "threads": len([*Path("/proc/self/task").iterdir()]), "temporary": temporary}, resident


@pytest.fixture
def readings(monkeypatch, tmp_path):
    """What is held after every run."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    found, run_in = [], session.run_in

    def counted(*arguments, **named):
        result = run_in(*arguments, **named)
        found.append(held())
        return result

    monkeypatch.setattr(session, "run_in", counted)
    return found


def assert_flat(readings):
    counts, sizes = zip(*readings[SETTLED - 1 :], strict=True)
    for kind in counts[0]:
        numbers = [count[kind] for count in counts]
        assert max(numbers) <= numbers[0], f"{kind} after every run: {numbers}"
    grown = (sizes[-1] - sizes[0]) / (len(sizes) - 1)
    assert grown < RUN_BYTES, f"{grown:.0f} bytes a run: {sizes}"


@pytest.fixture
def short(fast):
    fast["training"] |= {"epochs": 1, "steps": 1}
    fast["evaluation"] = {"splits": ["test"]}
    return fast


def test_nine_runs_leave_what_four_leave(short, readings):
    for seed in range(9):
        cl_mlm.run(short, seed=seed, progress=False)
    assert_flat(readings)


@pytest.mark.slow
@pytest.mark.parametrize("strategies", [["naive"], ["replay", "ewc", "lwf"]], ids=" ".join)
def test_fifty_runs_with_a_store_each_leave_what_four_leave(short, readings, empty_store, tmp_path, strategies):
    for seed in range(50):
        shutil.copyfile(empty_store, tmp_path / f"{seed}.db")
        short["tracking"] = {"uri": f"sqlite:///{tmp_path / f'{seed}.db'}"}
        cl_mlm.run(short, seed=seed, strategies=strategies, progress=False)
    assert_flat(readings)


@pytest.mark.slow
def test_fifty_seeds_of_one_command_leave_what_four_leave(short, readings, cli, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(short))
    seeds = [word for seed in range(50) for word in ("--seed", seed)]
    assert cli("run", tmp_path / "config.yaml", *seeds).code == 0
    assert len(readings) == 50
    assert_flat(readings)
