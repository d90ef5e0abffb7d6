"""Puts a run together: model, tasks, accelerator; from a checkpoint where there is one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cl_mlm.data.tasks import tasks_of
from cl_mlm.models.finetuning import ADAPTED
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.shared_body import load_heads
from cl_mlm.run_folder import model_folder
from cl_mlm.training.hardware import make_accelerator
from cl_mlm.training.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from cl_mlm.config.schema import Config
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.models.backbone import Backbone
    from cl_mlm.task import Tasks


def assemble(prepared: Prepared, kept: Path | None = None, next_stage: int = 0) -> Run:
    """Returns a run with its model in place, ready for stage `next_stage`; nothing is written.

    Args:
        prepared: what is run.
        kept: the checkpoint of the stage before, whose model is taken; None: the config's own.
        next_stage: the first stage that is not trained yet.
    """
    config, stream, strategies = prepared.config, prepared.stream, prepared.strategies
    accelerator = make_accelerator(config)
    tasks = tasks_of(stream, {prepared.objective.name: prepared.objective})
    last = max(0, next_stage - 1)
    tasks.count_labels(last, -1)
    is_adapted = config.finetuning.mode in ADAPTED
    # An adapter stands on the base that it was trained on, which a checkpoint does not hold.
    backbone = _load(config, tasks, None if is_adapted else kept)
    backbone.set_trainable(config.finetuning, config.seed)
    if is_adapted and kept is not None:
        backbone.read_adapters({key: model_folder(kept, key) for key in tasks.by_key})
    torch.nn.Module.to(backbone.model, config.training.device)
    if config.training.gradient_checkpointing:
        backbone.checkpoint_activations()
    last_trained = -1 if prepared.is_joint else next_stage - 1
    run = Run(config, stream, strategies, backbone, tasks, accelerator, last_trained)
    if kept is None:
        run.grow()
    return run


def load_base(config: Config, tasks: Tasks) -> Backbone:
    """Returns the model of a config before any training, without what a mode of fine-tuning adds to it."""
    return _load(config, tasks, None)


def _load(config: Config, tasks: Tasks, kept: Path | None) -> Backbone:
    """Returns the model with its head, or with one for every task, from a checkpoint where there is one."""
    training = config.training
    if len(tasks) > 1:
        folders = None
        if kept is not None:
            folders = {key: model_folder(kept, key) for key in tasks.by_key}
        return load_heads(config.model, tasks, config.seed, training.row_length, folders)
    (task,) = tasks
    model = config.model
    if kept is not None:
        model = replace(model, name=str(model_folder(kept)), revision=None, dropout=None)
    backbone = load_backbone(model, task.labels.seen, config.seed, training.row_length, task.objective)
    task.objective.bind(backbone.model, backbone.kind)
    return backbone
