"""Tells on standard error how a run goes on: what it is, a line for every stage, and the time that is left.

On a terminal a live line shows the steps. Elsewhere, as in a notebook or a log, there are plain lines only, which need
no widgets.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Self

from cl_mlm.results.terminal_text import terminal_width, wrapped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from cl_mlm.experiment.preparation import Prepared

log = logging.getLogger(__name__)

NOTEBOOK_SECONDS = 30.0  # between two signs of life within a stage where no live line can be shown
NAME_LENGTH = 16  # of a stage in the live line, which must fit in 60 columns
ROOMY = 90  # columns from which the live line shows loss and rows a second, too


@dataclass
class Command:
    """The runs of one command, so that each of them can tell the time left of all.

    Attributes:
        num_runs: how many there are.
        number: of the present one, from 1.
        spent: seconds of each run that this command has trained.
        folder: of the present run; None: before the first one.
        lost_sending_seconds: that the ends of its runs waited in vain for the tracking server.
    """

    num_runs: int = 1
    number: int = 1
    spent: list[float] = field(default_factory=list)
    folder: Path | None = None
    lost_sending_seconds: float = 0.0

    def later_seconds(self, present: float) -> float:
        """Returns the seconds that the runs after the present one will take; `present`: what that one will take."""
        known = [*self.spent, present]
        return (self.num_runs - self.number) * sum(known) / len(known)


class Pace:
    """The time left of a run, by the steps and evaluations that it has taken so far.

    Args:
        steps: of every stage; None: not known before it begins.
        is_measured: for every stage, whether it is scored.
    """

    def __init__(self, steps: Sequence[int | None], is_measured: Sequence[bool]) -> None:
        self._is_measured = list(is_measured)
        # Of every stage and those behind it: steps that are known, stages whose steps are not, scored stages. They are
        # asked for at every step, and a stream may have many thousand stages.
        self._known_from = _sums_to_end([steps_of_stage or 0 for steps_of_stage in steps])
        self._unknown_from = _sums_to_end([steps_of_stage is None for steps_of_stage in steps])
        self._measured_from = _sums_to_end(is_measured)
        # A stage that is not counted yet will be like the last that is.
        self._usual = next(((i, number) for i, number in reversed([*enumerate(steps)]) if number), (-1, 0))
        self._train_seconds, self._train_steps = 0.0, 0
        self._eval_seconds = 0.0  # of the last stage that was scored
        self._stage_index, self._stage_started, self._stage_steps = 0, 0.0, 0

    def begin(self, stage_index: int) -> None:
        """A stage begins."""
        self._stage_index, self._stage_started, self._stage_steps = stage_index, time.monotonic(), 0

    def left(self, step: int, num_steps: int) -> float | None:
        """A step is done; returns the seconds left of the run."""
        if num_steps and self._stage_index >= self._usual[0]:
            self._usual = (self._stage_index, num_steps)
        self._stage_steps += 1
        rate = (self._train_seconds + time.monotonic() - self._stage_started) / (self._train_steps + self._stage_steps)
        return rate * (num_steps - step) + self._later(self._stage_index + 1, rate, self._stage_index)

    def left_after_stage(self, train_seconds: float, eval_seconds: float) -> float | None:
        """The stage is trained and scored; returns the seconds left of the run. None: nothing is measured yet."""
        if self._stage_steps:
            self._train_seconds += train_seconds
            self._train_steps += self._stage_steps
        if self._is_measured[self._stage_index]:
            self._eval_seconds = eval_seconds
        later = self._stage_index + 1
        if later == len(self._is_measured):
            return 0.0
        if not self._train_steps:
            return None
        return self._later(later, self._train_seconds / self._train_steps, later)

    def _later(self, first: int, rate: float, first_scored: int) -> float:
        """Returns the seconds of all training from stage `first` on, and of scoring from stage `first_scored` on."""
        steps = self._known_from[first] + self._usual[1] * self._unknown_from[first]
        return rate * steps + self._eval_seconds * self._measured_from[first_scored]


def _sums_to_end(values: Sequence[int]) -> list[int]:
    """Returns for every place the sum of the values from there to the end; 0 behind the last."""
    return [*accumulate(reversed(values), initial=0)][::-1]


class Progress:
    """What a run shows of itself.

    Attributes:
        command: the run is one of its runs.

    Args:
        prepared: the run.
        folder: where it is written.
        shown: False: silent. A `Command`: the run is one of several.
    """

    def __init__(self, prepared: Prepared, folder: Path, shown: bool | Command | None = None) -> None:
        from cl_mlm.experiment.stage_steps import stage_steps  # not above: it imports torch, and `Command` is light

        self._prepared, self._folder = prepared, folder
        self._is_shown = shown is not False
        self.command = shown if isinstance(shown, Command) else Command()
        self.command.folder = folder
        stages = range(len(prepared.stream))
        self._steps = stage_steps(prepared) if self._is_shown else [None for _ in stages]
        self._pace = Pace(self._steps, [prepared.stream.is_measured(i) for i in stages])
        self._is_live = self._is_shown and sys.stderr.isatty()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._stage, self._loss, self._rows = "", math.nan, 0
        self._started = self._stage_started = self._last_sign = time.monotonic()

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._say(self._head())
        self._say(f"  in {self._folder}", is_path=True)
        if self._is_live:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=6),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("before training", total=None, left="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if error is None:
            self.command.spent.append(time.monotonic() - self._started)

    def stage(self, stage_index: int, num_stages: int, name: str) -> None:
        """A stage begins."""
        self._stage = f"{stage_index + 1}/{num_stages} {name}"
        self._rows, self._loss, self._stage_started = 0, math.nan, time.monotonic()
        self._pace.begin(stage_index)
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task, total=None, description=self._short_stage(), left="")

    def resumes(self, stage_index: int, step: int) -> None:
        """The run goes on from a checkpoint: at the beginning of a stage (step 0), or within it."""
        self._say(f"  resumes at stage {stage_index + 1}, step {step}")

    def reuses(self, name: str, run: str) -> None:
        """The present stage was trained by another run and is taken over."""
        self._say(f"  stage {name} is shared: {run} has trained it")

    def step(self, step: int, num_steps: int, epoch: int, rows: int, values: Mapping[str, float]) -> None:
        """A step is done; `values` is empty but where they were read."""
        if not self._is_shown:
            return
        self._rows += rows
        self._loss = values.get("train/loss/stage", self._loss)
        left = self._pace.left(step, num_steps)
        if self._bar is None or self._task is None:
            if "ipykernel" in sys.modules and time.monotonic() - self._last_sign > NOTEBOOK_SECONDS:
                self._say(f"  stage {self._stage}: step {step} of {num_steps}; {self._left_in_words(left)}")
            return
        text, width = self._short_stage(), self._bar.console.width
        if width >= ROOMY:
            rate = self._rows / max(1e-9, time.monotonic() - self._stage_started)
            text += f" epoch {epoch + 1}{'' if math.isnan(self._loss) else f' loss {self._loss:.3f}'} {rate:.0f} rows/s"
        shown = "" if left is None else f"left {_clock(left)}{self._all_left(left)}"
        self._bar.update(self._task, completed=step, total=num_steps, description=text, left=shown)

    def stage_done(self, scores: Mapping[str, float] | None, train_seconds: float, eval_seconds: float) -> None:
        """A stage was trained, and scored where it is a measured one.

        Args:
            scores: 0-1 by what they are; NaN: undefined. None: the stage is not a measured one, and no line is shown.
            train_seconds: of training it.
            eval_seconds: of scoring it.
        """
        left = self._pace.left_after_stage(train_seconds, eval_seconds)
        if scores is None:
            return
        shown = [f"{name} {100 * score:.1f} %" for name, score in scores.items() if not math.isnan(score)]
        taken = duration(train_seconds + eval_seconds)
        self._say(f"  stage {self._stage}: {', '.join([*shown, taken])}; {self._left_in_words(left)}")

    def still_sending(self, seconds: float) -> None:
        """The run has ended, and its last measurements are sent for at most so many seconds."""
        self._say(f"  sending to the tracking server, for at most {seconds:.0f} s more ...")

    def warn(self, warning: str) -> None:
        """Tells what a run that ends early cannot return; a silent one logs it."""
        if self._is_shown:
            self._say(f"warning: {warning}")
        else:
            log.warning(warning)

    def _head(self) -> str:
        """Returns what runs, where it is computed, and how much it is."""
        training, stream = self._prepared.config.training, self._prepared.stream
        number = f"[{self.command.number}/{self.command.num_runs}] " if self.command.num_runs > 1 else ""
        counted = [steps for steps in self._steps if steps is not None]
        steps = f"{sum(counted):,} steps" if len(counted) == len(self._steps) else "steps counted stage by stage"
        at_most = "at most " if training.may_stop_early and counted else ""
        threads = "1 thread" if training.threads == 1 else f"{training.threads} threads"
        stages = "1 stage" if len(stream) == 1 else f"{len(stream)} stages"
        where = f"{training.device}, {training.precision}, {threads}"
        return f"{number}{self._folder.name}: {where}; {stages}, {at_most}{steps}"

    def _say(self, line: str, *, is_path: bool = False) -> None:
        """Shows a line, wrapped where it is wider than the terminal; a path is there to be copied and stays whole."""
        if not self._is_shown:
            return
        line = line if is_path else wrapped(line, terminal_width(sys.stderr))
        self._last_sign = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _short_stage(self) -> str:
        number, _, name = self._stage.partition(" ")
        return f"{number} {name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + '…'}"

    def _all_left(self, left: float) -> str:
        """Returns the time left of the whole command, for the live line; empty where this is its last run."""
        if self.command.number == self.command.num_runs:
            return ""
        return f", all {_clock(left + self.command.later_seconds(self._spent() + left))}"

    def _left_in_words(self, left: float | None) -> str:
        if left is None:
            return "time left not known yet"
        words = f"about {duration(left)} left" if left else "all stages done"
        if self.command.number < self.command.num_runs:
            later = self.command.later_seconds(self._spent() + left)
            words += f", {duration(left + later)} of all {self.command.num_runs} runs"
        return words

    def _spent(self) -> float:
        return time.monotonic() - self._started


def duration(seconds: float) -> str:
    """Returns seconds in the units that suit them, such as `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _clock(seconds: float) -> str:
    """Returns seconds as `0:40` or `1:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
