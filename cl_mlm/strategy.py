"""Strategy and RunView: what guards old knowledge, and what it may see.

Every hook is optional. A strategy returns values; the only things that it edits are gradients in `adjust_gradients` and
the model in `before_stage` and `after_stage`. What hooks put through the model (`forward`, `gradients`) counts as
cost of the stage. Constructor arguments are kept under their own names
(`self.weight = weight`), as scikit-learn does, so that a run can record them.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    import torch
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.batch import Batch, Outputs, Sites
    from cl_mlm.objective import Head, Objective
    from cl_mlm.stream import Stage, Stream
    from cl_mlm.task import LabelSpace, Task

Regime = Literal["sequential", "cumulative", "joint"]
Need = Literal["task_id", "old_rows", "old_model", "future"]


class RunView(Protocol):
    """What a strategy may see of a run; read-only."""

    @property
    def seed(self) -> int: ...
    @property
    def stream(self) -> Stream: ...
    @property
    def model(self) -> torch.nn.Module: ...
    @property
    def objective(self) -> Objective: ...
    @property
    def labels(self) -> LabelSpace: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def stage_index(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int:
        """Optimiser steps done in this stage."""
        ...

    @property
    def micro_batch(self) -> int:
        """Which micro-batch of the step this is, from 0."""
        ...

    @property
    def num_micro_batches(self) -> int:
        """How many micro-batches this step has; the last one of an epoch may have fewer than `accumulation`."""
        ...

    @property
    def learning_rate(self) -> float: ...
    @property
    def logging(self) -> bool:
        """Whether this step's values are logged; a strategy may leave them out otherwise."""
        ...

    @property
    def batch_size(self) -> int: ...
    @property
    def accumulation(self) -> int:
        """Micro-batches of a whole step; each has `batch_size` rows."""
        ...

    @property
    def training_ids(self) -> npt.NDArray[np.int64]:
        """Rows that this stage trains on, (N,)."""
        ...

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Parameters that the optimiser moves, by name."""
        ...

    @property
    def head_names(self) -> frozenset[str]:
        """The names of trainable parameters outside the pretrained body."""
        ...

    def swapped(self, values: Mapping[str, torch.Tensor]) -> AbstractContextManager[None]:
        """Returns a block within which trainable parameters have other values, by name.

        A parameter that has grown since takes the values of its leading rows. Nothing is copied but those: the values
        that come back after the block are the very tensors that were there before.
        """
        ...

    def ids_of(self, stage_index: int) -> npt.NDArray[np.int64]:
        """Returns a stage's own training rows, (N,), whatever this stage trains on."""
        ...

    def features(self, ids: npt.NDArray[np.int64]) -> torch.Tensor:
        """Returns what the head reads of each training row, fp32 (N, H) on the CPU, dropout off, without gradients."""
        ...

    def lengths(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Returns the tokens of training rows, (N,)."""
        ...

    def rows(self, ids: npt.NDArray[np.int64]) -> Batch:
        """Returns training rows, encoded, collated, on the device."""
        ...

    def batches(self, ids: npt.NDArray[np.int64], batch_size: int) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
        """Yields `(positions in ids, batch)` in order of length: the cheapest way through many rows."""
        ...

    def forward(self, batch: Batch) -> Outputs:
        """Runs the model in its present mode and in the run's precision."""
        ...

    def forward_fp32(self, batch: Batch) -> Outputs:
        """Runs the model in fp32 whatever the run's precision.

        A frozen body in bfloat16 runs in that, which the run's flags tell. Trained weights in bfloat16 are refused.
        """
        ...

    def objective_of(self, stage_index: int) -> Objective:
        """Returns the objective of a stage; `objective` and `labels` are the present one's."""
        ...

    def by_task(self, ids: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Returns `ids` cut by their rows' task, each part in the old order: a batch holds rows of one."""
        ...

    @property
    def is_head_old(self) -> bool:
        """Whether an earlier stage has trained the head of the present stage's task."""
        ...

    @property
    def other_heads(self) -> Sequence[OtherHead]:
        """Heads on the same body that earlier stages have trained and the present one does not."""
        ...

    def other_logits(self, outputs: Outputs, task: str) -> torch.Tensor:
        """Returns what the head of another task says of the same inputs, (inputs, [tokens,] classes)."""
        ...

    def task_loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the objective's loss of every row, (rows,)."""
        ...

    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns every place where the model chooses among classes."""
        ...

    def gradients(self, batch: Batch) -> list[torch.Tensor]:
        """Returns the gradient of the mean task loss for every trainable parameter; `.grad` is left alone."""
        ...

    def generator(self, purpose: str) -> torch.Generator:
        """Returns a CPU generator addressed by (seed, purpose, stage, epoch, step)."""
        ...


class OtherHead(Protocol):
    """A head beside the present stage's: whose task it is, and the form of its model."""

    @property
    def task(self) -> Task: ...
    @property
    def form(self) -> Head: ...


@dataclass(frozen=True)
class Setting:
    """What a strategy may ask about a run before anything is loaded.

    Attributes:
        scenario: of the stream, such as `class_incremental`.
        num_stages: of the stream.
        num_tasks: objectives with a head of their own.
        mode: of fine-tuning, such as `full` or `lora`.
        dtype: of the weights that are trained.
        precision: of forward passes.
        accumulation: micro-batches of a step.
        patience: epochs without improvement after which a stage ends; None: it is trained to its end.
        optimizer: its name.
        weight_decay: of the optimiser.
        strategies: the names of all strategies of the run, in order.
    """

    scenario: str
    num_stages: int
    num_tasks: int
    mode: str
    dtype: str
    precision: str
    accumulation: int
    patience: int | None
    optimizer: str
    weight_decay: float
    strategies: tuple[str, ...]


@dataclass(frozen=True)
class ParameterSettings:
    """How the optimiser moves a parameter.

    Attributes:
        lr_factor: its learning rate divided by what it were otherwise, `training.head_factor` included.
        weight_decay: its own; None: that of `training.weight_decay`, which does not act on vectors.
    """

    lr_factor: float = 1.0
    weight_decay: float | None = None


class Strategy:
    """Naive sequential fine-tuning; subclasses override what they need.

    Attributes:
        regime: `sequential`: each stage on its own rows; `cumulative`: on all rows so far; `joint`: one
            training over the union of all stages.
        needs: what the strategy must be given; a stream that does not give it is refused before training. A property
            where it depends on the arguments.
        projects: changes the direction of the whole gradient in `adjust_gradients`, and so comes last there; a run may
            have one such strategy.
        bf16_weights: works where the weights that are trained are bfloat16 (`model.dtype`); else such a run is
            refused. Adapters, and the heads beside them, are fp32 whatever the body is.
    """

    regime: ClassVar[Regime] = "sequential"
    needs: ClassVar[frozenset[Need]] = frozenset()
    projects: ClassVar[bool] = False
    bf16_weights: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name in metric keys and flags; messages about arguments show the name in the config."""
        return type(self).__name__.lower()

    def validate(self) -> list[str]:
        """Returns faults of the arguments, `argument: rule, got value`; empty is good."""
        return []

    def unfit(self, objective: Objective) -> list[str]:
        """Returns why this strategy cannot work on rows of `objective`, `argument: rule, got value`; empty is good."""
        return []

    def refuse(self, setting: Setting) -> list[str]:
        """Returns why this strategy cannot work in a setting, `argument: rule, got value`; empty is good."""
        return []

    def training_data(self, run: RunView, stage: Stage) -> npt.NDArray[np.int64] | None:
        """Called first in a stage, old weights in place; returns row ids to train on, None for the regime's."""
        return None

    def before_stage(self, run: RunView, stage: Stage) -> None:
        """Called when labels are grown and no optimiser is built; may change the model and what of it is trainable.

        The model stays the same object: its parameters keep their names within a run.
        """

    def parameter_settings(self, run: RunView) -> Mapping[str, ParameterSettings]:
        """Called once a stage, after `before_stage`, as its optimiser is made, also where a stage is resumed.

        Returns the settings of single trainable parameters, by name; the others are moved as without it.
        """
        return {}

    def before_step(self, run: RunView) -> None:
        """Called before the first forward pass of every attempt at a step, which is repeated after out-of-memory.

        What is gathered during a step begins anew here.
        """

    def memory(self, run: RunView, batch: Batch) -> Sequence[tuple[float, Batch]]:
        """Called after the backward pass of the step's own rows; returns `(weight, memory batch)` pairs.

        Each adds `weight * mean(task loss over its rows)` and is freed by itself. The batch that comes to `loss_terms`
        has the strategy's name as its `owner`.
        """
        return ()

    def allowed_classes(self, run: RunView, batch: Batch) -> torch.Tensor | None:
        """Called before every micro-batch's forward pass; returns the classes among which its rows' loss runs.

        Bool (rows, classes), true where a class takes part; None: all. A class must be allowed by every strategy.
        """
        return None

    def loss_terms(self, run: RunView, batch: Batch, outputs: Outputs) -> Mapping[str, torch.Tensor]:
        """Called in every micro-batch; returns scalar terms added to its loss and logged by name."""
        return {}

    def observe_gradients(self, run: RunView) -> None:
        """Called once a step before any strategy's `adjust_gradients`: `.grad` is that of the loss, unscaled.

        It may be read, not edited; it stays the same object until it is adjusted.
        """

    def adjust_gradients(self, run: RunView) -> Mapping[str, torch.Tensor]:
        """Called once a step, gradients unscaled and not clipped; may edit `.grad`; returns values to log."""
        return {}

    def after_step(self, run: RunView) -> None:
        """Called after the optimiser's step, before gradients are cleared."""

    def after_stage(self, run: RunView, stage: Stage) -> None:
        """Called with the best weights restored, before the stage is evaluated."""

    def evaluation(self, run: RunView, columns: Sequence[str]) -> AbstractContextManager[None]:
        """Returns a context manager around each evaluation; may swap weights in and out."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that later stages need: tensors and plain values only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""

    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        """Returns the plain values that can change what training this stage computes; None: nothing can."""
        return self.arguments()

    def state_numbers(self, num_trainable: int, num_stages: int) -> int | None:
        """Returns how many numbers the strategy keeps at most, in memory and in `state_dict`; None: not known.

        Args:
            num_trainable: trainable parameters of the model.
            num_stages: stages of the stream.
        """
        return None

    def buffer_bytes(self, run: RunView) -> int:
        """Bytes of kept rows: ids, payload, and the text that they keep alive."""
        return 0

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments, read back from the attributes of the same names.

        Raises:
            TypeError: an argument was not kept under its own name.
        """
        names = list(inspect.signature(type(self)).parameters)
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise TypeError(f"{type(self).__name__} must keep its arguments {missing} as attributes of the same names")
        return {name: getattr(self, name) for name in names}

    def overrides(self, hook: str) -> bool:
        """Says whether this strategy has its own version of `hook`: its class, or the object itself."""
        return hook in vars(self) or getattr(type(self), hook) is not getattr(Strategy, hook)


HOOKS = frozenset(
    name for name, value in vars(Strategy).items() if inspect.isfunction(value) and not name.startswith("_")
)
