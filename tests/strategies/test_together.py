"""EWC, replay and LwF in one run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import cl_mlm.randomness
from strategies.ewc import Ewc
from strategies.lwf import Lwf
from strategies.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from cl_mlm.strategy import Strategy

    from .conftest import MakeRun, Train, Trained, Watch


def three(weight: float) -> tuple[Strategy, ...]:
    return Ewc(weight=1000.0 * weight), Replay(capacity=6, weight=weight), Lwf(weight=weight)


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


def test_no_stage_and_no_pass_draws_what_another_has_drawn(
    make_run: MakeRun, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every address of randomness tells its stage; those of dropout, masking and order tell the pass, too."""
    address_seed = cl_mlm.randomness.address_seed
    drawn: list[tuple[str | int, ...]] = []
    monkeypatch.setattr(cl_mlm.randomness, "address_seed", lambda *a: drawn.append(a) or address_seed(*a))
    run = make_run(*three(1.0), dropout=0.2, num_stages=3, batch_size=4, accumulation=2)
    by_stage = []
    for stage_index in range(3):
        drawn.clear()
        train(run, [stage_index])
        counts = Counter(drawn)
        assert {"dropout", "varied", "order", "fisher", "reservoir"} <= {purpose for _, purpose, *_ in drawn}
        repeated = {purpose for (_, purpose, *_), count in counts.items() if count > 1}
        assert not repeated & {"dropout", "varied", "order", "hook", "replay"}
        by_stage.append({*counts})
    assert not by_stage[0] & by_stage[1]
    assert not by_stage[1] & by_stage[2]
    assert not by_stage[0] & by_stage[2]
