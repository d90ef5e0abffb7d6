"""What `cl-mlm check` says of disk use, held against what runs write."""

import pytest
from typing_extensions import override

import cl_mlm
from cl_mlm.check.disk import disk_lines
from cl_mlm.config.loading import load_config
from cl_mlm.data.tasks import tasks_of
from cl_mlm.disk import shown
from cl_mlm.experiment.preparation import prepare
from cl_mlm.models.size import size_of_tasks
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stage, Stream


class Hoarder(Strategy):
    """Keeps something, and does not say how much."""

    @override
    def state_dict(self):
        return {"x": 1}

    @override
    def load_state_dict(self, state):
        pass


def told(config, *overrides, strategies=None):
    """Returns the lines on disk use of a config."""
    lines = disk_lines(prepare(load_config(config, overrides), strategies=strategies))
    assert lines[0].startswith("disk: ")
    return lines


def bytes_below(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_model_whose_config_cannot_be_had_is_told_and_no_failure(fast):
    (line,) = told(fast, "model=no-such/model")
    assert line.startswith("disk: not known: model.name: cannot load 'no-such/model': ")


@pytest.mark.parametrize(
    ("overrides", "copies"),
    [
        ([], 3),
        (["training.optimizer=sgd"], 2),
        (["training.patience=1"], 4),
        (["strategies=[ewc]"], 5),
        (["strategies=[replay,ewc]"], 5),
        (["strategies=[lwf]"], 3),
    ],
)
def test_a_step_checkpoint_holds_weights_moments_best_weights_and_states(fast, tiny_size, overrides, copies):
    (line, *_) = told(fast, *overrides)
    assert f"2 step checkpoints of {shown(copies * tiny_size.whole)}, " in line


@pytest.mark.parametrize(
    ("keep", "while_running", "afterwards"),
    [("all", 2, 2), ("last", 2, 1), ("none", 2, 0)],
    ids=["all", "last", "none"],
)
def test_stage_checkpoints_are_counted_as_they_are_kept(fast, tiny_size, keep, while_running, afterwards):
    (line, *_) = told(fast, f"checkpoint.keep_stages={keep}", "evaluation.splits=[validation]")
    assert f"{while_running} stage checkpoints of {shown(tiny_size.whole)}" in line
    assert line.endswith(f"afterwards {shown(afterwards * tiny_size.whole)}")


def test_the_most_is_the_kept_checkpoints_and_one_that_is_written(fast, tiny_size):
    (line, *_) = told(fast, "evaluation.splits=[validation]")
    assert f"while running at most {shown((2 * 1 + 3 * 3) * tiny_size.whole)} (" in line


def test_a_joint_run_has_one_stage_checkpoint(fast):
    (line, *_) = told(fast, "strategies=[joint]", "checkpoint.keep_stages=all")
    assert "(1 stage checkpoint of " in line


def test_a_strategy_that_keeps_an_unknown_amount_is_named(fast):
    assert told(fast, strategies=[Hoarder()])[-1] == (
        "disk: not counted: the state of hoarder, whose size is not known"
    )


def test_a_strategy_that_keeps_nothing_is_not_named(fast):
    assert not [line for line in told(fast, strategies=[Strategy()]) if "not counted" in line]


def test_shared_stages_are_told(fast, tiny_size):
    assert f"1 first stage of {shown(tiny_size.whole)}" in told(fast)[1]
    assert len(told(fast, "checkpoint.reuse_stages=0")) == 1


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (91_400_000, "91 MB"),
        (999_600, "1 MB"),
        (1.26e9, "1.3 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_sizes_are_shown_in_the_unit_that_suits_them(size, text):
    assert shown(size) == text


@pytest.mark.parametrize("export", ["merged", "adapter"])
def test_a_stage_with_an_adapter_takes_what_is_told(fast, export):
    """The tiny model lies beside its adapter once more, for nothing else keeps it."""
    fast["finetuning"] = {"mode": "lora", "export": export}
    prepared = prepare(load_config(fast))
    told = size_of_tasks(prepared.config, tasks_of(prepared.stream))
    result = cl_mlm.run(fast, "checkpoint.keep_stages=last", progress=False)
    found = sum(path.stat().st_size for path in result.folder.glob("stages/*/**/*.safetensors"))
    assert found == pytest.approx(told.whole, rel=0.03)


def test_what_is_said_is_what_a_run_writes(fast, tiny_size, monkeypatch):
    """Largest folder while running and size afterwards, of a run with a strategy that keeps copies."""
    from cl_mlm.storage import checkpoint

    largest, write = {"stages": 0, "steps": 0}, checkpoint.write_folder_whole

    def measured(final, *given):
        made = write(final, *given)
        kind = final.parent.name
        if kind in largest:
            largest[kind] = max(largest[kind], bytes_below(made))
        return made

    monkeypatch.setattr(checkpoint, "write_folder_whole", measured)
    fast["training"] |= {"steps": 4}
    fast["strategies"] = {"ewc": {"rows": 4}}
    result = cl_mlm.run(fast, "checkpoint.every_steps=2", progress=False)
    tokenizer = bytes_below(result.folder / "stages") - 3 * tiny_size.whole
    assert tokenizer < 500_000
    assert largest["stages"] == pytest.approx(3 * tiny_size.whole, rel=0.02)
    assert largest["steps"] == pytest.approx(5 * tiny_size.whole, rel=0.02)
    assert bytes_below(result.folder / "predictions") < 40 * 2 * 24 + 10_000


def test_of_packed_texts_the_blocks_are_counted_and_not_the_rows(fast):
    from datasets import Dataset

    rows = {split: Dataset.from_dict({"text": [f"{split} " * 40_000]}) for split in ("train", "validation", "test")}
    stage = Stage("s", **rows, labels=(), objective="language_modelling", options={"pack": True})
    config = load_config(
        {key: value for key, value in fast.items() if key != "stream"},
        ["model=tiny-decoder", "training.max_length=16"],
        needs_stream=False,
    )
    (line, *_) = disk_lines(prepare(config, Stream("s", (stage,), "domain_incremental")))
    # Before training and after the one stage.
    assert f"predictions {shown(2 * 40 * (5 * 40_000 // 16))}" in line
