"""The layout of a run's folder: where each file of a run lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MODEL, MODELS = "model", "models"  # within a stage's folder
SCORED = "scored"  # there: the same again, as it was scored, where a strategy then puts other weights in place
MANIFEST = "manifest.json"  # within every checkpoint: its files and their digests


@dataclass(frozen=True)
class RunFolder:
    """The paths below the folder of one run; nothing is read or written here."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def versions(self) -> Path:
        """Versions of packages and source, and the hardware, as they were last."""
        return self.path / "versions.json"

    @property
    def journal(self) -> Path:
        """Everything that was measured, line by line."""
        return self.path / "journal.jsonl"

    @property
    def summary(self) -> Path:
        """The result of a finished run."""
        return self.path / "summary.json"

    @property
    def inventory(self) -> Path:
        """What a finished run has written, with lengths and digests; see `storage.inventory`."""
        return self.path / "files.json"

    @property
    def trace(self) -> Path:
        """The trace of the last error that nobody foresaw."""
        return self.path / "traceback.txt"

    @property
    def per_class(self) -> Path:
        """Precision, recall and F1 of every label under the final model."""
        return self.path / "per_class.csv"

    @property
    def figures(self) -> Path:
        """The folder of figures."""
        return self.path / "figures"

    @property
    def prompting(self) -> Path:
        """The folder of what was prompted after the run."""
        return self.path / "prompting"

    @property
    def stages(self) -> Path:
        """The folder of checkpoints at the ends of stages."""
        return self.path / "stages"

    @property
    def steps(self) -> Path:
        """The folder of checkpoints within a stage."""
        return self.path / "steps"

    def stage(self, stage_index: int) -> Path:
        """Returns the checkpoint at the end of a stage."""
        return self.stages / stage_name(stage_index)

    def predictions(self, name: str) -> Path:
        """Returns the predictions made `before` training, or after a stage by its index."""
        return self.path / "predictions" / f"{name}.parquet"

    def model(self, stage_index: int, task: str | None = None) -> Path:
        """Returns the plain transformers folder of the model after a stage, as it was scored.

        Args:
            stage_index: the stage.
            task: whose head, by the task's key, where a stream has several objectives; None: the stage's own.
        """
        checkpoint = self.stage(stage_index)
        scored = checkpoint / SCORED
        return model_folder(scored if scored.is_dir() else checkpoint, task)


def stage_name(stage_index: int) -> str:
    """Returns the name of a stage's checkpoint; in the order of stages as texts, too."""
    return f"{stage_index:03d}"


def step_name(stage_index: int, step: int) -> str:
    """Returns the name of a checkpoint within a stage."""
    return f"{stage_name(stage_index)}-{step:09d}"


def model_folder(checkpoint: Path, task: str | None = None) -> Path:
    """Returns the model of a stage's checkpoint; tasks that share the head of the stage's own have no other folder."""
    other = checkpoint / MODELS / task if task is not None else None
    return other if other is not None and other.is_dir() else checkpoint / MODEL
