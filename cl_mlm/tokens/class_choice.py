"""Rows for which the model makes one choice among classes: loss, sites and prediction.

Axes: R rows, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.batch import Batch, Outputs, Sites
from cl_mlm.tokens.logits import masked_logits

if TYPE_CHECKING:
    import torch


def choice_losses(outputs: Outputs, batch: Batch) -> torch.Tensor:
    """Returns the cross-entropy of every row among its allowed classes in nats, (R,)."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(masked_logits(outputs.logits, batch.allowed), batch.targets, reduction="none")


def choice_sites(outputs: Outputs, batch: Batch) -> Sites:
    """Returns one site a row."""
    import torch

    logits = masked_logits(outputs.logits, batch.allowed)
    return Sites(logits, torch.arange(len(logits), device=logits.device), batch.targets)


def most_probable(outputs: Outputs, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns for every row the most probable allowed class, its probability, and the target's probability, (R,) each.

    A target that the model does not have yet has probability 0.
    """
    probabilities = masked_logits(outputs.logits, batch.allowed).softmax(-1)
    best = probabilities.max(-1)
    is_known = batch.targets < probabilities.shape[-1]
    of_target = probabilities.gather(-1, (batch.targets * is_known)[:, None])[:, 0] * is_known
    return best.indices, best.values, of_target
