from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.cumulative import Cumulative

if TYPE_CHECKING:
    from collections.abc import Callable

    from cl_mlm.training.run import Run

    from .conftest import MakeRun, Train, Watch, Weights


def test_cumulative_trains_a_stage_on_the_rows_of_all_stages_so_far(
    make_run: MakeRun, train: Train, watch: Watch
) -> None:
    run = make_run(Cumulative(), watch, num_stages=3, epochs=2)
    trained = train(run)
    for stage_index in range(3):
        found = sorted(i for index, _, ids in watch.batches for i in ids if index == stage_index)
        so_far = [i for j in range(stage_index + 1) for i in run.data.ids(j).tolist()]
        assert found == sorted(2 * so_far)
    assert trained.examples == 2 * (12 + 24 + 36)


def test_cumulative_goes_on_from_the_weights_of_the_stage_before(
    make_run: MakeRun, train: Train, weights_of: Callable[[Run], Weights]
) -> None:
    run = make_run(Cumulative(), epochs=1, learning_rate=1e-12)
    train(run, [0])
    before = weights_of(run)
    train(run, [1])
    after = weights_of(run)
    assert (after["classifier.weight"][:2] - before["classifier.weight"]).abs().max() < 1e-6
    assert len(run.tasks.at(1).labels.old) == 2


def test_cumulative_does_not_forget(make_run: MakeRun, train: Train) -> None:
    trained = train(make_run(Cumulative(), epochs=12, learning_rate=1e-2))
    assert trained.matrix[1][0] > 0.9
    assert trained.matrix[1][1] > 0.9


def test_cumulative_equals_naive_in_the_first_stage(
    make_run: MakeRun, train: Train, weights_of: Callable[[Run], Weights]
) -> None:
    first, second = make_run(Cumulative(), dropout=0.2), make_run(dropout=0.2)
    for run in (first, second):
        train(run, [0])
    one, two = weights_of(first), weights_of(second)
    assert all(one[name].equal(two[name]) for name in one)


def test_cumulative_goes_on_from_its_state(assert_goes_on: Callable[..., None]) -> None:
    assert_goes_on(Cumulative)
