"""Rules of what a run tells of itself while it goes on: its head, a line a stage, the time left, where it resumes."""

import io
import re
import sys

import pytest

import cl_mlm
from cl_mlm.experiment import progress
from cl_mlm.experiment.progress import Command, Pace
from cl_mlm.experiment.running import Experiment

STAGE = re.compile(
    r"  stage (\d)/2 (\S+): score [\d.]+ %, mean so far [\d.]+ %, [\d.]+ s; (about .* left|all stages done)"
)


@pytest.fixture
def clock(monkeypatch):
    """The time that `progress` reads; `clock[0]` sets it."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class TestTimeLeft:
    def test_steps_that_are_left_take_what_the_steps_so_far_took(self, clock):
        pace = Pace([10, 10], [True, True])
        pace.begin(0)
        clock[0] = 2.0
        assert pace.left(1, 10) == 2.0 * 9 + 2.0 * 10

    def test_evaluations_count_once_they_are_measured(self, clock):
        pace = Pace([4, 4, 4], [True, True, True])
        pace.begin(0)
        for step in range(1, 5):
            clock[0] += 1
            pace.left(step, 4)
        assert pace.left_after_stage(train_seconds=4.0, eval_seconds=3.0) == 2 * 4 + 2 * 3
        pace.begin(1)
        clock[0] += 1
        assert pace.left(1, 4) == 3 + 4 + 2 * 3

    def test_stages_that_are_not_measured_take_no_evaluation(self, clock):
        pace = Pace([2, 2, 2], [False, False, True])
        pace.begin(0)
        clock[0] = 2.0
        pace.left(2, 2)
        assert pace.left_after_stage(2.0, 0.0) == 2.0 * 2 * 2

    def test_a_stage_whose_steps_are_not_counted_yet_is_like_the_last_one(self, clock):
        pace = Pace([None, None], [True, True])
        pace.begin(0)
        clock[0] = 1.0
        assert pace.left(1, 5) == 4 + 5

    def test_a_stage_that_is_not_counted_is_like_the_last_that_is_whatever_its_place(self, clock):
        pace = Pace([None, 7, None, None], [False, True, False, True])
        pace.begin(0)
        clock[0] = 1.0
        assert pace.left(1, 5) == 4 + 7 + 7 + 7
        pace.begin(2)
        clock[0] = 2.0
        assert pace.left(1, 3) == 2 + 3

    def test_within_a_resumed_stage_only_steps_of_this_session_count(self, clock):
        pace = Pace([100], [True])
        pace.begin(0)
        clock[0] = 1.0
        assert pace.left(91, 100) == 9.0

    def test_after_a_stage_that_was_taken_over_nothing_is_known(self, clock):
        pace = Pace([5, 5], [True, True])
        pace.begin(0)
        assert pace.left_after_stage(0.1, 0.2) is None

    def test_runs_to_come_take_what_the_runs_so_far_took(self):
        assert Command(num_runs=4, number=2, spent=[10.0]).later_seconds(20.0) == 2 * 15.0
        assert Command(num_runs=2, number=2, spent=[10.0]).later_seconds(20.0) == 0


class TestPlainLines:
    def test_a_run_tells_what_it_is_and_a_line_for_every_stage(self, fast, capsys):
        result = cl_mlm.run(fast, "training.steps=4")
        head, folder, *stages = capsys.readouterr().err.splitlines()
        assert head == f"{result.folder.name}: cpu, fp32, 1 thread; 2 stages, 8 steps"
        assert folder == f"  in {result.folder}"
        assert [STAGE.fullmatch(line).group(1, 2) for line in stages] == [("1", "labels-01"), ("2", "labels-02")]
        assert stages[-1].endswith("all stages done")
        assert f"score {100 * result.matrix[0, 0]:.1f} %" in stages[0]
        assert f"mean so far {100 * result.matrix[1].mean():.1f} %" in stages[1]

    def test_a_silent_run_says_nothing(self, fast, capsys):
        cl_mlm.run(fast, "training.steps=2", progress=False)
        assert capsys.readouterr().err == ""

    def test_no_widgets_are_needed(self, fast, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "ipywidgets", None)
        monkeypatch.setitem(sys.modules, "ipykernel", io)
        monkeypatch.setattr(progress, "NOTEBOOK_SECONDS", 0.0)
        cl_mlm.run(fast, "training.steps=3")
        steps = re.findall(r"^  stage 1/2 labels-01: step (\d) of 3; about .* left$", capsys.readouterr().err, re.M)
        assert steps == ["1", "2", "3"]

    def test_one_of_several_runs_tells_the_time_of_all(self, fast, cli, write_config, tmp_path):
        fast["arms"] = {"naive": {}, "replay": {"strategies": {"replay": {}}}}
        fast["checkpoint"] = {"reuse_stages": 0}
        said = cli("run", write_config(tmp_path / "a.yaml", fast), "--arm", "all", "training.steps=2")
        assert said.code == 0
        assert re.search(r"^\[1/2\] naive-seed0-", said.err, re.M)
        assert len(re.findall(r" of all 2 runs$", said.err, re.M)) == 2  # of the first run's stages

    def test_a_resumed_run_says_from_where(self, fast, capsys, monkeypatch):
        told = Experiment.step_done

        def stop(self, step, *others):
            told(self, step, *others)
            if self.stage_index == 1 and step == 4:
                raise KeyboardInterrupt

        fast["checkpoint"] = {"every_steps": 2}
        with monkeypatch.context() as patch:
            patch.setattr(Experiment, "step_done", stop)
            with pytest.raises(KeyboardInterrupt):
                cl_mlm.run(fast, "training.steps=6")
        capsys.readouterr()
        cl_mlm.run(fast, "training.steps=6")
        assert capsys.readouterr().err.splitlines()[2] == "  resumes at stage 2, step 2"

    def test_a_stage_of_another_run_is_named(self, fast, capsys):
        first = cl_mlm.run(fast, "training.steps=2")
        cl_mlm.run(fast, "training.steps=2", strategies=["replay"])
        assert f"  stage labels-01 is shared: {first.folder.name} has trained it" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_live_line_fits_a_narrow_terminal_and_tells_the_time_left(fast, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    fast["stream"]["labels_per_stage"] = 2
    cl_mlm.run(fast, "training.steps=8", progress=Command(num_runs=3, number=1))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    live = [line for line in re.split(r"[\r\n]+", shown) if "━" in line]
    assert live
    assert max(map(len, live)) <= 60
    assert any(re.search(r"1/2 labels-01 .* \d/8 +left \d+:\d\d, all \d+:\d\d", line) for line in live)
