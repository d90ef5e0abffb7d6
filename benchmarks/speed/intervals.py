"""The statistics of the comparison: blocks of work, paired log ratios with a t-interval, and a robust slope."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Block:
    """What one arm did between two readings of the clocks.

    Attributes:
        rows: rows of the stage that were worked through.
        cpu: processor seconds of the whole process; on an accelerator, wall-clock seconds.
        wall: wall-clock seconds.
        processed: rows that went through the model, memory rows included.
    """

    rows: int
    cpu: float
    wall: float
    processed: int = 0

    def __add__(self, other: Block) -> Block:
        return Block(
            self.rows + other.rows,
            self.cpu + other.cpu,
            self.wall + other.wall,
            self.processed + other.processed,
        )


class Arm(Protocol):
    """One way to do the work; goes on where its last block ended."""

    def block(self, steps: int) -> Block:
        """Works for `steps` optimiser steps (an arm of whole jobs: for one job)."""
        ...

    def close(self) -> None:
        """Ends the arm and frees what it holds."""
        ...


@dataclass
class Interval:
    """A ratio and where it lies with 95 % confidence; the bounds are NaN for a single pair."""

    ratio: float
    low: float = math.nan
    high: float = math.nan


@dataclass
class Comparison:
    """Paired blocks of two arms, A B B A by A B B A.

    Attributes:
        log_ratios: of each quad, log of A's rows per second over B's.
        a, b: everything that was measured of either arm.
        reached: whether the interval became as narrow as was asked.
    """

    log_ratios: list[float] = field(default_factory=list)
    wall_log_ratios: list[float] = field(default_factory=list)
    a: Block = Block(0, 0.0, 0.0)
    b: Block = Block(0, 0.0, 0.0)
    reached: bool = False

    def interval(self) -> Interval:
        """Returns the ratio of throughputs, A over B."""
        return ratio_interval(self.log_ratios)


def _rows(block: Block) -> float:
    return block.rows


@dataclass(frozen=True)
class Effort:
    """When a comparison may stop.

    Attributes:
        half_width: of the interval of the mean log ratio.
        block_seconds: how long a block is meant to take; how many steps that is, the warm-up tells.
    """

    half_width: float = 0.02
    min_quads: int = 3
    max_quads: int = 40
    max_seconds: float = 900.0
    block_seconds: float = 5.0


def ratio_interval(log_ratios: Sequence[float]) -> Interval:
    """Returns exp of the mean log ratio with its 95 % t-interval."""
    from scipy.stats import t

    mean = statistics.fmean(log_ratios)
    if len(log_ratios) < 2:
        return Interval(math.exp(mean))
    error = statistics.stdev(log_ratios) / math.sqrt(len(log_ratios))
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(log_ratios) - 1)) * error
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def half_width(log_ratios: Sequence[float]) -> float:
    """Returns half the width of the interval of the mean log ratio; infinity for fewer than two."""
    found = ratio_interval(log_ratios)
    return math.inf if math.isnan(found.high) else math.log(found.high / found.ratio)


def compare(
    a: Arm, b: Arm, effort: Effort, warm: tuple[int, ...], unit: int, amount: Callable[[Block], float] = _rows
) -> Comparison:
    """Returns what alternating blocks of `a` and `b` tell; warm-up blocks are thrown away.

    Both arms take the same number of steps, so that arms with the same order of batches see the same batches.

    Args:
        warm: steps of each warm-up block; the first also builds model and data, the last, where there is more than
            one, tells how many steps last `effort.block_seconds`.
        unit: a block has a multiple of so many steps.
        amount: what of a block is counted as work.
    """
    blocks = [a.block(steps) + b.block(steps) for steps in warm]
    seconds = blocks[-1].wall / (2 * warm[-1])
    steps = max(1, round(effort.block_seconds / (seconds * unit))) * unit if len(warm) > 1 else unit
    found, started = Comparison(), time.monotonic()
    while len(found.log_ratios) < effort.max_quads:
        first, second = a.block(steps), b.block(steps)
        second += b.block(steps)
        first += a.block(steps)
        found.log_ratios.append(math.log(amount(first) / first.cpu) - math.log(amount(second) / second.cpu))
        found.wall_log_ratios.append(math.log(amount(first) / first.wall) - math.log(amount(second) / second.wall))
        found.a, found.b = found.a + first, found.b + second
        found.reached = len(found.log_ratios) >= effort.min_quads and half_width(found.log_ratios) <= effort.half_width
        if found.reached or time.monotonic() - started >= effort.max_seconds:
            break
    return found


def theil_sen(x: Sequence[float], y: Sequence[float]) -> float:
    """Returns the median of the slopes between all pairs of points with different `x`."""
    pairs = [(i, j) for i in range(len(x)) for j in range(i) if x[i] != x[j]]
    return statistics.median((y[i] - y[j]) / (x[i] - x[j]) for i, j in pairs)
