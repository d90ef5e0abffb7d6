"""The sections `tracking` and `checkpoint`: where a run is told, and what of it is kept. They change no result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cl_mlm.config.options import option as _option


@dataclass(frozen=True)
class TrackingConfig:
    """Where MLflow lives."""

    uri: str | None = _option(None, "MLflow's address; null: MLFLOW_TRACKING_URI, else SQLite in the working folder")
    log_every: int = _option(10, "optimiser steps between two points of training curves", min=1)


@dataclass(frozen=True)
class CheckpointConfig:
    """What of a run is kept on disk."""

    every_minutes: float | None = _option(
        10.0, "minutes between two checkpoints within a stage; null: none by time", above=0
    )
    every_steps: int | None = _option(None, "optimiser steps between two checkpoints within a stage", min=1)
    keep_stages: Literal["all", "last", "none"] = _option(
        "last", "stages whose model is kept after the run; while it goes on, the last is always kept"
    )
    reuse_stages: int = _option(
        1, "first stages that runs below one `output` train once and share, where training is the same; 0: none", min=0
    )
