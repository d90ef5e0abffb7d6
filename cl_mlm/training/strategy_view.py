"""StrategyView: what strategies see of a run, flat and read-only; fulfils `cl_mlm.strategy.RunView`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cl_mlm.batch import Batch, Outputs, Sites, mean_loss, row_features
from cl_mlm.models.modes import evaluation_mode
from cl_mlm.randomness import seed_everything

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.config.schema import Config
    from cl_mlm.objective import Head, Objective
    from cl_mlm.stream import Stream
    from cl_mlm.task import LabelSpace, Task, Tasks
    from cl_mlm.training.cost import StageCost
    from cl_mlm.training.network import Network
    from cl_mlm.training.place import Place
    from cl_mlm.training.run_data import RunData


@dataclass(frozen=True)
class TrainedHead:
    """A head that earlier stages have trained, beside the one of the present stage.

    Attributes:
        task: whose it is; the head knows those of the task's labels that are old.
        form: of its model.
    """

    task: Task
    form: Head


class StrategyView:
    """A run as one call of a hook may see it. `cl_mlm.strategy.RunView` says what every property and method means.

    Args:
        config: of the run, with the training settings of the present stage.
        stream, tasks, place, data, network: of the run.
        cost: gets the passes that the hook makes.
        hook: names of the strategy and of its hook, and what tells this call from others in the same micro-batch: by
            these the randomness of the passes is addressed.
        refuse: is given the row ids that the hook asks for, and raises where they are none of training rows.
    """

    def __init__(
        self,
        config: Config,
        stream: Stream,
        tasks: Tasks,
        place: Place,
        data: RunData,
        network: Network,
        cost: StageCost,
        hook: tuple[str | int, ...],
        refuse: Callable[[npt.NDArray[np.int64]], None],
    ) -> None:
        self._config, self._stream, self._tasks = config, stream, tasks
        self._place, self._data, self._network = place, data, network
        self._cost, self._hook, self._refuse = cost, hook, refuse
        self._num_passes = 0

    @property
    def seed(self) -> int:
        return self._place.seed

    @property
    def stream(self) -> Stream:
        return self._stream

    @property
    def model(self) -> torch.nn.Module:
        return self._network.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._network.tokenizer

    @property
    def objective(self) -> Objective:
        return self._tasks.at(self._place.stage_index).objective

    @property
    def labels(self) -> LabelSpace:
        return self._tasks.at(self._place.stage_index).labels

    @property
    def stage_index(self) -> int:
        return self._place.stage_index

    @property
    def epoch(self) -> int:
        return self._place.epoch

    @property
    def step(self) -> int:
        return self._place.step

    @property
    def micro_batch(self) -> int:
        return self._place.micro_batch

    @property
    def num_micro_batches(self) -> int:
        return self._place.num_micro_batches

    @property
    def learning_rate(self) -> float:
        return self._place.learning_rate

    @property
    def logging(self) -> bool:
        return self._place.logging

    @property
    def batch_size(self) -> int:
        return self._config.training.batch_size

    @property
    def accumulation(self) -> int:
        return self._config.training.accumulation

    @property
    def training_ids(self) -> npt.NDArray[np.int64]:
        return self._place.training_ids

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        return self._network.trainable()

    @property
    def head_names(self) -> frozenset[str]:
        outside = {name for name, _ in self._network.backbone.head_parameters()}
        return frozenset(outside & self.trainable().keys())

    def swapped(self, values: Mapping[str, torch.Tensor]) -> AbstractContextManager[None]:
        return self._network.swapped(values)

    def ids_of(self, stage_index: int) -> npt.NDArray[np.int64]:
        ids = self._data.ids(stage_index)
        self._refuse(ids)
        return ids

    def features(self, ids: npt.NDArray[np.int64]) -> torch.Tensor:
        self._refuse(ids)
        found = torch.empty(0, 0)
        with evaluation_mode(self._network.model), torch.no_grad():
            for positions, batch in self._data.batches(ids, self._config.training.batch_size):
                features = row_features(self.forward(batch).features.float(), batch).cpu()
                if not len(found):
                    found = torch.empty(len(ids), features.shape[-1])
                found[torch.from_numpy(positions)] = features
        return found

    def lengths(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        self._refuse(ids)
        return self._data.lengths(ids)

    def rows(self, ids: npt.NDArray[np.int64]) -> Batch:
        self._refuse(ids)
        return self._data.rows(ids)

    def batches(self, ids: npt.NDArray[np.int64], batch_size: int) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
        self._refuse(ids)
        return self._data.batches(ids, batch_size)

    def by_task(self, ids: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        self._refuse(ids)
        return self._data.by_task(ids)

    def forward(self, batch: Batch) -> Outputs:
        self._begin_pass(batch)
        return self._network.forward(batch)

    def forward_fp32(self, batch: Batch) -> Outputs:
        self._begin_pass(batch)
        outputs, dtype = self._network.forward_fp32(batch), self._network.body_dtype
        flag = f"body in {dtype}, also in the passes of {self._hook[0]} that are to be in fp32"
        if dtype != "float32" and flag not in self._cost.flags:
            self._cost.flags.append(flag)
        return outputs

    def gradients(self, batch: Batch) -> list[torch.Tensor]:
        loss = mean_loss(self.task_loss(self.forward(batch), batch), batch)
        parameters = list(self.trainable().values())
        found: Any = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def task_loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        return self._task_of(batch).objective.loss(outputs, batch)

    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        return self._task_of(batch).objective.sites(outputs, batch)

    def objective_of(self, stage_index: int) -> Objective:
        return self._tasks.at(stage_index).objective

    @property
    def is_head_old(self) -> bool:
        head = self._head_of(self._tasks.keys[self.stage_index])
        return any(self._head_of(task.key) is head for task in self._trained_tasks())

    @property
    def other_heads(self) -> Sequence[TrainedHead]:
        backbone = self._network.backbone
        heads = [self._head_of(self._tasks.keys[self.stage_index])]
        others = []
        for task in self._trained_tasks():
            head = self._head_of(task.key)
            if all(head is not known for known in heads):
                others.append(TrainedHead(task, backbone.task_model(task.key).kind))
                heads.append(head)
        return others

    def other_logits(self, outputs: Outputs, task: str) -> torch.Tensor:
        assert outputs.lazy_logits is not None
        with self._network.autocast():
            return outputs.lazy_logits(task)

    def generator(self, purpose: str) -> torch.Generator:
        return self._place.generator(purpose)

    def _begin_pass(self, batch: Batch) -> None:
        """Counts a pass through the model, and seeds what is random in it (dropout) by the address of the hook."""
        place = self._place
        address = (place.stage_index, place.epoch, place.step, place.micro_batch, self._num_passes)
        seed_everything(place.seed, "hook", *self._hook, *address)
        self._num_passes += 1
        self._cost.hook_examples += len(batch)
        self._cost.hook_tokens += batch.num_tokens

    def _task_of(self, batch: Batch) -> Task:
        return self._tasks.by_key.get(batch.task) or self._tasks.at(self._place.stage_index)

    def _trained_tasks(self) -> list[Task]:
        keys = dict.fromkeys(self._tasks.keys[: self._place.last_trained + 1])
        return [self._tasks.by_key[key] for key in keys]

    def _head_of(self, task: str) -> object:
        """Returns what stands for the head of a task; tasks that share a head get the same object."""
        return self._network.backbone.task_model(task)
