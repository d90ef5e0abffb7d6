"""Sequential fine-tuning with nothing against forgetting: the lower bound of every comparison."""

from __future__ import annotations

from cl_mlm.strategy import Strategy


class Naive(Strategy):
    """Trains each stage on its own rows; `strategies: [naive]` and `strategies: []` are the same run."""
