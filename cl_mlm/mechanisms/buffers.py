"""Buffers: decide which past rows are kept; a buffer holds row ids, eight bytes each, never copies of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt


class Reservoir:
    """A uniform sample of all rows offered so far.

    Vitter (1985), Random Sampling with a Reservoir, ACM TOMS 11(1), algorithm R: row n replaces a random row of the
    sample with probability capacity / n, so that every row offered is kept with equal probability.

    Attributes:
        capacity: rows kept at most.
        ids: the rows kept, int64 (≤ capacity,).
        offered: number of rows offered so far.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.ids: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.offered = 0

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: npt.NDArray[np.int64], random: np.random.Generator) -> None:
        """Offers rows in their order; replaces `self.ids`."""
        num_free = max(0, self.capacity - len(self.ids))
        sample = np.concatenate([self.ids, ids[:num_free]])
        rest = ids[num_free:]
        offered_before = self.offered + len(ids) - len(rest)
        places = random.integers(0, offered_before + 1 + np.arange(len(rest)))
        for i in np.flatnonzero(places < self.capacity).tolist():  # in order: a place may be taken twice
            sample[places[i]] = rest[i]
        self.ids = sample
        self.offered += len(ids)

    def sample(self, rows: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """Returns `rows` different kept ids, or all of them where fewer are kept."""
        return random.choice(self.ids, size=min(rows, len(self.ids)), replace=False)

    def state_dict(self) -> dict[str, Any]:
        """Returns the sample and the number of rows offered."""
        return {"ids": self.ids, "offered": self.offered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.ids = np.asarray(state["ids"], dtype=np.int64)
        self.offered = int(state["offered"])
