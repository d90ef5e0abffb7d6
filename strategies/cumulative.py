"""Trains each stage on all rows so far: the bound for methods that may keep every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from cl_mlm.strategy import Need, Regime, Strategy


class Cumulative(Strategy):
    """Starts from the weights of the stage before, and trains on the rows of this stage and of all earlier ones."""

    regime: ClassVar[Regime] = "cumulative"
    needs: ClassVar[frozenset[Need]] = frozenset({"old_rows"})
    bf16_weights: ClassVar[bool] = True

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return {} if stage_index else None
