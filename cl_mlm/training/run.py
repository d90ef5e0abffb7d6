"""Run: the live parts of one run, shared by the loop, the evaluation and (as a read-only RunView) the strategies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cl_mlm.config.schema import Config
from cl_mlm.data.label_columns import LabelSpace
from cl_mlm.data.tasks import Task, Tasks
from cl_mlm.errors import ConfigError
from cl_mlm.models.backbone import Backbone
from cl_mlm.objective import Batch, Head, Objective, Outputs, Predictor, Sites
from cl_mlm.randomness import torch_generator
from cl_mlm.strategy import Strategy
from cl_mlm.stream import SPLITS, Stream
from cl_mlm.tokens.batching import sorted_batches
from cl_mlm.tokens.split_rows import Rows
from cl_mlm.training.frozen_features import FrozenFeatures

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase


@dataclass
class Run:
    """One run in progress; fulfils `cl_mlm.strategy.RunView`.

    Attributes:
        objective, labels: of the present stage's task.
        tasks: all that the stream asks; None: every stage has `objective` and `labels`.
        last_trained: the last stage that this run has trained; -1: none.
        stage_index, epoch, step, micro_batch: where the run is; `step` counts optimiser steps of this stage.
        logging: whether this step's values are read; what is only logged need not be computed otherwise.
        training_ids: rows that this stage trains on, (N,).
    """

    config: Config
    stream: Stream
    strategies: Sequence[Strategy]
    backbone: Backbone
    objective: Objective
    labels: LabelSpace
    accelerator: Accelerator
    last_trained: int = -1
    stage_index: int = 0
    epoch: int = 0
    step: int = 0
    micro_batch: int = 0
    learning_rate: float = 0.0
    logging: bool = False
    training_ids: npt.NDArray[np.int64] = field(init=False)
    split_rows: dict[str, Rows] = field(default_factory=dict)
    tasks: Tasks = None  # type: ignore[assignment]  # filled in below
    _features: FrozenFeatures | None = None
    _asked_for_features: bool = False

    def __post_init__(self) -> None:
        import numpy as np

        self.training_ids = np.zeros(0, dtype=np.int64)
        self.tasks = self.tasks or Tasks.single(self.stream, self.objective, self.labels)
        for split in SPLITS:
            self.split_rows[split] = Rows(
                self.stream,
                split,
                self.objective,
                self.backbone.tokenizer,
                self.labels,
                self.config.training.max_length,
                self.tasks,
            )

    def enter(self, stage_index: int) -> None:
        """Goes to a stage: its task's objective and labels are the present ones."""
        self.stage_index = stage_index
        task = self.tasks.at(stage_index)
        self.objective, self.labels = task.objective, task.labels

    def grow(self) -> None:
        """Widens every head to the labels that its task has seen; one of which nothing is seen yet stays as it is."""
        for task in self.tasks:
            if task.labels.seen:
                classes = task.labels.classes[: task.labels.num_classes]
                self.backbone.grow(classes, self.seed, self.stage_index, task.key)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def model(self) -> torch.nn.Module:
        """The model in training."""
        return self.backbone.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.backbone.tokenizer

    @property
    def classes(self) -> Sequence[str]:
        """The classes that the model knows, in the order of its outputs."""
        return self.labels.classes[: self.labels.num_classes]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.backbone.model.device
        return device

    @property
    def batch_size(self) -> int:
        """Rows of a micro-batch."""
        return self.config.training.batch_size

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Returns the parameters that the optimiser moves, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def lengths(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Returns the tokens of training rows, (N,)."""
        return self.split_rows["train"].lengths(ids)

    def rows(self, ids: npt.NDArray[np.int64]) -> Batch:
        """Returns training rows, encoded, collated, on the device."""
        return self.split_rows["train"].collate(ids).to(self.device)

    def batches(
        self, ids: npt.NDArray[np.int64], batch_size: int, split: str = "train"
    ) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
        """Yields `(positions in ids, batch)`, task by task in order of length, the longest first."""
        rows = self.split_rows[split]
        for own in self.tasks.split(ids, split):
            for within in sorted_batches(rows.lengths(ids[own]), batch_size):
                positions = own[within]
                yield positions, rows.collate(ids[positions]).to(self.device)

    def forward(self, batch: Batch) -> Outputs:
        """Runs the model in its present mode, in the run's precision."""
        with self.autocast(), self._body(batch):
            return self.backbone.forward(batch)

    def raw(self, batch: Batch, column: str) -> list[Any]:
        """Returns what a column of the stream holds for every row of the batch, (rows,)."""
        return self.split_rows[batch.split].raw(batch.ids.numpy(), column)

    def _body(self, batch: Batch) -> AbstractContextManager[None]:
        """Returns a context in which a frozen body gives what is kept of it for these rows."""
        caches = self.config.finetuning.mode == "head" and self.config.finetuning.cache_features
        if not caches or self.backbone.kind != "sequence" or self.backbone.parts():
            return nullcontext()
        if not self._asked_for_features:
            self._asked_for_features = True
            self._features = FrozenFeatures.find(self)
        if self._features is None or self._features.model is not self.model:
            return nullcontext()
        return self._features.serving(batch)

    def autocast(self) -> AbstractContextManager[None]:
        """Returns a context in which the model itself runs in the run's precision."""
        context: AbstractContextManager[None] = self.accelerator.autocast()
        return context

    def forward_fp32(self, batch: Batch) -> Outputs:
        """Runs the model in fp32 whatever the run's precision.

        Raises:
            ConfigError: the weights themselves are bfloat16.
        """
        import torch

        if self.config.model.dtype != "float32":
            raise ConfigError(
                f"model.dtype: must be float32 where the model is to run in it, got {self.config.model.dtype}"
            )

        with torch.autocast(self.device.type, enabled=False), self._body(batch):
            return self.backbone.forward(batch)

    def task_loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the objective's loss of every row, (rows,)."""
        return self.task_of(batch).objective.loss(outputs, batch)

    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns every place where the model chooses among classes."""
        return self.task_of(batch).objective.sites(outputs, batch)

    def task_of(self, batch: Batch) -> Task:
        """Returns the task of a batch's rows; of one that was made by hand the present stage's."""
        return self.tasks.by_key.get(batch.task) or self.tasks.at(self.stage_index)

    def predictor(self, batch: Batch) -> Predictor:
        """Returns what the objective of a batch's rows needs to predict."""
        return self if len(self.tasks) == 1 else TaskView(self, self.task_of(batch))

    def objective_of(self, stage_index: int) -> Objective:
        """Returns the objective of a stage."""
        return self.tasks.at(stage_index).objective

    def by_task(self, ids: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Returns `ids` cut by their rows' task, each part in the old order: a batch holds rows of one."""
        return [ids[own] for own in self.tasks.split(ids)]

    def _trained(self) -> list[Task]:
        return [self.tasks.by_key[key] for key in dict.fromkeys(self.tasks.keys[: self.last_trained + 1])]

    @property
    def is_head_old(self) -> bool:
        """Whether an earlier stage has trained the head of the present stage's task."""
        own = self.backbone.part(self.tasks.keys[self.stage_index])
        return any(self.backbone.part(task.key) is own for task in self._trained())

    @property
    def other_heads(self) -> list[OtherHead]:
        """Heads that earlier stages have trained and the present one does not."""
        seen = [self.backbone.part(self.tasks.keys[self.stage_index])]
        found = []
        for task in self._trained():
            part = self.backbone.part(task.key)
            if all(part is not other for other in seen):
                found.append(OtherHead(task, part.kind))
                seen.append(part)
        return found

    def other_logits(self, outputs: Outputs, task: str) -> torch.Tensor:
        """Returns what the head of another task says of the same inputs, (I, C) or (I, T, C)."""
        assert outputs.lazy_logits is not None
        with self.autocast():
            return outputs.lazy_logits(task)

    def gradients(self, batch: Batch) -> list[torch.Tensor]:
        """Returns the gradient of the mean task loss for every trainable parameter; `.grad` is left alone."""
        import torch

        loss = mean_loss(self.task_loss(self.forward(batch), batch), batch)
        parameters = list(self.trainable().values())
        found: Any = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def generator(self, purpose: str) -> torch.Generator:
        """Returns a CPU generator addressed by (seed, purpose, stage, epoch, step)."""
        return torch_generator(self.seed, purpose, self.stage_index, self.epoch, self.step)


@dataclass(frozen=True)
class OtherHead:
    """A head that earlier stages have trained, beside the one of the present stage.

    Attributes:
        task: whose it is; its labels that are old are those that the head knows.
        form: of its model.
    """

    task: Task
    form: Head


@dataclass(frozen=True)
class TaskView:
    """What one objective among several needs of a run to predict; fulfils `cl_mlm.objective.Predictor`."""

    run: Run
    task: Task

    @property
    def model(self) -> torch.nn.Module:
        """The plain transformers model of the task's head."""
        return self.run.backbone.part(self.task.key).model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.run.tokenizer

    @property
    def classes(self) -> Sequence[str]:
        """The classes of the task that the model knows, in the order of its outputs."""
        return self.task.labels.classes[: self.task.labels.num_classes]

    def forward(self, batch: Batch) -> Outputs:
        """Runs the model in its present mode, in the run's precision."""
        return self.run.forward(batch)

    def raw(self, batch: Batch, column: str) -> list[Any]:
        """Returns what a column of the stream holds for every row of the batch, (rows,)."""
        return self.run.raw(batch, column)

    def autocast(self) -> AbstractContextManager[None]:
        """Returns a context in which the model itself runs in the run's precision."""
        return self.run.autocast()


def mean_loss(row_losses: torch.Tensor, batch: Batch, items: float | None = None) -> torch.Tensor:
    """Returns the weighted sum of row losses over the number of loss items (of the batch, or `items`); 0 of none."""
    weighted = row_losses if batch.row_weight is None else row_losses * batch.row_weight
    return weighted.sum() / ((float(batch.count.sum()) if items is None else items) or 1.0)
