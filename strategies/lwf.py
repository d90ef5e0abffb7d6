"""Learning without Forgetting: the model before this stage teaches the old classes on the new rows.

Li and Hoiem (2016), Learning without Forgetting, arXiv:1606.09282, equation 2 and algorithm 1.
Differs from the paper: the distillation term is the Kullback-Leibler divergence times T² (Hinton et al. 2015,
arXiv:1503.02531), whose gradient equals that of the cross-entropy and does not shrink with T; the new head
is not warmed up; in a class-incremental stream a row is predicted among all classes, which the paper never asks for.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from cl_mlm.batch import Batch, Outputs
from cl_mlm.objective import Objective
from cl_mlm.strategy import Need, OtherHead, RunView, Strategy
from cl_mlm.stream import Stage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from cl_mlm.task import LabelSpace

    SitesOf = Callable[[Batch, Outputs], tuple[torch.Tensor, torch.Tensor]]
    Group = list[int] | None  # classes that are one distribution; None: all that a site has


class Lwf(Strategy):
    """Adds `weight * T² * KL(teacher || student)` over the classes known before this stage, the mean over sites.

    The teacher's logits on the stage's rows are computed once, before the first step, dropout off. In a
    task-incremental stream each old stage's classes are one distribution, else all old classes together; where the
    model chooses among tokens, all of them. Where the stream has several objectives, every earlier head on the body is
    taught on the stage's rows too, as the paper's old tasks are on new images: a sequence head's choice, a token head's
    of every token, a span head's of start and end; each is a mean over its own sites. The terms of all heads are added.

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
        self._teacher: _Teacher | None = None
        self._others: dict[str, _Teacher] = {}

    @override
    def validate(self) -> list[str]:
        faults = [f"weight: must be at least 0, got {self.weight}"] * (not self.weight >= 0)
        faults += [f"top_k: must be at least 2, got {self.top_k}"] * (self.top_k < 2)
        return faults + [f"temperature: must be above 0, got {self.temperature}"] * (not self.temperature > 0)

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
        self._others = {}
        for head in run.other_heads:
            sites = partial(other_sites, run, head)
            self._others[head.task.key] = ask_teacher(run, other_groups(run, head), sites, self.top_k)

    @override
    def allowed_classes(self, run: RunView, batch: Batch) -> "torch.Tensor | None":
        import torch

        own = run.labels.of(run.stage_index)
        # Among one class alone every loss is zero: a stage that brings a single label is compared with all.
        if not self.own_classes or batch.origin != "stage" or len(own) + len(run.labels.shared) < 2:
            return None
        allowed = torch.zeros(len(batch), run.labels.num_classes, dtype=torch.bool, device=batch.device)
        allowed[:, [*run.labels.shared, *own]] = True
        # Rows of earlier stages keep their own classes.
        return allowed | run.objective.target_classes(batch, run.labels.num_classes)

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return self.arguments() if stage_index else None

    @override
    def loss_terms(self, run: RunView, batch: Batch, outputs: Outputs) -> Mapping[str, "torch.Tensor"]:
        import torch

        if batch.origin != "stage":
            return {}
        terms = []
        if self._teacher is not None:
            terms += self._teacher.terms(batch, free_sites(run, batch, outputs)[0], self.temperature)
        for head in run.other_heads if self._others else ():
            student, _ = other_sites(run, head, batch, outputs)
            terms += self._others[head.task.key].terms(batch, student, self.temperature)
        return {"lwf": self.weight * torch.stack(terms).sum()} if terms else {}


@dataclass(frozen=True)
class _Teacher:
    """An earlier model's logits at every site of a stage's rows.

    Attributes:
        ids: of the rows, sorted, (N,).
        ends: where the sites of the first k rows end, int64 (N + 1,).
        groups: which classes are one distribution.
        kept: of every group the logits, (S, K), and their places in the group, int64 (S, K), None where all are kept.
    """

    ids: "npt.NDArray[np.int64]"
    ends: "npt.NDArray[np.int64]"
    groups: "list[Group]"
    kept: "list[tuple[torch.Tensor, torch.Tensor | None]]"

    def places(self, batch: Batch) -> "torch.Tensor":
        """Returns where the sites of a batch's rows are kept, int64 (S,), in the rows' order."""
        import numpy as np
        import torch

        rows = np.searchsorted(self.ids, batch.ids.numpy())
        counts = self.ends[rows + 1] - self.ends[rows]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return torch.from_numpy(np.repeat(self.ends[rows], counts) + within).to(batch.device)

    def terms(self, batch: Batch, student: "torch.Tensor", temperature: float) -> "list[torch.Tensor]":
        """Returns the distillation of every group from the student's logits at the sites of a batch's rows, (S, C)."""
        places = self.places(batch)
        terms = []
        for group, (values, indices) in zip(self.groups, self.kept, strict=True):
            own = student if group is None else student[:, group]
            where = None if indices is None else indices[places].clamp_max(own.shape[-1] - 1)
            terms.append(distillation(values[places], own, temperature, where))
        return terms


def ask_teacher(run: RunView, groups: "list[Group]", sites_of: "SitesOf", top_k: int) -> _Teacher:
    """Returns what the present model says of the stage's rows, dropout off; where it chooses among fewer, -inf.

    Args:
        run: at the beginning of a stage.
        groups: which classes are one distribution.
        sites_of: gives logits (S, C) and rows (S,) of the sites of a batch, by row.
        top_k: classes that are kept of a distribution at most.
    """
    import numpy as np
    import torch
    from torch.nn.functional import pad

    ids = np.sort(run.training_ids)
    rows: list[torch.Tensor] = []
    found: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in groups]
    was_training = run.model.training
    run.model.eval()
    with torch.no_grad():
        for positions, batch in run.batches(ids, 4 * run.batch_size):
            logits, row = sites_of(batch, run.forward(batch))
            rows.append(torch.from_numpy(positions)[row.cpu()])
            for group, own in zip(groups, found, strict=True):
                own.append(_likeliest(logits if group is None else logits[:, group], top_k))
    run.model.train(was_training)
    flat = torch.cat(rows)
    order = torch.sort(flat, stable=True).indices.to(run.rows(ids[:1]).device)
    counts = np.bincount(flat.numpy(), minlength=len(ids))
    kept = []
    for group, own in zip(groups, found, strict=True):
        width = max(values.shape[-1] for values, _ in own)
        values = torch.cat([pad(values, (0, width - values.shape[-1]), value=-torch.inf) for values, _ in own])[order]
        indices = torch.cat([pad(places, (0, width - places.shape[-1])) for _, places in own])[order]
        kept.append((values, None if group is not None and len(group) <= top_k else indices))
    return _Teacher(ids, np.concatenate([[0], np.cumsum(counts)]), groups, kept)


def free_sites(run: RunView, batch: Batch, outputs: Outputs) -> "tuple[torch.Tensor, torch.Tensor]":
    """Returns logits (S, C) and rows (S,) of all sites that ask about old classes, by row, no class ruled out."""
    import torch

    sites = run.sites(outputs, replace(batch, allowed=None))
    logits, row = sites.logits.float(), sites.row
    if sites.about is not None:
        old = sites.about < run.labels.num_old_classes
        logits, row = logits[old], row[old]
    if sites.about is None and len(row) == len(batch):
        return logits, row
    order = torch.sort(row, stable=True).indices
    return logits[order], row[order]


def other_sites(run: RunView, head: OtherHead, batch: Batch, outputs: Outputs) -> "tuple[torch.Tensor, torch.Tensor]":
    """Returns logits (S, C) and rows (S,), by row, of all places where another head chooses on a batch's inputs.

    Its own rows tell which tokens are words or may be answers, which these do not: all that are no padding take part.
    """
    import torch

    logits = run.other_logits(outputs, head.task.key).float()
    row = torch.arange(len(logits), device=logits.device) if batch.input_row is None else batch.input_row
    if head.task.objective.is_binary:
        old = logits[:, : head.task.labels.num_old_classes]
        return torch.stack([torch.zeros_like(old), old], -1).flatten(0, 1), row.repeat_interleave(old.shape[1])
    if head.form == "sequence":
        return logits, row
    is_token = batch.inputs["attention_mask"].bool()
    if head.form == "span":
        places = logits.masked_fill(~is_token[..., None], -torch.inf).transpose(1, 2)
        return places.flatten(0, 1), row.repeat_interleave(2)
    return logits[is_token], row[is_token.nonzero()[:, 0]]


def other_groups(run: RunView, head: OtherHead) -> "list[Group]":
    """Returns the classes of another head that are one distribution each: those that it has been trained on."""
    task = head.task
    if task.objective.is_binary or not task.labels.classes:
        return [None]
    return class_groups(run, task.labels, task.stages)


def distillation(
    teacher: "torch.Tensor", student: "torch.Tensor", temperature: float, indices: "torch.Tensor | None" = None
) -> "torch.Tensor":
    """Returns `T² * mean over sites of KL(softmax(teacher/T) || softmax(student/T))` in nats.

    Args:
        teacher: logits, (sites, kept).
        student: logits, (sites, classes).
        temperature: T.
        indices: the classes of `teacher`, (sites, kept); None: all, in order.
    """
    import torch
    from torch.nn.functional import log_softmax

    target, own = log_softmax(teacher / temperature, dim=-1), log_softmax(student / temperature, dim=-1)
    if indices is not None:
        own = own.gather(-1, indices)
    share = target.exp()
    # Classes that a site does not have are minus infinity in both.
    terms = torch.where(share > 0, share * (target - own), 0.0)
    return terms.sum() / max(1, len(teacher)) * temperature**2


def old_groups(run: RunView) -> "list[Group]":
    """Returns the class indices that are one distribution each and were known before this stage."""
    if not run.labels.classes:
        return [None] if run.is_head_old else []
    if run.objective.is_binary:
        return [None] if run.labels.num_old_classes else []
    return class_groups(run, run.labels, range(run.stage_index))


def class_groups(run: RunView, labels: "LabelSpace", stages: "Iterable[int]") -> "list[Group]":
    """Returns a task's old classes, all together, or those of each of its `stages` where a row's stage is known."""
    num_old = labels.num_old_classes
    if run.stream.scenario != "task_incremental":
        return [list(range(num_old))] if num_old else []
    earlier = (labels.of(j) for j in stages if j < run.stage_index and labels.of(j))
    groups = ([i for i in (*labels.shared, *stage) if i < num_old] for stage in earlier)
    return [group for group in groups if group]


def _likeliest(logits: "torch.Tensor", top_k: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Returns the `top_k` largest logits and their places; all, in their order, where there are no more."""
    import torch

    if logits.shape[-1] <= top_k:
        places = torch.arange(logits.shape[-1], device=logits.device).expand(len(logits), -1)
        return logits, places
    found = logits.topk(top_k, dim=-1)
    return found.values, found.indices
