"""EWC, replay and LwF in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.ewc import Ewc
from strategies.lwf import Lwf
from strategies.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable

    from cl_mlm.strategy import Strategy

    from .conftest import MakeRun, Train, Trained, Watch


def three(weight: float) -> tuple[Strategy, ...]:
    return Ewc(weight=1000.0 * weight), Replay(capacity=6, weight=weight), Lwf(weight=weight, own_classes=False)


def test_ewc_replay_and_lwf_work_together_and_log_their_terms(make_run: MakeRun, train: Train) -> None:
    trained = train(make_run(*three(1.0), model="tiny", dropout=0.1))
    names = {name for values in trained.logged for name in values}
    assert {"train/loss/stage", "train/loss/memory", "train/term/ewc", "train/term/lwf"} <= names
    assert trained.examples == 2 * 12 + 2 * (12 + 12)
    assert len(trained.matrix) == 2


def test_ewc_replay_and_lwf_with_weight_zero_are_naive_together(assert_same_run: Callable[..., Trained]) -> None:
    trained = assert_same_run(*three(0.0))
    assert trained.examples == 2 * 12 + 2 * (12 + 12)
    assert {"train/loss/memory", "train/term/ewc", "train/term/lwf"} <= trained.logged[-1].keys()


def test_the_order_of_strategies_changes_no_row(make_run: MakeRun, train: Train, watch: Watch) -> None:
    """Each draws from its own address: replay brings back the same rows wherever it stands."""
    seen = []
    for order in (slice(None), slice(None, None, -1)):
        watch.batches = []
        train(make_run(*three(1.0)[order], watch, dropout=0.2))
        seen.append(list(watch.batches))
    assert seen[0] == seen[1]
