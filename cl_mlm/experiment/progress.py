"""Shows a run on the terminal while it goes on; silent where standard error is no terminal."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class Progress:
    """Stage, epoch progress, loss, examples a second and time left, on standard error.

    Args:
        title: what runs, shown before the stage.
        enabled: None: only where standard error is a terminal.
    """

    def __init__(self, title: str, enabled: bool | None = None) -> None:
        self.title = title
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._loss = math.nan
        self._rows = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._enabled:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=6),  # everything must fit in 80 columns
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, stage_index: int, num_stages: int, name: str) -> None:
        """A stage begins."""
        self._stage = f"{stage_index + 1}/{num_stages} {name}"
        self._rows, self._started, self._loss = 0, time.monotonic(), math.nan
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task, total=None, description=f"{self.title} {self._stage}")

    def step(self, step: int, num_steps: int, epoch: int, rows: int, values: Mapping[str, float]) -> None:
        """A step is done; `values` is empty but where they were read."""
        self._rows += rows
        if self._bar is None or self._task is None:
            return
        self._loss = values.get("train/loss/stage", self._loss)
        rate = self._rows / max(1e-9, time.monotonic() - self._started)
        loss = "" if math.isnan(self._loss) else f" loss {self._loss:.3f}"
        text = f"{self.title} {self._stage} epoch {epoch + 1}{loss} {rate:.0f} rows/s"
        self._bar.update(self._task, completed=step, total=num_steps, description=text)

    def scores(self, name: str, row: Sequence[float]) -> None:
        """A stage was measured; `row` is its row of the accuracy matrix."""
        if self._bar is not None:
            shown = " ".join("  – " if math.isnan(score) else f"{100 * score:4.0f}" for score in row)
            self._bar.console.print(f"{self.title}  {name}: {shown}", highlight=False)
