"""What training costs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class StageCost:
    """What training one stage took.

    Attributes:
        train_seconds: wall-clock time, the hooks of strategies before and after the stage included.
        train_examples: rows that went forward and backward in steps, memory rows included.
        train_tokens: tokens of those rows, padding left out.
        hook_examples: rows that strategies put through the model in their hooks (teacher, Fisher, gradients).
        hook_tokens: tokens of those rows.
        steps: optimiser steps.
        flags: what a reader must know, such as memory that did not suffice.
        reused_from: the run that trained this stage in place of this one; empty: this one did.
    """

    train_seconds: float = 0.0
    train_examples: int = 0
    train_tokens: int = 0
    hook_examples: int = 0
    hook_tokens: int = 0
    steps: int = 0
    flags: list[str] = field(default_factory=list)
    reused_from: str = ""
