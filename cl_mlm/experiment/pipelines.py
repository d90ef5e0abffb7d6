"""Makes transformers pipelines that give the answers of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers

from cl_mlm.errors import ConfigError
from cl_mlm.models.loading import load_kept
from cl_mlm.objectives.classification import Classification
from cl_mlm.objectives.language_modelling import LanguageModelling
from cl_mlm.objectives.multilabel import Multilabel
from cl_mlm.objectives.regression import Regression
from cl_mlm.objectives.tagging import Tagging
from cl_mlm.tokens.word_tokens import needs_space
from cl_mlm.training.hardware import choose_device

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import Pipeline

    from cl_mlm.experiment.predicting import Asked
    from cl_mlm.objective import Objective


def make_pipeline(folder: Path, asked: Asked, device: str | None) -> Pipeline:
    """Returns a pipeline on the model in `folder`.

    Raises:
        ConfigError: transformers has none that would give the answers of this run, or there is no such device.
    """
    name, settings = _named(asked.objective)
    place = choose_device(device, "device")
    backbone = load_kept(folder, asked.settings["model"]["dtype"], asked.objective)
    max_length = asked.settings["training"]["max_length"]
    if name == "text-classification":
        settings |= {"truncation": True, "max_length": max_length}
    if name == "token-classification" and needs_space(backbone.tokenizer):
        kind = type(backbone.tokenizer).__name__
        raise ConfigError(f"pipeline: transformers' reads words without the space before them, which {kind} needs")
    backbone.tokenizer.model_max_length = max_length  # by which a pipeline of tokens cuts
    make: Any = transformers.pipeline
    pipeline: Pipeline = make(name, model=backbone.model, tokenizer=backbone.tokenizer, device=place, **settings)
    return pipeline


def _named(objective: Objective) -> tuple[str, dict[str, Any]]:
    """Returns the name of the pipeline for an objective, and its arguments.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(objective, Classification) and objective.reject is None:
        return "text-classification", {}
    if isinstance(objective, Multilabel):
        return "text-classification", {"top_k": None}
    if isinstance(objective, Regression):
        return "text-classification", {"function_to_apply": "none"}
    if isinstance(objective, Tagging):
        return "token-classification", {}
    if isinstance(objective, LanguageModelling):
        return ("text-generation" if objective.kind == "causal" else "fill-mask"), {}
    reason = f"transformers has none that gives the answers of objective {objective.name}"
    if isinstance(objective, Classification):
        reason = f"none of transformers' rejects a row as {objective.reject!r}"
    raise ConfigError(f"pipeline: {reason}; predict() does")
