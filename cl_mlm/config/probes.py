"""The section `probes`: what is measured of a language model beside the columns of the stream."""

from __future__ import annotations

from dataclasses import dataclass, field

from cl_mlm.config.options import option as _option


@dataclass(frozen=True)
class KlConfig:
    """KL divergence of the model from the base model; see docs/metrics.md."""

    text: str | None = _option(None, "a UTF-8 file of held-out text; null: probes of the stream that model language")
    max_rows: int | None = _option(200, "rows, and blocks of text, at even spacing; null: all", min=1)


@dataclass(frozen=True)
class LmEvalConfig:
    """Tasks of EleutherAI's lm-evaluation-harness; needs the extra `lm-eval`."""

    tasks: list[str] = field(default_factory=list, metadata={"help": "names of tasks or groups"})
    task_folder: str | None = _option(None, "folder of task files, which are then all; null: those of the harness")
    num_fewshot: int | None = _option(None, "demonstrations; null: as each task says", min=0)
    limit: int | None = _option(None, "rows of a task, the first ones; null: all", min=1)


@dataclass(frozen=True)
class ProbesConfig:
    """What is measured of a language model beside the columns of the stream: nothing of it is trained on."""

    every: int = _option(1, "stages between two measurements; the last stage is always measured", min=1)
    kl: KlConfig | None = field(
        default=None, metadata={"help": "KL divergence from the base model, after stages; null: not measured"}
    )
    lm_eval: LmEvalConfig | None = field(
        default=None, metadata={"help": "tasks of lm-eval, before training and after stages; null: none"}
    )
