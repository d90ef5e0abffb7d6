"""LabelSpace: which labels the model knows now, which it knew before this stage, and which belong to a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cl_mlm.stream import Stream


class LabelSpace:
    """The labels of a run, in the order in which stages bring them; position in that order = class index.

    `seen` and `old` move forward with `begin`; the model never knows more than `seen`.
    """

    def __init__(self, stream: Stream) -> None:
        self.names: tuple[str, ...] = stream.labels
        self.index: dict[str, int] = {name: i for i, name in enumerate(self.names)}
        self._by_stage = tuple(tuple(self.index[label] for label in stage.labels) for stage in stream.stages)
        self._num_seen = 0
        self._num_old = 0

    def begin(self, last_stage: int, last_trained: int) -> None:
        """Counts the labels up to `last_stage` as seen and those up to `last_trained` (-1: none) as old."""
        self._num_seen, self._num_old = self._through(last_stage), self._through(last_trained)

    def _through(self, stage_index: int) -> int:
        return max((i + 1 for stage in self._by_stage[: stage_index + 1] for i in stage), default=0)

    @property
    def seen(self) -> tuple[str, ...]:
        """Labels of this stage and of those before it."""
        return self.names[: self._num_seen]

    @property
    def old(self) -> tuple[str, ...]:
        """Labels that the model knew before this stage."""
        return self.names[: self._num_old]

    def of(self, stage_index: int) -> tuple[int, ...]:
        """Class indices of a stage's own labels."""
        return self._by_stage[stage_index]
