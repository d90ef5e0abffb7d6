"""Finds what a loss's graph reads, by a walk through autograd's graph."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def walk(losses: Tensor) -> tuple[Counter[int], set[Any]]:
    """Returns how many operations of the graph read each leaf, by the leaf's `id`, and all operations of the graph.

    Raises:
        ValueError: there is no graph, or gradient checkpointing (the reentrant kind) hides parts of it, whose
            parameters would count as unused.
    """
    if not losses.requires_grad:
        raise ValueError("loss_per_row: losses must depend on the parameters; was gradient recording off?")
    reads: Counter[int] = Counter()
    pending: list[Any] = [losses.grad_fn]
    seen = set(pending)
    while pending:
        node = pending.pop()
        if type(node).__name__ == "CheckpointFunctionBackward":
            raise ValueError("loss_per_row: gradient checkpointing must be off; is the model in training mode?")
        for following, _ in node.next_functions:
            if type(following).__name__ == "AccumulateGrad":
                reads[id(following.variable)] += 1
            elif following is not None and following not in seen:
                seen.add(following)
                pending.append(following)
    return reads, seen
