"""A run that is killed at any step and resumed ends with the same weights, figures and journal, to the bit."""

import json
import signal
from typing import Any

import pytest
from killing import Restless, die_at, signalled_at

import cl_mlm
from cl_mlm.errors import StorageError

NUM_STEPS = 48  # two stages of 24
# Facts about clock and machine, which no second run can have alike.
UNEQUAL = ("train_seconds", "eval_seconds", "peak_memory_bytes")


ARMS: dict[str, Any] = {
    "naive": [],
    "replay+ewc": {"replay": {"capacity": 8}, "ewc": {"weight": 10.0}},
    "lwf": {"lwf": {"weight": 2.0}},
    "joint": ["joint"],
    "si+mix+agem": {"si": {"weight": 50.0, "damping": 1e-3}, "mix": {"ratio": 0.2}, "agem": {"capacity": 8}},
    "restless": None,
}
# Some places: the first step, the last, just before, at and after a checkpoint (every 5 steps), both stages.
CUTS = [
    *(("naive", at) for at in (1, 5)),
    *(("replay+ewc", at) for at in (6, 24, 25, 33)),
    *(("lwf", at) for at in (29, 47)),
    *(("joint", at) for at in (13, 48)),
    *(("si+mix+agem", at) for at in (8, 38)),
    *(("restless", at) for at in (23, 40)),
]


def run(config, arm, output):
    strategies = [Restless()] if arm == "restless" else ARMS[arm]
    settings = {"strategies": strategies} if isinstance(strategies, list) else {}
    layer = {
        **config,
        "output": str(output),
        "checkpoint": {"every_steps": 5, "every_minutes": None, "reuse_stages": 0},
    }
    if isinstance(strategies, dict):
        layer["strategies"] = strategies
    if arm == "joint":
        layer["training"] = {**config["training"], "steps": NUM_STEPS, "patience": None}
    return cl_mlm.run(layer, progress=False, **settings)


def comparable(summary):
    kept = {key: value for key, value in summary.items() if key not in ("run_id", "settings")}
    return {**kept, "cost": {k: v for k, v in summary["cost"].items() if k not in UNEQUAL}}


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "stages" / "001" / "model" / "model.safetensors")


def points(folder):
    """Returns every metric point of a journal, in order, but for facts about the clock."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [
        (line["stage"], line["step"], key, value)
        for line in lines
        if line["kind"] == "metrics"
        for key, value in line["values"].items()
        if not key.startswith(("time/", "cost/"))
    ]


@pytest.fixture(scope="module")
def whole(make_fast, tmp_path_factory):
    """Uninterrupted runs, one for each arm, made when they are first asked for."""
    import torch

    torch.set_num_threads(1)
    folder, made = tmp_path_factory.mktemp("whole"), {}

    def get(arm):
        if arm not in made:
            made[arm] = run(make_fast(folder), arm, folder)
        return made[arm]

    return get


def assert_equal_runs(first, second):
    import torch

    assert comparable(first.summary) == comparable(second.summary)
    a, b = weights(first.folder), weights(second.folder)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert sorted(points(first.folder), key=repr) == sorted(points(second.folder), key=repr)


@pytest.mark.parametrize(("arm", "at"), CUTS)
def test_a_run_killed_at_a_step_ends_as_if_it_had_not_been(arm: str, at: int, whole, fast, tmp_path):
    assert die_at(at, lambda: run(fast, arm, tmp_path)) == -signal.SIGKILL
    assert_equal_runs(whole(arm), run(fast, arm, tmp_path))


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_in_training_writes_a_checkpoint_of_that_very_step(number, error, whole, fast, tmp_path):
    with signalled_at(28, number), pytest.raises(error):
        run(fast, "lwf", tmp_path)
    (kept,) = tmp_path.glob("fast/*/steps/001-*")
    assert kept.name == "001-000000004"
    assert_equal_runs(whole("lwf"), run(fast, "lwf", tmp_path))


def test_early_stopping_goes_on_with_the_best_weights_it_had(fast, tmp_path):
    fast["training"]["patience"] = 2
    first = run(fast, "naive", tmp_path / "whole")

    assert die_at(19, lambda: run(fast, "naive", tmp_path / "cut")) == -signal.SIGKILL
    assert_equal_runs(first, run(fast, "naive", tmp_path / "cut"))


@pytest.mark.parametrize("harm", ["truncated", "one bit"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(harm, whole, fast, tmp_path, caplog):
    assert die_at(38, lambda: run(fast, "replay+ewc", tmp_path)) == -signal.SIGKILL
    newest = sorted(tmp_path.glob("fast/*/steps/001-*"))[-1] / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content[:-10] if harm == "truncated" else content)
    assert_equal_runs(whole("replay+ewc"), run(fast, "replay+ewc", tmp_path))
    assert any(str(newest) in record.getMessage() for record in caplog.records)


def test_a_disk_that_fills_while_a_checkpoint_is_written_leaves_the_last_good_one(whole, fast, tmp_path, monkeypatch):
    from cl_mlm.storage import state_files

    save, calls = state_files.save_file, [0]

    def full(tensors, path):
        calls[0] += 1
        if calls[0] == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(state_files, "save_file", full)
    with pytest.raises(StorageError, match="the disk is full") as caught:
        run(fast, "lwf", tmp_path)
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob("fast/*/steps/*")] == ["000-000000005", "000-000000010"]
    assert_equal_runs(whole("lwf"), run(fast, "lwf", tmp_path))
