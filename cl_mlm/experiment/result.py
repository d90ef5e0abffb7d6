"""`Result`: a finished run, its figures and its models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError, RunFolderError, nearest
from cl_mlm.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel

    from cl_mlm.experiment.prompt_run import Prompted
    from cl_mlm.stream import Stream


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        folder: where everything of the run lies.
        summary: the contents of `summary.json`.
        is_new: False where the run had been finished before.
        warnings: what the reader should know, such as a tracking server out of reach.
    """

    folder: Path
    summary: Mapping[str, Any]
    is_new: bool = True
    warnings: list[str] = field(default_factory=list)

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """Test scores, (stages, columns); NaN where nothing was measured."""
        import numpy as np

        return np.array(self.summary["accuracy_matrix"], dtype=np.float64)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The run's final figures; None where undefined, with the reason in `summary["reasons"]`."""
        return dict(self.summary["metrics"])

    def model(self, stage: int = -1, task: str | None = None) -> PreTrainedModel:
        """Returns the model as it was after `stage` (-1: the last), from the run folder.

        Args:
            stage: the stage's index, from 0; negative ones count from the last.
            task: of a stream with several objectives, whose head: a key of `summary["tasks"]`; None: the stage's own.

        Raises:
            ConfigError: the stream has no such stage or task.
            RunFolderError: that stage's model was not kept (`checkpoint.keep_stages`), or is not the one that was
                scored.
        """
        import transformers

        from cl_mlm.experiment.summary import SWAPPED

        swapping = self.summary.get(SWAPPED, [])
        if swapping:
            raise RunFolderError(
                f"{self.folder}: its kept models are not the ones that were scored: strategy {', '.join(swapping)} has "
                "weights of its own for evaluation"
            )
        num_stages = len(self.summary["stream"]["stages"])
        if not -num_stages <= stage < num_stages:
            raise ConfigError(f"stage: must be {-num_stages} to {num_stages - 1}, got {stage}")
        stage_index = stage % num_stages
        known = [*self.summary.get("tasks", {})]
        if task is not None and known and task not in known:
            raise ConfigError(f"task: must be one of {', '.join(known)}, got {task!r}{nearest(task, known)}")
        folder = RunFolder(self.folder).model(stage_index, task)
        if not folder.is_dir():
            raise RunFolderError(f"{folder}: not kept; run with checkpoint.keep_stages=all")
        settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind: Any = getattr(transformers, (settings.architectures or ["AutoModel"])[0])
        model: PreTrainedModel = kind.from_pretrained(folder, config=settings, use_safetensors=True)
        return model

    def prompt(
        self,
        *overrides: str,
        stage: int | str = "last",
        shots: Sequence[int] | None = None,
        config: str | Path | Mapping[str, Any] | None = None,
        stream: Stream | None = None,
    ) -> Prompted:
        """Asks the model after `stage`, or the `untrained` one, by prompts; see `cl_mlm.prompt`."""
        from cl_mlm.experiment.prompt_run import prompt_run

        return prompt_run(self.folder, *overrides, stage=stage, shots=shots, config=config, stream=stream)
