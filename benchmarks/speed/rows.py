"""The rows of the table: what each compares and what it must reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from benchmarks.speed import encoding, whole
from benchmarks.speed.intervals import Effort
from benchmarks.speed.measuring import (
    Measured,
    evaluation_of_avalanche,
    evaluation_of_trainer,
    ewc_stage,
    fisher,
    frozen,
    loops,
    lwf_run,
    replay_cost,
)
from benchmarks.speed.workload import Workload

Measure = Callable[[Workload, Effort], Measured]
NO_LONG = object()  # the row is for the short setting only


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        targets: by setting; a setting that is missing is not measured, None is a figure without a target.
        at_least: the target is a lower bound; False: an upper one.
        is_ratio: False: a share, a percentage or seconds.
    """

    name: str
    title: str
    targets: dict[str, float | None]
    measure: Measure
    at_least: bool
    is_ratio: bool


# Name, what it is, target of the short setting, of the long one, how it is measured.
GAINS = (
    ("train.hand", "training, ours / hand-written loop", 0.97, 0.98, loops("ours", "hand")),
    ("train.trainer", "training, ours / Trainer", 1.33, 1.0, loops("ours", "trainer")),
    ("train.trainer_limit", "training, hand-written / Trainer", None, None, loops("hand", "trainer")),
    ("train.trainer_grouped", "training, ours / Trainer, like lengths", 1.0, 1.0, loops("ours", "trainer_grouped")),
    ("train.avalanche", "training, ours / Avalanche", 1.5, 1.0, loops("ours", "avalanche")),
    ("train.avalanche_limit", "training, hand-written / Avalanche", None, None, loops("hand", "avalanche")),
    ("train.avalanche_fused", "training, ours / Avalanche, fused AdamW", 1.25, 1.0, loops("ours", "avalanche_fused")),
    ("train.replay", "replay, ours / Avalanche, new rows", 1.25, 1.0, loops("ours_replay", "avalanche_replay")),
    ("train.ewc_stage", "EWC, the last stage, ours / Avalanche", 3.0, 1.5, ewc_stage),
    ("eval.trainer", "evaluation, ours / Trainer.predict", 1.5, 1.0, evaluation_of_trainer),
    ("eval.avalanche", "evaluation, ours / Avalanche", 1.5, 1.0, evaluation_of_avalanche),
    ("run.avalanche", "all stages with evaluation, ours / Avalanche", 1.6, NO_LONG, whole.run_of_stages),
    ("precision.bf16", "training in bf16 / in fp32", 1.2, 1.3, whole.bf16),
    ("frozen.cache20", "frozen encoder, features cached / not, 20 epochs", 10.0, 10.0, frozen(20)),
    ("frozen.cache3", "frozen encoder, features cached / not, 3 epochs", 2.5, 2.5, frozen(3)),
    ("device.training", "training, ours / hand-written loop, own processes", None, None, whole.device),
)
COSTS = (
    ("cost.ewc", "cost of an EWC step / naive step", 1.25, 1.1, loops("ours", "ours_ewc")),
    ("cost.lwf", "cost of an LwF stage / naive stage, 5 epochs", 1.25, 1.25, lwf_run),
    ("cost.replay", "cost of a row under replay / naive", 1.05, 1.05, replay_cost),
    ("cost.fisher", "cost of a Fisher pass / an epoch of training", 2.5, 2.5, fisher),
    ("memory.hand", "peak memory, ours / hand-written loop", 1.05, 1.05, whole.memory),
    ("logging.sqlite", "cost of training with MLflow on SQLite / without", 1.01, 1.01, whole.sqlite),
    ("logging.server", "cost of training with an MLflow server / without", 1.02, 1.02, whole.server),
)
AMOUNTS = (
    ("growth.tokens", "growth of the cost of a padded token per stage, %", 0.5, NO_LONG, whole.growth),
    ("checkpoint.step", "seconds of a checkpoint / the 600 between two", 0.02, 0.02, whole.checkpoint),
    ("encode.rows", "seconds to encode 100,000 rows of about 20 tokens", 15.0, NO_LONG, encoding.encode),
    ("start.first_step", "seconds from command to first step without imports", 3.0, NO_LONG, whole.first_step),
)


def all_rows() -> dict[str, Row]:
    """Returns every row by name, in the order of the table."""
    made = {}
    for name, title, short, long, measure in chain(GAINS, COSTS, AMOUNTS):
        targets = {"short": short} if long is NO_LONG else {"short": short, "long": long}
        entry = (name, title, short, long, measure)
        made[name] = Row(name, title, targets, measure, at_least=entry in GAINS, is_ratio=entry not in AMOUNTS)
    return made
