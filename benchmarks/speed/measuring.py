"""How the rows that compare two arms are measured."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.speed import arm_hand, arm_trainer
from benchmarks.speed.arm_avalanche import Avalanche
from benchmarks.speed.arm_ours import Ours
from benchmarks.speed.intervals import Arm, Block, Comparison, Effort, compare
from benchmarks.speed.stepper import Jobs, Stepper, Tick
from benchmarks.speed.workload import BATCH_SIZE, Workload

REPLAY = {"replay": {"capacity": 500}}
EWC = {"ewc": {"weight": 1.0}}


class SkippedError(Exception):
    """This machine or this setting cannot give the row."""


@dataclass
class Measured:
    """What a row found.

    Attributes:
        value: a ratio, or what the row's title says.
        reached: False where the interval stayed wider than was asked.
        details: further figures, kept in the JSON.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    quads: int = 1
    reached: bool = True
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def pace(work: Workload) -> tuple[tuple[int, ...], int]:
    """Returns the steps of the warm-up blocks and those that a block is a multiple of.

    Short rows differ in length and some loops take the long ones first, so a block is whole epochs; the warm-up ends
    with one. Long rows are all alike.
    """
    if work.kind == "long":
        return (2, 2), 1
    steps = math.ceil(work.num_rows() / BATCH_SIZE)
    return (max(1, steps // 4), steps - max(1, steps // 4) or steps), steps


def measured(found: Comparison, note: str = "") -> Measured:
    """Returns a comparison as a row's figures."""
    interval = found.interval()
    wall = math.exp(sum(found.wall_log_ratios) / len(found.wall_log_ratios))
    details = {
        "rows_per_cpu_second": [found.a.rows / found.a.cpu, found.b.rows / found.b.cpu],
        "rows_per_second": [found.a.rows / found.a.wall, found.b.rows / found.b.wall],
        "wall_ratio": wall,
        "log_ratios": found.log_ratios,
    }
    return Measured(interval.ratio, interval.low, interval.high, len(found.log_ratios), found.reached, note, details)


def alternate(
    first: Arm, second: Arm, work: Workload, effort: Effort, amount: Callable[[Block], float] = lambda b: b.rows
) -> Measured:
    """Compares two arms and ends them."""
    warm, unit = ((1,), 1) if isinstance(first, Jobs) else pace(work)
    with closing(first), closing(second):
        found = measured(compare(first, second, effort, warm, unit, amount))
    gc.collect()
    return found


def train_ours(work: Workload, tick: Tick, strategies: dict[str, Any] | None = None) -> None:
    """Trains this platform's stage for ever."""
    with closing(Ours(work, strategies)) as ours:
        ours.train(tick)


def train_avalanche(work: Workload, tick: Tick, *, fused: bool = False, plugin: str | None = None) -> None:
    """Trains Avalanche's Naive for ever."""
    Avalanche(work, fused=fused, plugin=plugin, tick=tick).train()


LOOPS: dict[str, Callable[[Workload, Tick], None]] = {
    "hand": arm_hand.train,
    "ours": train_ours,
    "ours_replay": lambda work, tick: train_ours(work, tick, REPLAY),
    "ours_ewc": lambda work, tick: train_ours(work, tick, EWC),
    "trainer": arm_trainer.train,
    "trainer_grouped": lambda work, tick: arm_trainer.train(work, tick, "group_by_length"),
    "avalanche": train_avalanche,
    "avalanche_fused": lambda work, tick: train_avalanche(work, tick, fused=True),
    "avalanche_replay": lambda work, tick: train_avalanche(work, tick, plugin="replay"),
}


def loops(first: str, second: str) -> Callable[[Workload, Effort], Measured]:
    """Returns a measurement of two training loops' throughputs, first over second."""

    def measure(work: Workload, effort: Effort) -> Measured:
        a, b = (Stepper(lambda tick, n=name: LOOPS[n](work, tick)) for name in (first, second))
        return alternate(a, b, work, effort)

    return measure


def replay_cost(work: Workload, effort: Effort) -> Measured:
    """Measures the cost of a row that goes through the model, replayed or own, over a row's of naive training."""
    a, b = (Stepper(lambda tick, n=name: LOOPS[n](work, tick)) for name in ("ours", "ours_replay"))
    return alternate(a, b, work, effort, lambda block: block.processed)


def stage_job(
    work: Workload, strategies: dict[str, Any], epochs: int, stage: int | None = None, **sections: Any
) -> Jobs:
    """Returns our training of a whole stage as a job, every time from the stage's beginning."""
    made: list[Ours] = []

    def prepare() -> None:
        while made:
            made.pop().close()
        training = {"steps": None, "epochs": epochs, **sections.get("training", {})}
        made.append(Ours(work, strategies, stage, **{**sections, "training": training}))
        # Tokenizing is done once a machine, whoever trains.
        for at in range(made[0].stage + 1):
            made[0].run.data.lengths(made[0].run.data.ids(at)[:1])

    def train() -> int:
        return made[0].train()

    return Jobs(train, prepare)


def ewc_stage(work: Workload, effort: Effort) -> Measured:
    """Measures stage 15 of 15 with EWC, 3 epochs, Fisher over all its rows."""
    other = Avalanche(work, plugin="ewc", epochs=3, schedule_steps=3 * math.ceil(work.num_rows() / 32))
    return alternate(stage_job(work, EWC, 3), Jobs(other.train), work, effort)


def lwf_run(work: Workload, effort: Effort) -> Measured:
    """Measures the cost of LwF over naive: stage 2, 5 epochs, the teacher's pass included."""
    lwf: dict[str, Any] = {"lwf": {}}
    return alternate(stage_job(work, {}, 5, stage=1), stage_job(work, lwf, 5, stage=1), work, effort)


def fisher(work: Workload, effort: Effort) -> Measured:
    """Measures a Fisher pass over a stage's rows over an epoch of training over them."""
    with closing(Ours(work, EWC)) as ours:
        ours.run.place.training_ids = ours.run.data.ids(ours.stage)
        ours.grow()
        (ewc,) = ours.run.strategies

        def one_pass() -> int:
            ewc.after_stage(ours.run.view(ewc, "after_stage"), ours.run.stage)
            return len(ours.run.place.training_ids)

        return alternate(stage_job(work, {}, 1), Jobs(one_pass), work, effort)


def frozen(epochs: int) -> Callable[[Workload, Effort], Measured]:
    """Returns a measurement of a frozen encoder's training, cached features over none."""

    def measure(work: Workload, effort: Effort) -> Measured:
        from cl_mlm.config.schema import FinetuningConfig

        if "cache_features" not in FinetuningConfig.__dataclass_fields__:
            raise SkippedError("finetuning.cache_features is not there")
        with_cache, without = (
            stage_job(work, {}, epochs, finetuning={"mode": "head", "cache_features": cached})
            for cached in (True, False)
        )
        return alternate(with_cache, without, work, effort)

    return measure


def evaluation_of_trainer(work: Workload, effort: Effort) -> Measured:
    """Measures evaluation on every test set against `Trainer.predict`."""
    return _evaluation(work, effort, arm_trainer.Predictor(work).evaluate)


def evaluation_of_avalanche(work: Workload, effort: Effort) -> Measured:
    """Measures evaluation on every test set against Avalanche's `eval`."""
    return _evaluation(work, effort, Avalanche(work).evaluate)


def _evaluation(work: Workload, effort: Effort, other: Callable[[list[int], int], int]) -> Measured:
    with closing(Ours(work)) as ours:
        ours.grow()

        def own(columns: list[int], batch_size: int) -> int:
            ours.run.config = replace(
                ours.run.config, evaluation=replace(ours.run.config.evaluation, batch_size=batch_size)
            )
            return ours.evaluate(columns)

        sizes = [best_size(arm, work) for arm in (own, other)]
        everything = list(range(len(work.stream)))
        a, b = (Jobs(lambda f=arm, s=size: f(everything, s)) for arm, size in zip((own, other), sizes, strict=True))
        found = alternate(a, b, work, effort)
    found.note = f"batches of {sizes[0]} and {sizes[1]}"
    return found


def best_size(evaluate: Callable[[list[int], int], int], work: Workload) -> int:
    """Returns the batch size of 64, 128 and 256 at which a part of the test sets takes the least time."""
    part = list(range(min(3, len(work.stream))))
    costs = {}
    for size in (64, 128, 256):
        arm = Jobs(lambda s=size: evaluate(part, s))
        costs[size] = min(arm.block(1).cpu for _ in range(2))
    return min(costs, key=costs.__getitem__)
