"""Distillation from an earlier model, the teacher: its logits on a stage's rows, and the divergence from them.

Axes: N rows, S sites (places where the model chooses among classes), C classes, K classes kept of a distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import log_softmax, pad

from cl_mlm.models.modes import evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    from cl_mlm.batch import Batch, Outputs
    from cl_mlm.strategy import OtherHead, RunView
    from cl_mlm.task import LabelSpace

    SitesOf = Callable[[Batch, Outputs], tuple[torch.Tensor, torch.Tensor]]
    Group = list[int] | None  # classes that form one distribution; None: all classes of a site


def distillation(
    teacher: torch.Tensor, student: torch.Tensor, temperature: float, indices: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns `T² * mean over sites of KL(softmax(teacher/T) || softmax(student/T))` in nats.

    Args:
        teacher: logits, (S, K).
        student: logits, (S, C).
        temperature: T.
        indices: the classes of the teacher's logits, int64 (S, K); None: all, in order.
    """
    target, log_p = log_softmax(teacher / temperature, dim=-1), log_softmax(student / temperature, dim=-1)
    if indices is not None:
        log_p = log_p.gather(-1, indices)
    share = target.exp()
    # The logits of a class that a site does not have are minus infinity in both, and their difference is NaN.
    terms = torch.where(share > 0, share * (target - log_p), 0.0)
    return terms.sum() / max(1, len(teacher)) * temperature**2


@dataclass(frozen=True)
class Teacher:
    """An earlier model's logits at every site of a stage's rows.

    Attributes:
        ids: of the rows, ascending, int64 (N,).
        ends: number of sites of the first k rows, int64 (N + 1,).
        groups: classes that form one distribution each.
        logits: of every group, (S, K).
        indices: of every group, the places of its logits in the group, int64 (S, K); None where all are kept, in order.
    """

    ids: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    groups: list[Group]
    logits: list[torch.Tensor]
    indices: list[torch.Tensor | None]

    def compared(
        self, batch: Batch, student: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Yields for every group the teacher's logits, the student's, and the indices of the teacher's classes.

        The three are the first, second and last argument of `distillation`.

        Args:
            batch: rows of the stage.
            student: logits at the sites of these rows, in their order, (S, C).
        """
        places = self._places(batch)
        for group, logits, indices in zip(self.groups, self.logits, self.indices, strict=True):
            of_group = student if group is None else student[:, group]
            # In a batch that is padded less the student has fewer positions: those beyond have share 0.
            where = None if indices is None else indices[places].clamp_max(of_group.shape[-1] - 1)
            yield logits[places], of_group, where

    def _places(self, batch: Batch) -> torch.Tensor:
        """Returns the places of the sites of a batch's rows among all sites, int64 (S,), row by row."""
        rows = np.searchsorted(self.ids, batch.ids.numpy())
        counts = self.ends[rows + 1] - self.ends[rows]
        within_row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return torch.from_numpy(np.repeat(self.ends[rows], counts) + within_row).to(batch.device)


def ask_teacher(run: RunView, groups: list[Group], sites_of: SitesOf, top_k: int) -> Teacher | None:
    """Returns the present model's logits on the rows of the stage, dropout off; None where the stage has no rows.

    Args:
        run: before the first step of a stage.
        groups: classes that form one distribution each.
        sites_of: gives logits (S, C) and rows (S,) of the sites of a batch, row by row.
        top_k: classes of a distribution that are kept at most, the likeliest.
    """
    ids = np.sort(run.training_ids)
    if not len(ids):
        return None
    site_rows: list[torch.Tensor] = []
    by_group: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in groups]
    with evaluation_mode(run.model), torch.no_grad():
        for positions, batch in run.batches(ids, 4 * run.batch_size):
            logits, row = sites_of(batch, run.forward(batch))
            site_rows.append(torch.from_numpy(positions)[row.cpu()])
            for group, likeliest in zip(groups, by_group, strict=True):
                likeliest.append(_likeliest(logits if group is None else logits[:, group], top_k))
    # Batches come in order of length; the sites are kept in the order of the ids.
    flat = torch.cat(site_rows)
    order = torch.sort(flat, stable=True).indices.to(run.rows(ids[:1]).device)
    counts = np.bincount(flat.numpy(), minlength=len(ids))
    kept_logits: list[torch.Tensor] = []
    kept_indices: list[torch.Tensor | None] = []
    for group, likeliest in zip(groups, by_group, strict=True):
        # Where a class is a position, batches differ in their number of classes.
        width = max(values.shape[-1] for values, _ in likeliest)
        values = [pad(values, (0, width - values.shape[-1]), value=-torch.inf) for values, _ in likeliest]
        indices = [pad(indices, (0, width - indices.shape[-1])) for _, indices in likeliest]
        are_all_kept = group is not None and len(group) <= top_k
        kept_logits.append(torch.cat(values)[order])
        kept_indices.append(None if are_all_kept else torch.cat(indices)[order])
    return Teacher(ids, np.concatenate([[0], np.cumsum(counts)]), groups, kept_logits, kept_indices)


def _likeliest(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the `top_k` largest logits and their places; where there are no more, all in their order."""
    if logits.shape[-1] <= top_k:
        places = torch.arange(logits.shape[-1], device=logits.device).expand(len(logits), -1)
        return logits, places
    largest = logits.topk(top_k, dim=-1)
    return largest.values, largest.indices


def free_sites(run: RunView, batch: Batch, outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits (S, C) and rows (S,) of the sites that ask about old classes, row by row, with no class masked."""
    sites = run.sites(outputs, replace(batch, allowed=None))
    logits, row = sites.logits.float(), sites.row
    if sites.about is not None:
        is_old = sites.about < run.labels.num_old_classes
        logits, row = logits[is_old], row[is_old]
    if sites.about is None and len(row) == len(batch):
        return logits, row  # one site a row, in order
    order = torch.sort(row, stable=True).indices
    return logits[order], row[order]


def other_sites(run: RunView, head: OtherHead, batch: Batch, outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits (S, C) and rows (S,) of the sites of another head on a batch's inputs, row by row.

    Rows of the other head's own task would say which tokens are words, or may be answers. These rows do not: all tokens
    but padding take part.
    """
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


def old_groups(run: RunView) -> list[Group]:
    """Returns the groups of classes that the present head knew before this stage; empty where it knew none."""
    if not run.labels.classes:  # classes are tokens or positions
        return [None] if run.is_head_old else []
    if run.objective.is_binary:
        return [None] if run.labels.num_old_classes else []
    return class_groups(run, run.labels, range(run.stage_index))


def other_groups(run: RunView, head: OtherHead) -> list[Group]:
    """Returns the groups of classes of another head that it has been trained on."""
    task = head.task
    if task.objective.is_binary or not task.labels.classes:
        return [None]
    return class_groups(run, task.labels, task.stages)


def class_groups(run: RunView, labels: LabelSpace, stages: Iterable[int]) -> list[Group]:
    """Returns the groups of a task's old classes: all in one, or in a task-incremental stream one for each stage.

    Args:
        run: in the present stage.
        labels: of the task.
        stages: of the task.
    """
    num_old = labels.num_old_classes
    if run.stream.scenario != "task_incremental":
        return [list(range(num_old))] if num_old else []
    earlier = (labels.of(j) for j in stages if j < run.stage_index and labels.of(j))
    groups = ([i for i in (*labels.shared, *of_stage) if i < num_old] for of_stage in earlier)
    return [group for group in groups if group]
