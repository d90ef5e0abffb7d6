"""Which past rows are kept: row ids, eight bytes each, never copies of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Reservoir:
    """A uniform sample of all rows offered so far.

    Vitter (1985), Random Sampling with a Reservoir, ACM TOMS 11(1), algorithm R: row n replaces a random place with
    probability capacity / n, so that every row offered is kept with equal probability.

    Attributes:
        capacity: rows kept at most.
        ids: the rows kept, int64 (≤ capacity,).
        offered: rows offered so far.
    """

    def __init__(self, capacity: int) -> None:
        import numpy as np

        self.capacity = capacity
        self.ids: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.offered = 0

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: npt.NDArray[np.int64], random: np.random.Generator) -> None:
        """Offers `ids`, in their order; mutates the sample."""
        import numpy as np

        free = max(0, self.capacity - len(self.ids))
        kept = np.concatenate([self.ids, ids[:free]])
        rest = ids[free:]
        seen_before = self.offered + len(ids) - len(rest)
        places = random.integers(0, seen_before + 1 + np.arange(len(rest)))
        for hit in np.flatnonzero(places < self.capacity).tolist():  # in order: a place may be taken twice
            kept[places[hit]] = rest[hit]
        self.ids = kept
        self.offered += len(ids)

    def sample(self, rows: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """Returns `rows` different kept ids, or all of them where fewer are kept."""
        return random.choice(self.ids, size=min(rows, len(self.ids)), replace=False)

    def state_dict(self) -> dict[str, Any]:
        """Returns the sample and the number of rows offered."""
        return {"ids": self.ids, "offered": self.offered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        import numpy as np

        self.ids = np.asarray(state["ids"], dtype=np.int64)
        self.offered = int(state["offered"])
