from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from cl_mlm.config.schema import Config, TrainingConfig
from cl_mlm.experiment.preparation import prepare
from cl_mlm.experiment.progress import Progress
from cl_mlm.experiment.running import Experiment
from cl_mlm.run_folder import RunFolder
from cl_mlm.tracking.journal import Journal
from strategies.joint import Joint

if TYPE_CHECKING:
    from cl_mlm.stream import Stream

    from .conftest import MakeRun, Train, Watch


def test_joint_trains_once_on_all_rows_of_all_stages(make_run: MakeRun, train: Train, watch: Watch) -> None:
    run = make_run(Joint(), watch, num_stages=3, epochs=1)
    trained = train(run, [2])
    rows = sorted(i for _, _, ids in watch.batches for i in ids)
    assert rows == [i for j in range(3) for i in run.data.ids(j).tolist()]
    assert trained.examples == 36


def test_joint_mixes_the_stages(make_run: MakeRun, train: Train, watch: Watch) -> None:
    run = make_run(Joint(), watch, num_stages=3, epochs=1)
    train(run, [2])
    assert any(len({i >> 40 for i in ids}) > 1 for _, _, ids in watch.batches)


def test_joint_knows_all_labels_and_has_no_old_ones(make_run: MakeRun, train: Train) -> None:
    run = make_run(Joint(), num_stages=3, epochs=1)
    train(run, [2])
    labels = run.tasks.at(2).labels
    assert len(labels.seen) == 6
    assert labels.old == ()


def test_joint_learns_every_stage(make_run: MakeRun, train: Train) -> None:
    trained = train(make_run(Joint(), epochs=12, learning_rate=1e-2), [1])
    assert min(trained.matrix[0]) > 0.9


@pytest.fixture(scope="module")
def summary(small_stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of a whole run of two stages; untracked."""
    folder = tmp_path_factory.mktemp("joint")
    training = TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-3, device="cpu", threads=1)
    config = Config(stream={"name": "small", "overlap": "error"}, training=training, output=str(folder))
    prepared = prepare(config, small_stream, [Joint()])
    with Journal(folder / "journal.jsonl") as journal, Progress(prepared, folder, False) as progress:
        return Experiment(prepared, RunFolder(folder), journal, progress).execute()


def test_joint_fills_only_the_last_row_of_the_matrix(summary: dict[str, Any]) -> None:
    first, last = summary["accuracy_matrix"]
    assert first == [None, None]
    assert all(0 <= score <= 1 for score in last)
    assert summary["validation_matrix"][0] == [None, None]


def test_joint_has_an_average_accuracy_and_no_forgetting(summary: dict[str, Any]) -> None:
    metrics = summary["metrics"]
    assert metrics["average_accuracy"] == pytest.approx(math.fsum(summary["accuracy_matrix"][1]) / 2)
    assert metrics["forgetting"] is None
    assert summary["reasons"]["forgetting"]


def test_joint_sees_every_row_once_an_epoch(summary: dict[str, Any], small_stream: Stream) -> None:
    assert summary["cost"]["train_examples"] == sum(len(stage.train) for stage in small_stream.stages)


def test_joint_needs_the_future() -> None:
    assert Joint().needs == {"old_rows", "future"}
