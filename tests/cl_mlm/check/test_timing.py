"""Timed steps: what they leave alone, and what is made of them."""

import pytest

from cl_mlm.check.timing import Timed, timed_steps
from cl_mlm.check.workload import StageWork
from cl_mlm.config.loading import load_config
from cl_mlm.experiment.preparation import prepare


@pytest.fixture
def timed():
    return Timed(
        steps=5,
        step=2.0,
        later_step=3.0,
        before_row=0.1,
        after_row=0.2,
        first_after_row=0.4,
        scored_row=0.01,
        frozen_row=0.0,
        peak_bytes=1,
        device="cpu",
    )


def test_a_runs_time_is_that_of_its_steps_hooks_and_validations(timed):
    work = [StageWork(10, 5, 100, 50), StageWork(20, 7, 0, 150)]
    assert timed.training_seconds(work, 30) == pytest.approx(5 * 2 + 10 * 0.4 + 1 + 7 * 3 + 20 * 0.3)
    assert timed.evaluation_seconds(work, 0) == pytest.approx(2.0)


def test_the_first_stage_that_is_trained_has_nothing_to_guard(timed):
    assert timed.training_seconds([StageWork(0, 0, 0, 0), StageWork(10, 5, 0, 9)], 10) == pytest.approx(14)


def test_without_steps_there_is_no_time(timed):
    assert timed.training_seconds([StageWork(None, None, 0, 9)], 10) is None


def test_steps_are_timed_and_nothing_is_left_behind(fast, tmp_path):
    prepared = prepare(load_config(fast, ["strategies=[ewc,replay]"]))
    found = timed_steps(prepared, 2)
    assert min(found.step, found.later_step, found.scored_row, found.after_row) > 0
    assert found.step < 20
    assert found.peak_bytes > 1e8
    assert (found.steps, found.device, found.frozen_row) == (2, "cpu", 0.0)
    assert not prepared.strategies[0].precision
    assert not len(prepared.strategies[1].buffer)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("strategies", ["[]", "[joint]", "[cumulative]"])
def test_only_strategies_make_later_stages_others(fast, strategies):
    found = timed_steps(prepare(load_config(fast, [f"strategies={strategies}"])), 1)
    assert (found.later_step is None) == (strategies != "[cumulative]")


def test_more_steps_than_an_epoch_has_can_be_timed(fast):
    assert timed_steps(prepare(load_config(fast, ["training.batch_size=16"])), 3).steps == 3


def test_a_frozen_body_counts_once_a_row(fast, monkeypatch):
    """The first step takes 9 s, the further ones 1 s: 8 s for the 16 rows that the body read in it."""
    from cl_mlm.check import timing

    seconds = iter([0, 9.0, 1.0, 1.0, *[0.5] * 9])

    def clocked(run, work):
        work()
        return next(seconds)

    monkeypatch.setattr(timing, "_seconds", clocked)
    assert timed_steps(prepare(load_config(fast, ["finetuning.mode=head"])), 2).frozen_row == pytest.approx(8 / 16)


@pytest.mark.parametrize("kind", ["mixed", "packed"])
def test_stages_of_several_objectives_and_blocks_can_be_timed(kind, request):
    found = timed_steps(prepare(load_config(request.getfixturevalue(kind))), 1)
    assert min(found.step, found.scored_row) > 0
    assert (found.later_step is not None) == (kind == "mixed")


def test_a_chunk_of_an_online_stream_can_be_timed(fast):
    overrides = ["stream.scenario=online", "stream.chunk_rows=3", "training.epochs=1", "strategies=[replay]"]
    assert timed_steps(prepare(load_config(fast, overrides)), 2).later_step > 0
