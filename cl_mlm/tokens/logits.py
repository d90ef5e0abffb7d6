"""Sites and losses of models that predict tokens of a vocabulary; masks of classes that a row may not be given.

Axes: R rows, T tokens, V vocabulary, S tokens to be predicted, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.batch import Batch, Outputs, Sites

if TYPE_CHECKING:
    import torch

NO_TARGET = -100  # transformers ignores this target too


def token_sites(outputs: Outputs, batch: Batch) -> Sites:
    """Returns a site for every token to be predicted, row by row, with its logits in fp32, (S, V).

    `batch.targets`, (R, T), holds at each position the token that the logits of that position predict, or NO_TARGET.
    Logits, (R, T + k, V), are aligned from the right: k prompt positions in front of the input are left out. Those of
    packed rows are these sites' own, (S, V).
    """
    is_predicted = batch.targets != NO_TARGET
    logits = outputs.logits
    if logits.dim() == 3:
        logits = logits[:, -batch.targets.shape[1] :][is_predicted]
    # Selected before the conversion: prompts and padding then take no fp32 memory.
    return Sites(logits.float(), is_predicted.nonzero()[:, 0], batch.targets[is_predicted])


def token_losses(outputs: Outputs, batch: Batch) -> torch.Tensor:
    """Returns for every row the summed cross-entropy of its predicted tokens in nats, fp32, (R,)."""
    from torch.nn.functional import cross_entropy

    sites = token_sites(outputs, batch)
    losses = cross_entropy(sites.logits, sites.target, reduction="none")
    is_predicted = batch.targets != NO_TARGET
    # Summed along the rows of a table: `index_add` has no fixed order of additions on an accelerator.
    return losses.new_zeros(is_predicted.shape).masked_scatter(is_predicted, losses).sum(1)


def masked_logits(logits: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """Returns logits in fp32, with minus infinity for classes that a row may not be given.

    Args:
        logits: (R, C) or (R, T, C).
        allowed: classes that each row may be given, bool (R, C); None: all.
    """
    logits = logits.float()
    if allowed is None:
        return logits
    of_all_tokens = allowed if logits.dim() == 2 else allowed[:, None]
    return logits.masked_fill(~of_all_tokens, float("-inf"))
