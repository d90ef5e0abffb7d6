"""What the loop tells of its progress, and where it looks for stages that were trained before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cl_mlm.training.run import Run


class Observer(Protocol):
    """Is told of the loop's progress."""

    def step_done(self, step: int, num_steps: int, epoch: int, rows: int, values: Mapping[str, float]) -> None:
        """Called after every step; `values` are empty but for every `tracking.log_every`-th."""
        ...

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        """Called after every epoch that was validated."""
        ...

    def may_checkpoint(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Called after every step; `state` returns what a resumed run needs, for an observer that writes it."""
        ...


class StageCache(Protocol):
    """Results of training a stage, shared between runs."""

    def look_up(self, run: Run) -> Mapping[str, Any] | None:
        """Returns what training the present stage ends with; None: it was not trained before."""
        ...

    def store(self, run: Run, state: Mapping[str, Any]) -> None:
        """Takes what training the present stage ended with."""
        ...
