"""Run: one run in progress, as the loop and the evaluation use it; strategies see it through `StrategyView`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.training.cost import StageCost
from cl_mlm.training.network import Network
from cl_mlm.training.place import Place
from cl_mlm.training.run_data import RunData
from cl_mlm.training.strategy_view import StrategyView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.batch import Batch, Outputs
    from cl_mlm.config.schema import Config, TrainingConfig
    from cl_mlm.models.backbone import Backbone
    from cl_mlm.strategy import RunView, Strategy
    from cl_mlm.stream import Stage, Stream
    from cl_mlm.task import Task, Tasks


class Run:
    """One run in progress: where it is, its rows, its model, its tasks.

    Attributes:
        config, stream, strategies: what is run.
        tasks: what the stream asks, with the labels that are known now.
        place: the counters.
        data: rows -> batches.
        network: batches -> outputs.
        cost: of the present stage so far.
        terms: by name of every value that a strategy logs, whose it is: the strategy's class and the hook.
    """

    def __init__(
        self,
        config: Config,
        stream: Stream,
        strategies: Sequence[Strategy],
        backbone: Backbone,
        tasks: Tasks,
        accelerator: Accelerator,
        last_trained: int = -1,
    ) -> None:
        self.config, self.stream, self.strategies, self.tasks = config, stream, strategies, tasks
        self._stage_names = [stage.name for stage in stream.stages]
        self.place = Place(config.seed, last_trained)
        self.data = RunData(stream, tasks, backbone, config.training.row_length)
        self.network = Network(backbone, accelerator, config, self.data)
        self.cost = StageCost()
        self.terms: dict[str, tuple[type[Strategy], str]] = {}

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return self.stream.stages[self.place.stage_index]

    @property
    def training(self) -> TrainingConfig:
        """The training settings of the present stage."""
        return self.config.training.at_stage(self.place.stage_index, self._stage_names)

    def training_key(self, name: str) -> str:
        """Returns the key path that sets `name` of the training settings in the present stage."""
        training = self.config.training
        stage = training.stage_key(self.place.stage_index, self._stage_names)
        return f"training.stages.{stage}.{name}" if name in training.stages.get(stage, {}) else f"training.{name}"

    def view(
        self, strategy: Strategy, hook: str, *address: str | int, refuse: Callable[[Any], None] = lambda ids: None
    ) -> RunView:
        """Returns what a strategy sees of the run while one of its hooks is called.

        What it puts through the model is counted in `cost`, and draws its randomness by the hook's address; `address`
        tells calls of one hook within a micro-batch apart. `refuse` is given the row ids that the hook asks for.
        """
        config = replace(self.config, training=self.training) if self.config.training.stages else self.config
        parts = (config, self.stream, self.tasks, self.place, self.data, self.network)
        return StrategyView(*parts, self.cost, (strategy.name, hook, *address), refuse)

    def begin(self, stage_index: int) -> None:
        """Moves to the first step of a stage."""
        self.place.stage_index = stage_index
        self.place.epoch = self.place.step = self.place.micro_batch = 0
        self.cost = StageCost()

    def grow(self) -> None:
        """Widens every head to the labels that its task has seen; a head that knows none yet stays as it is."""
        for task in self.tasks:
            if task.labels.seen:
                classes = task.labels.classes[: task.labels.num_classes]
                self.network.backbone.grow(classes, self.place.seed, self.place.stage_index, task.key)

    def task_of(self, batch: Batch) -> Task:
        """Returns the task of a batch's rows; of a batch that was made by hand, the present stage's."""
        return self.tasks.by_key.get(batch.task) or self.tasks.at(self.place.stage_index)

    def task_loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the objective's loss of every row, (R,)."""
        return self.task_of(batch).objective.loss(outputs, batch)

    def predictor(self, batch: Batch) -> TaskPredictor:
        """Returns what the objective of a batch's rows needs to predict."""
        return TaskPredictor(self, self.task_of(batch))


class TaskPredictor:
    """What the objective of one task needs of a run to predict; fulfils `cl_mlm.objective.Predictor`."""

    def __init__(self, run: Run, task: Task) -> None:
        self._network, self._data, self._task = run.network, run.data, task

    @property
    def model(self) -> torch.nn.Module:
        """The plain transformers model of the task's head."""
        return self._network.backbone.task_model(self._task.key).model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._network.tokenizer

    @property
    def classes(self) -> Sequence[str]:
        """The classes of the task that the model knows, in the order of its outputs."""
        return self._task.labels.classes[: self._task.labels.num_classes]

    def forward(self, batch: Batch) -> Outputs:
        """Runs the model in its present mode, in the run's precision."""
        return self._network.forward(batch)

    def raw(self, batch: Batch, column: str) -> list[Any]:
        """Returns what a column of the stream holds for every row of the batch, (R,)."""
        return self._data.raw(batch, column)

    def autocast(self) -> AbstractContextManager[None]:
        """Returns a context in which the model runs in the run's precision."""
        return self._network.autocast()
