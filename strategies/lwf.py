"""Learning without Forgetting: the model before this stage teaches the old classes on the new rows.

Li and Hoiem (2016), Learning without Forgetting, arXiv:1606.09282, equation 2 and algorithm 1.
Differs from the paper: the distillation term is the Kullback-Leibler divergence times T² (Hinton et al. 2015,
arXiv:1503.02531), whose gradient equals that of the cross-entropy and does not shrink with T; the new head
is not warmed up; in a class-incremental stream a row is predicted among all classes, which the paper never asks for.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from cl_mlm.objective import Batch, Outputs
from cl_mlm.strategy import Need, RunView, Strategy
from cl_mlm.stream import Stage

if TYPE_CHECKING:
    import torch


class Lwf(Strategy):
    """Adds `weight * T² * KL(teacher || student)` over the classes known before this stage.

    The teacher's logits on the stage's rows are computed once, before the first step, dropout off. In a
    task-incremental stream each old stage's classes are one distribution, else all old classes together.

    Args:
        weight: of the term.
        temperature: T, above 0; softens both distributions.
        own_classes: the loss of a stage's rows runs over the stage's own classes only, as in the paper (its new task
            has outputs of its own); else over all classes seen, which pushes the old ones down on every new row.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"old_model"})

    def __init__(self, weight: float = 1.0, temperature: float = 2.0, own_classes: bool = True) -> None:
        self.weight = weight
        self.temperature = temperature
        self.own_classes = own_classes
        self._ids: Any = None
        self._teacher: torch.Tensor | None = None
        self._groups: list[list[int]] = []

    @override
    def validate(self) -> list[str]:
        faults = [f"weight: must be at least 0, got {self.weight}"] * (not self.weight >= 0)
        return faults + [f"temperature: must be above 0, got {self.temperature}"] * (not self.temperature > 0)

    @override
    def before_stage(self, run: RunView, stage: Stage) -> None:
        import numpy as np
        import torch

        self._teacher, self._groups = None, old_groups(run)
        if not self._groups:
            return
        self._ids = np.sort(run.training_ids)
        num_old = len(run.labels.old)
        teacher = torch.empty(len(self._ids), num_old, device=next(run.model.parameters()).device)
        was_training = run.model.training
        run.model.eval()
        with torch.no_grad():
            for positions, batch in run.batches(self._ids, 4 * run.batch_size):
                teacher[torch.from_numpy(positions)] = run.forward(batch).logits[:, :num_old].float()
        run.model.train(was_training)
        self._teacher = teacher

    @override
    def allowed_classes(self, run: RunView, batch: Batch) -> "torch.Tensor | None":
        import torch

        own = run.labels.of(run.stage_index)
        # Among one class alone every loss is zero: a stage that brings a single label is compared with all.
        if not self.own_classes or batch.origin != "stage" or len(own) < 2:
            return None
        allowed = torch.zeros(len(batch), len(run.labels.seen), dtype=torch.bool, device=batch.targets.device)
        allowed[:, list(own)] = True
        return allowed.scatter(1, batch.targets[:, None], True)  # rows of earlier stages keep their own class

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return self.arguments() if stage_index else None

    @override
    def loss_terms(self, run: RunView, batch: Batch, outputs: Outputs) -> Mapping[str, "torch.Tensor"]:
        import numpy as np
        import torch

        if self._teacher is None or batch.origin != "stage":
            return {}
        places = torch.from_numpy(np.searchsorted(self._ids, batch.ids.numpy()))
        teacher, student = self._teacher[places], outputs.logits.float()
        terms = [distillation(teacher[:, group], student[:, group], self.temperature) for group in self._groups]
        return {"lwf": self.weight * torch.stack(terms).sum()}


def distillation(teacher: "torch.Tensor", student: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """Returns `T² * mean over rows of KL(softmax(teacher/T) || softmax(student/T))` in nats; (rows, classes)."""
    from torch.nn.functional import kl_div, log_softmax

    target = log_softmax(teacher / temperature, dim=-1)
    return (
        kl_div(log_softmax(student / temperature, dim=-1), target, reduction="batchmean", log_target=True)
        * temperature**2
    )


def old_groups(run: RunView) -> list[list[int]]:
    """Returns the class indices that are one distribution each and were known before this stage."""
    num_old = len(run.labels.old)
    if run.stream.scenario != "task_incremental":
        return [list(range(num_old))] if num_old else []
    earlier = (run.labels.of(j) for j in range(run.stage_index))
    return [group for stage in earlier if (group := [i for i in stage if i < num_old])]
