from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cl_mlm.strategy import Strategy
from strategies.naive import Naive

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import MakeRun, Train, Trained, Watch

HOOKS = [
    "training_data",
    "before_stage",
    "memory",
    "loss_terms",
    "adjust_gradients",
    "after_step",
    "after_stage",
    "evaluation",
]


def test_naive_is_the_run_without_strategies_to_the_bit(assert_same_run: Callable[..., Trained]) -> None:
    trained = assert_same_run(Naive())
    assert len(trained.matrix) == 2


def test_naive_goes_on_from_its_state(assert_goes_on: Callable[..., None]) -> None:
    assert_goes_on(Naive)


@pytest.mark.parametrize("hook", HOOKS)
def test_naive_has_no_hook_of_its_own(hook: str) -> None:
    assert hasattr(Strategy, hook)
    assert not Naive().overrides(hook)


def test_naive_trains_each_stage_on_its_own_rows(make_run: MakeRun, train: Train, watch: Watch) -> None:
    run = make_run(Naive(), watch)
    train(run)
    for stage_index in (0, 1):
        rows = {i for index, _, ids in watch.batches for i in ids if index == stage_index}
        assert rows == set(run.data.ids(stage_index).tolist())


def test_naive_learns_a_stage_and_then_forgets_it(make_run: MakeRun, train: Train) -> None:
    trained = train(make_run(Naive(), epochs=12, learning_rate=1e-2))
    assert trained.matrix[0][0] > 0.9
    assert trained.matrix[1][1] > 0.9
    assert trained.matrix[1][0] < 0.5
