"""Sites and losses of models that choose among the tokens of a vocabulary.

Axes: R rows, T tokens, V vocabulary, S tokens to be predicted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.batch import Batch, Outputs, Sites

if TYPE_CHECKING:
    import torch

NO_TARGET = -100  # what transformers ignores too


def token_sites(outputs: Outputs, batch: Batch) -> Sites:
    """Returns every token to be predicted, row by row, with its logits in fp32, (S, V).

    `batch.targets`, (R, T), holds at each place the token that the logits of that place are to predict, or NO_TARGET.
    Logits, (R, T + k, V), are aligned from the right: the k places that something puts before the input are left out.
    """
    wanted = batch.targets != NO_TARGET
    # Picked before the conversion: prompts and padding then take no fp32 memory.
    logits = outputs.logits[:, -batch.targets.shape[1] :][wanted].float()
    return Sites(logits, wanted.nonzero()[:, 0], batch.targets[wanted])


def token_losses(outputs: Outputs, batch: Batch) -> torch.Tensor:
    """Returns the summed cross-entropy of every row's tokens in nats, fp32, (R,)."""
    from torch.nn.functional import cross_entropy

    sites = token_sites(outputs, batch)
    losses = cross_entropy(sites.logits, sites.target, reduction="none")
    wanted = batch.targets != NO_TARGET
    # Summed along rows of a table: adding by index has no fixed order on an accelerator.
    return losses.new_zeros(wanted.shape).masked_scatter(wanted, losses).sum(1)


def masked_logits(logits: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """Returns logits in fp32, (R, C) or (R, T, C), minus infinity where a row, (R, C), may not have the class."""
    logits = logits.float()
    if allowed is None:
        return logits
    return logits.masked_fill(~(allowed if logits.dim() == 2 else allowed[:, None]), float("-inf"))
