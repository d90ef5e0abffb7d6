"""Rows of earlier stages among those of the present one: replay in the data, as most work on language models has it.

For instance Wang et al. (2023), TRACE, arXiv:2310.06762, whose replay mixes a tenth of the earlier tasks' rows in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from typing_extensions import override

from cl_mlm.randomness import numpy_generator
from cl_mlm.strategy import Need, RunView, Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy.typing as npt

    from cl_mlm.stream import Stage


class Mix(Strategy):
    """Trains each stage on its rows and on some of every earlier stage's, drawn anew for each stage.

    The rows are shuffled together; a step's loss is one mean over all of them. No row is kept: the stream has them.

    Args:
        ratio: how many; 0 is naive.
        of: `old`: this share of each earlier stage's rows (rounded up; 1 is `cumulative`); `new`: this many for each
            row of the present stage, divided evenly among the earlier stages, as far as they have them.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"old_rows"})
    bf16_weights: ClassVar[bool] = True

    def __init__(self, ratio: float = 0.1, of: Literal["old", "new"] = "old") -> None:
        self.ratio = ratio
        self.of = of

    @override
    def validate(self) -> list[str]:
        most = 1 if self.of == "old" else math.inf
        if not 0 <= self.ratio <= most or math.isinf(self.ratio):
            rule = "in 0-1 where it is a share of old rows" if self.of == "old" else "at least 0"
            return [f"ratio: must be {rule}, got {self.ratio}"]
        return []

    @override
    def training_data(self, run: RunView, stage: Stage) -> npt.NDArray[np.int64] | None:
        if not run.stage_index or not self.ratio:
            return None
        old = [run.ids_of(j) for j in range(run.stage_index)]
        own = run.ids_of(run.stage_index)
        share = _ceiling(self.ratio * len(own) / len(old))
        drawn = []
        for j, ids in enumerate(old):
            wanted = _ceiling(self.ratio * len(ids)) if self.of == "old" else share
            random = numpy_generator(run.seed, "mix", run.stage_index, j)
            drawn.append(np.sort(random.choice(ids, size=min(wanted, len(ids)), replace=False)))
        return np.concatenate([*drawn, own])

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return self.arguments() if stage_index else None


def _ceiling(number: float) -> int:
    """Returns the number rounded up; what is whole but for a last bit, as 0.07 · 100 is, counts as whole."""
    return math.ceil(round(number, 9))
