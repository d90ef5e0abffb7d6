"""Masked tokens: which of a row's tokens are to be predicted, and what is shown in their place.

Devlin et al. (2019), BERT, arXiv:1810.04805, appendix A.1. Axes: R rows, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.tokens.logits import NO_TARGET

if TYPE_CHECKING:
    import torch

SHOWN_AS_MASK, SHOWN_AS_RANDOM = 0.8, 0.1  # the rest is shown as it is


def masked_tokens(
    tokens: torch.Tensor,
    maskable: torch.Tensor,
    count: torch.Tensor,
    draws: torch.Tensor,
    mask_token: int,
    vocabulary: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what the model is shown and what it is to predict, int64 (R, T) each; NO_TARGET where nothing.

    Args:
        tokens: the rows as they are, int64 (R, T).
        maskable: tokens that may be chosen, bool (R, T).
        count: how many are chosen in every row, (R,), at most as many as may be.
        draws: uniform in [0, 1), (3, R, T): which tokens are chosen, what is shown there, and which other token.
        mask_token: shown in 80 % of the chosen places; another 10 % show any token.
        vocabulary: the number of tokens.
    """
    import torch

    order, kind, other = draws.to(tokens.device)
    rank = order.masked_fill(~maskable, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    chosen = maskable & (rank < count.to(tokens.device)[:, None])
    shown = torch.where(chosen & (kind < SHOWN_AS_MASK), mask_token, tokens)
    replaced = chosen & (kind >= SHOWN_AS_MASK) & (kind < SHOWN_AS_MASK + SHOWN_AS_RANDOM)
    shown = torch.where(replaced, (other * vocabulary).long(), shown)
    return shown, tokens.masked_fill(~chosen, NO_TARGET)
