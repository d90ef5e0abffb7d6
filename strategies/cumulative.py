"""Each stage on all rows so far: the bound for methods that may keep every row."""

from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from cl_mlm.strategy import Need, Regime, Strategy


class Cumulative(Strategy):
    """Goes on from the last stage's weights and trains on the union of this stage's rows and all earlier ones."""

    regime: ClassVar[Regime] = "cumulative"
    needs: ClassVar[frozenset[Need]] = frozenset({"old_rows"})
    bf16_weights: ClassVar[bool] = True

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return {} if stage_index else None
