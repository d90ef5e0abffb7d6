from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from datasets import Dataset
from typing_extensions import override

from cl_mlm.batch import Batch, mean_loss
from cl_mlm.objectives.classification import Classification
from cl_mlm.stream import Stage, Stream, pack_row_ids, unpack_row_ids
from strategies.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cl_mlm.strategy import RunView

    from .conftest import MakeRun, Train, Trained, Watch


def stages_of(ids: npt.ArrayLike) -> set[int]:
    return {*unpack_row_ids(np.array(ids))[0].tolist()}


def test_memory_rows_come_from_earlier_stages_only(make_run: MakeRun, train: Train, watch: Watch) -> None:
    run = make_run(Replay(capacity=8), watch, num_stages=3)
    train(run)
    found = [(stage_index, ids) for stage_index, origin, ids in watch.batches if origin == "memory"]
    assert {stage_index for stage_index, _ in found} == {1, 2}
    assert all(max(stages_of(ids)) < stage_index for stage_index, ids in found)
    assert {j for stage_index, ids in found if stage_index == 2 for j in stages_of(ids)} == {0, 1}


def test_every_micro_batch_brings_memory_rows_of_its_own(make_run: MakeRun, train: Train, watch: Watch) -> None:
    run = make_run(Replay(capacity=12), watch, batch_size=2, accumulation=2, epochs=1)
    train(run)
    second = [(origin, ids) for stage_index, origin, ids in watch.batches if stage_index == 1]
    assert [origin for origin, _ in second] == ["stage", "stage", "memory", "memory"] * 3
    memory = [tuple(ids) for origin, ids in second if origin == "memory"]
    assert len(set(memory)) > 3


@pytest.mark.parametrize(("rows", "expected"), [(None, 4), (2, 2), (50, 8)])
def test_a_memory_batch_has_as_many_rows_as_asked_for(
    make_run: MakeRun, train: Train, watch: Watch, rows: int | None, expected: int
) -> None:
    train(make_run(Replay(capacity=8, rows=rows), watch))
    assert {len(set(ids)) for _, origin, ids in watch.batches if origin == "memory"} == {expected}


def test_the_steps_loss_is_the_mean_of_own_rows_plus_weight_times_the_mean_of_memory_rows(
    make_run: MakeRun, train: Train, watch: Watch
) -> None:
    settings: dict[str, Any] = {"rows": 8, "batch_size": 8, "clip": None}
    guarded = make_run(Replay(capacity=5, weight=0.25), watch, steps=1, **settings)
    train(guarded, [0])
    copy = make_run(steps=1, **settings)
    train(copy, [0])
    watch.batches, watch.gradients = [], []
    train(guarded, [1])
    copy.tasks.count_labels(1, 0)
    copy.network.backbone.grow(copy.tasks.at(1).labels.seen, copy.place.seed, 1)
    copy.network.model.train()
    own, memory = (copy.data.rows(np.array(ids)) for _, _, ids in watch.batches)
    losses = [mean_loss(copy.task_loss(copy.network.forward(batch), batch), batch) for batch in (own, memory)]
    assert (len(own), len(memory)) == (8, 5)
    torch.autograd.backward(losses[0] + 0.25 * losses[1])
    for name, parameter in copy.network.trainable().items():
        if parameter.grad is not None:
            torch.testing.assert_close(watch.gradients[0][name], parameter.grad, rtol=1e-5, atol=1e-7)


def test_the_buffer_holds_rows_of_every_stage_within_its_capacity(make_run: MakeRun, train: Train) -> None:
    replay = Replay(capacity=10)
    train(make_run(replay, num_stages=3, epochs=1))
    assert len(replay.buffer) == 10
    assert stages_of(replay.buffer.ids) == {0, 1, 2}
    assert replay.buffer.offered == 36


def test_buffer_bytes_are_ids_and_the_text_they_keep_alive() -> None:
    texts = {"text": ["abc", "é", "xyz"], "text_pair": ["d", "中", ""], "label": ["x", "y", "x"]}
    plain = {"text": ["four", "seven--"], "label": ["z", "z"]}
    first, second = Dataset.from_dict(texts), Dataset.from_dict(plain)
    stages = (Stage("a", first, first, first, ("x", "y")), Stage("b", second, second, second, ("z",)))
    replay = Replay(capacity=4)
    replay.buffer.ids = np.concatenate([pack_row_ids(0, [1, 2]), pack_row_ids(1, [0])])
    text = (2 + 3) + (3 + 0) + 4  # UTF-8: é has two bytes, 中 three
    run: Any = SimpleNamespace(stream=Stream("s", stages), objective_of=lambda stage_index: Classification())
    assert replay.buffer_bytes(run) == 3 * 8 + text


def test_an_empty_buffer_has_no_bytes(make_run: MakeRun) -> None:
    replay = Replay()
    assert replay.buffer_bytes(make_run(replay).view(replay, "buffer_bytes")) == 0


def test_weight_zero_is_naive_to_the_bit_while_memory_rows_run(assert_same_run: Callable[..., Trained]) -> None:
    trained = assert_same_run(Replay(capacity=6, weight=0.0))
    assert trained.examples == 2 * 12 + 2 * (12 + 12)
    assert all(values["train/loss/memory"] > 0 for values in trained.logged[6:])
    assert not any("train/loss/memory" in values for values in trained.logged[:6])


def test_replay_goes_on_from_its_state(assert_goes_on: Callable[..., None]) -> None:
    assert_goes_on(lambda: Replay(capacity=6))


def test_two_stages_of_tiny_forget_less_than_without(make_run: MakeRun, train: Train) -> None:
    settings: dict[str, Any] = {"model": "tiny", "epochs": 6, "learning_rate": 1e-3}
    naive, replayed = train(make_run(**settings)), train(make_run(Replay(capacity=12), **settings))
    assert replayed.matrix[1][0] > naive.matrix[1][0]


def test_a_task_incremental_memory_row_keeps_its_own_stages_labels(make_run: MakeRun, train: Train) -> None:
    masks: list[torch.Tensor | None] = []

    class Look(Replay):
        @override
        def memory(self, run: RunView, batch: Batch) -> Sequence[tuple[float, Batch]]:
            found = super().memory(run, batch)
            masks.extend(memory.allowed for _, memory in found)
            return found

    train(make_run(Look(capacity=6), scenario="task_incremental"))
    assert masks
    assert None not in masks
    assert {tuple(row) for mask in masks if mask is not None for row in mask.tolist()} == {(True, True, False, False)}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"capacity": 0}, "capacity: must be at least 1, got 0"),
        ({"weight": -1.0}, "weight: must be at least 0, got -1.0"),
        ({"rows": 0}, "rows: must be at least 1 or null, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], fault: str) -> None:
    assert Replay(**arguments).validate() == [fault]


def test_memory_batches_are_dealt_out_by_length_and_bring_each_row_back_before_any_comes_twice(
    make_run: MakeRun, train: Train, watch: Watch
) -> None:
    run = make_run(Replay(capacity=8, rows=2), watch)
    train(run)
    batches = [ids for _, origin, ids in watch.batches if origin == "memory"][:4]
    assert len({row for ids in batches for row in ids}) == 8
    lengths = sorted(sorted(run.data.lengths(np.array(ids)).tolist()) for ids in batches)
    assert all(first[-1] <= second[0] for first, second in pairwise(lengths))


@pytest.mark.parametrize(("rows", "accumulation", "micro_batches"), [(8, 1, 1), (4, 2, 2), (4, 2, 1), (3, 3, 2)])
def test_each_task_of_a_memory_batch_counts_by_its_share_of_the_rows(
    rows: int, accumulation: int, micro_batches: int
) -> None:
    """However the step is cut, its memory adds `weight` times one mean over all its rows."""
    replay = Replay(weight=0.5, rows=rows)
    replay.buffer.ids = np.concatenate([pack_row_ids(0, range(6)), pack_row_ids(1, range(2))])
    run: Any = SimpleNamespace(
        **{"seed": 0, "stage_index": 2, "step": 0, "micro_batch": 0, "batch_size": rows},
        accumulation=accumulation,
        num_micro_batches=micro_batches,
        lengths=lambda ids: np.ones(len(ids), dtype=np.int32),
        by_task=lambda ids: [ids[unpack_row_ids(ids)[0] == j] for j in (0, 1)],
        rows=lambda ids: ids.tolist(),
    )
    any_batch: Any = None
    memory: Any = replay.memory(run, any_batch)
    assert sorted(row for _, ids in memory for row in ids) == sorted(replay.buffer.ids.tolist())
    for weight, ids in memory:
        assert len(ids) <= rows
        assert len(stages_of(ids)) == 1
        assert weight / micro_batches == pytest.approx(0.5 * len(ids) / 8)
    run.micro_batch = 1
    assert not replay.memory(run, any_batch)
