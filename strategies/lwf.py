"""Learning without Forgetting: the model before this stage teaches the old classes on the new rows.

Li and Hoiem (2016), Learning without Forgetting, arXiv:1606.09282, equation 2 and algorithm 1.
Differs from the paper: the distillation term is the Kullback-Leibler divergence times T² (Hinton et al. 2015,
arXiv:1503.02531), whose gradient equals that of the cross-entropy and does not shrink with T; the new head
is not warmed up; in a class-incremental stream a row is predicted among all classes, which the paper never asks for.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from typing_extensions import override

from cl_mlm.mechanisms import (
    Teacher,
    ask_teacher,
    distillation,
    free_sites,
    old_groups,
    other_groups,
    other_sites,
)
from cl_mlm.strategy import Need, OtherHead, RunView, Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cl_mlm.batch import Batch, Outputs
    from cl_mlm.objective import Objective
    from cl_mlm.stream import Stage


class Lwf(Strategy):
    """Adds `weight * T² * KL(teacher || student)` over the classes known before this stage, the mean over sites.

    The teacher's logits on the stage's rows are computed once, before the first step, dropout off. In a
    task-incremental stream each old stage's classes are one distribution, else all old classes together; where the
    model chooses among tokens, all of them.

    Where the stream has several objectives, every earlier head on the body is taught on the stage's rows too, as the
    paper's old tasks are on new images: a sequence head's choice, a token head's choice at every token, a span head's
    start and end. Each head's term is a mean over its own sites; the terms of all heads are added.

    Args:
        weight: of the term.
        temperature: T, above 0; softens both distributions.
        own_classes: the loss of a stage's rows runs over the stage's own classes only, as in the paper (its new task
            has outputs of its own); else over all classes seen, which pushes the old ones down on every new row.
        top_k: of a distribution over more classes the teacher's likeliest are kept, renormalised.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"old_model"})
    bf16_weights: ClassVar[bool] = True

    def __init__(
        self, weight: float = 1.0, temperature: float = 2.0, own_classes: bool = True, top_k: int = 256
    ) -> None:
        self.weight = weight
        self.temperature = temperature
        self.own_classes = own_classes
        self.top_k = top_k
        self._teacher: Teacher | None = None
        self._other_teachers: list[tuple[OtherHead, Teacher]] = []

    @override
    def validate(self) -> list[str]:
        faults = []
        if not self.weight >= 0:
            faults.append(f"weight: must be at least 0, got {self.weight}")
        if self.top_k < 2:
            faults.append(f"top_k: must be at least 2, got {self.top_k}")
        if not self.temperature > 0:
            faults.append(f"temperature: must be above 0, got {self.temperature}")
        return faults

    @override
    def unfit(self, objective: Objective) -> list[str]:
        if objective.sites_per_row == "none":
            return [f"weight: a teacher's distribution needs classes, which objective {objective.name} has not"]
        if objective.varies:
            return [f"weight: the teacher reads every row once, but objective {objective.name} masks it anew each time"]
        return []

    @override
    def before_stage(self, run: RunView, stage: Stage) -> None:
        groups = old_groups(run)
        self._teacher = ask_teacher(run, groups, partial(free_sites, run), self.top_k) if groups else None
        self._other_teachers = []
        for head in run.other_heads:
            teacher = ask_teacher(run, other_groups(run, head), partial(other_sites, run, head), self.top_k)
            if teacher is not None:  # else the stage has no rows
                self._other_teachers.append((head, teacher))

    @override
    def allowed_classes(self, run: RunView, batch: Batch) -> torch.Tensor | None:
        if not self.weight:
            return None  # with weight 0 nothing of a strategy acts: the run is naive to the bit
        # A mask and not a loss of its own, so that it goes together with other strategies.
        of_stage = [*run.labels.shared, *run.labels.of(run.stage_index)]
        # Among one class alone every loss is zero: a stage that brings a single label is compared with all.
        if not self.own_classes or batch.origin != "stage" or len(of_stage) < 2:
            return None
        allowed = torch.zeros(len(batch), run.labels.num_classes, dtype=torch.bool, device=batch.device)
        allowed[:, of_stage] = True
        # Rows of earlier stages, where a stage trains on such, keep their own classes.
        return allowed | run.objective.target_classes(batch, run.labels.num_classes)

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return self.arguments() if stage_index else None

    @override
    def loss_terms(self, run: RunView, batch: Batch, outputs: Outputs) -> Mapping[str, torch.Tensor]:
        if batch.origin != "stage":
            return {}
        pairs: list[tuple[Teacher, torch.Tensor]] = []
        if self._teacher is not None:
            pairs.append((self._teacher, free_sites(run, batch, outputs)[0]))
        pairs += [(teacher, other_sites(run, head, batch, outputs)[0]) for head, teacher in self._other_teachers]
        terms = [
            distillation(teacher_logits, student_logits, self.temperature, indices)
            for teacher, student in pairs
            for teacher_logits, student_logits, indices in teacher.compared(batch, student)
        ]
        return {"lwf": self.weight * torch.stack(terms).sum()} if terms else {}
