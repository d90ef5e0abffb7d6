"""One training on the rows of all stages together: the upper bound, which no continual learner is given."""

from __future__ import annotations

from typing import ClassVar

from cl_mlm.strategy import Need, Regime, Strategy


class Joint(Strategy):
    """Trains once on the shuffled rows of all stages; fills only the last row of the accuracy matrix."""

    regime: ClassVar[Regime] = "joint"
    needs: ClassVar[frozenset[Need]] = frozenset({"old_rows", "future"})
    bf16_weights: ClassVar[bool] = True
