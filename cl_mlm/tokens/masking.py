"""Masked tokens: chooses the tokens of a row that are to be predicted, and what the model is shown in their place.

Devlin et al. (2019), BERT, arXiv:1810.04805, appendix A.1. Axes: R rows, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.tokens.logits import NO_TARGET

if TYPE_CHECKING:
    import torch


SHOWN_AS_MASK, SHOWN_AS_RANDOM = 0.8, 0.1  # the rest of the chosen tokens is shown unchanged


def masked_tokens(
    tokens: torch.Tensor,
    maskable: torch.Tensor,
    count: torch.Tensor,
    draws: torch.Tensor,
    mask_token: int,
    vocabulary: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the tokens that the model is shown and its targets, int64 (R, T) each; NO_TARGET where none is predicted.

    Args:
        tokens: the rows as they are, int64 (R, T).
        maskable: tokens that may be chosen, bool (R, T).
        count: number of tokens to choose in every row, (R,); at most as many as are maskable.
        draws: uniform in [0, 1), (3, R, T). The first decides which tokens are chosen, the second whether a chosen
            token is masked, replaced or kept, the third which token replaces it.
        mask_token: shown in place of 80 % of the chosen tokens; another 10 % are replaced by a random token.
        vocabulary: number of tokens in the vocabulary.
    """
    import torch

    order, kind, replacement = draws.to(tokens.device)
    # Sorting twice gives every token its rank among the draws; 2.0 puts tokens that may not be chosen last.
    rank = order.masked_fill(~maskable, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    is_chosen = maskable & (rank < count.to(tokens.device)[:, None])
    shown = torch.where(is_chosen & (kind < SHOWN_AS_MASK), mask_token, tokens)
    is_replaced = is_chosen & (kind >= SHOWN_AS_MASK) & (kind < SHOWN_AS_MASK + SHOWN_AS_RANDOM)
    shown = torch.where(is_replaced, (replacement * vocabulary).long(), shown)
    return shown, tokens.masked_fill(~is_chosen, NO_TARGET)
