"""Stages that runs share: equal to the bit, and only where everything that they depend on is equal."""

from typing import Any

import pytest
from typing_extensions import override

import cl_mlm
from cl_mlm.experiment.shared_stages import FOLDER, SharedStages
from cl_mlm.strategy import RunView, Strategy

WEIGHTS = (1.0, 10.0, 100.0, 1000.0, 10000.0)
TIMES = ("train_seconds", "eval_seconds", "peak_memory_bytes")


class Drift(Strategy):
    """Moves the weights after a stage, and gathers state while it is trained."""

    def __init__(self, size: float = 0.0, signature: bool = True) -> None:
        self.size, self.signature, self.steps = size, signature, 0

    @override
    def after_step(self, run: RunView) -> None:
        self.steps += 1

    @override
    def after_stage(self, run: RunView, stage: Any) -> None:
        import torch

        with torch.no_grad():
            for parameter in run.trainable().values():
                parameter.mul_(1 - self.size * self.steps)

    @override
    def training_signature(self, stage_index: int) -> dict[str, Any] | None:
        return {} if self.signature else None

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    @override
    def load_state_dict(self, state: Any) -> None:
        self.steps = state["steps"]


class Swap(Strategy):
    """Has its own way of evaluating."""

    @override
    def evaluation(self, run: RunView, columns: Any) -> Any:
        return super().evaluation(run, columns)

    @override
    def training_signature(self, stage_index: int) -> None:
        return None


@pytest.fixture
def short(fast):
    fast["training"] |= {"steps": 6, "epochs": 1}
    return fast


@pytest.fixture(scope="module")
def beside(make_fast, tmp_path_factory):
    """The folder of a run of `short` without strategies, for tests that only ask what another run shares with it."""
    config = make_fast(tmp_path_factory.mktemp("beside"))
    config["training"] |= {"steps": 6, "epochs": 1}
    cl_mlm.run(config, progress=False)
    assert cl_mlm.run(config, progress=False, strategies=["replay"]).summary["reused"]  # there is something to share
    return config["output"]


@pytest.fixture
def trained(monkeypatch):
    """Counts the stages that are really trained and the splits that are really scored."""
    import cl_mlm.experiment.scoring
    import cl_mlm.training.loop

    counts = {"trained": 0, "scored": 0}
    optimise, evaluate = cl_mlm.training.loop._optimise, cl_mlm.experiment.scoring.evaluate

    def count_training(*arguments):
        counts["trained"] += 1
        return optimise(*arguments)

    def count_scoring(*arguments):
        counts["scored"] += 1
        return evaluate(*arguments)

    monkeypatch.setattr(cl_mlm.training.loop, "_optimise", count_training)
    monkeypatch.setattr(cl_mlm.experiment.scoring, "evaluate", count_scoring)
    return counts


def comparable(summary):
    cost = {key: value for key, value in summary["cost"].items() if key not in TIMES}
    return {**{k: v for k, v in summary.items() if k not in ("reused", "run_id", "settings")}, "cost": cost}


def weights(result):
    return result.model().state_dict()


def assert_equal(first, second):
    import torch

    assert comparable(first.summary) == comparable(second.summary)
    a, b = weights(first), weights(second)
    assert all(torch.equal(a[name], b[name]) for name in a)
    tables = [path.relative_to(first.folder) for path in sorted(first.folder.glob("predictions/*.parquet"))]
    assert [path.stem for path in tables] == ["0", "1", "before"]
    assert all((first.folder / path).read_bytes() == (second.folder / path).read_bytes() for path in tables)


def test_five_weights_of_ewc_train_the_first_stage_once_and_give_the_same_table(short, trained, tmp_path):
    shared = [cl_mlm.run(short, strategies={"ewc": {"weight": weight}}) for weight in WEIGHTS]
    assert trained["trained"] == 1 + 5
    assert [len(result.summary["reused"]) for result in shared] == [0, 1, 1, 1, 1]
    assert shared[1].summary["reused"] == [{"stage": "labels-01", "run": shared[0].folder.name}]
    short["output"], short["checkpoint"] = str(tmp_path / "apart"), {"reuse_stages": 0}
    apart = [cl_mlm.run(short, strategies={"ewc": {"weight": weight}}) for weight in WEIGHTS]
    assert trained["trained"] == 6 + 10
    for one, other in zip(shared, apart, strict=True):
        assert_equal(one, other)
    assert not (tmp_path / "apart" / FOLDER).exists()


def test_naive_replay_ewc_and_lwf_share_the_first_stage_and_its_scores(short, trained):
    results = [cl_mlm.run(short, strategies=names) for names in ([], ["replay"], ["ewc"], ["lwf"], ["cumulative"])]
    assert trained["trained"] == 1 + 5
    # A baseline each, two splits after the first stage once, two splits after the second each.
    assert trained["scored"] == 5 + 2 + 2 * 5
    assert len({str(result.summary["accuracy_matrix"][0]) for result in results}) == 1


def test_more_than_one_stage_is_shared_where_asked(short, trained, tmp_path):
    short["checkpoint"] = {"reuse_stages": 2}
    first = cl_mlm.run(short)
    again = cl_mlm.run(short, "evaluation.splits=[test]")
    assert [one["stage"] for one in again.summary["reused"]] == ["labels-01", "labels-02"]
    assert trained["trained"] == 2
    assert again.summary["accuracy_matrix"] == first.summary["accuracy_matrix"]


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "training.learning_rate=2e-3",
        "training.batch_size=8",
        "training.steps=7",
        "model.dropout=0.2",
        "finetuning.mode=head",
        "stream.order_seed=1",
        "training.max_length=24",
    ],
)
def test_a_stage_is_trained_again_where_something_that_it_depends_on_differs(change, short, beside, trained):
    assert cl_mlm.run(short, change, f"output={beside}").summary["reused"] == []
    assert trained["trained"] == 2


def test_other_rows_are_trained_again(short, beside, write_rows, tmp_path):
    rows = [{"text": f"snow {i}", "label": "cold"} for i in range(9)]
    rows += [{"text": f"sun {i}", "label": "hot"} for i in range(9)]
    rows += [
        {"text": f"{word} {i}", "label": label}
        for label, word in (("loud", "drum"), ("quiet", "hush"))
        for i in range(9)
    ]
    other = write_rows(tmp_path / "other", train=rows)
    assert cl_mlm.run(short, f"stream.path={other}", f"output={beside}").summary["reused"] == []


def test_a_strategy_that_gathers_state_in_training_gets_it_back(short, trained, tmp_path):
    first = cl_mlm.run(short, strategies=[Drift()])
    second = cl_mlm.run(short, strategies=[Drift(size=1e-4)])
    assert [one["stage"] for one in second.summary["reused"]] == ["labels-01"]
    short["output"] = str(tmp_path / "apart")
    assert_equal(second, cl_mlm.run(short, strategies=[Drift(size=1e-4)]))
    assert first.summary["reused"] == []


def test_a_strategy_that_changes_the_weights_after_the_stage_has_scores_of_its_own(short, trained):
    cl_mlm.run(short, strategies=[Drift()])
    before = trained["scored"]
    cl_mlm.run(short, strategies=[Drift(size=0.01)])
    assert trained["scored"] - before == 1 + 4


def test_a_strategy_with_its_own_way_of_evaluating_has_scores_of_its_own(short, beside, trained):
    result = cl_mlm.run(short, f"output={beside}", strategies=[Swap()])
    assert len(result.summary["reused"]) == 1
    assert trained["scored"] == 1 + 4


def test_a_run_made_again_trains_everything(short, trained):
    cl_mlm.run(short)
    assert cl_mlm.run(short, again=True).summary["reused"] == []
    assert trained["trained"] == 4


def test_a_damaged_entry_is_told_and_trained_again(short, trained, tmp_path, caplog):
    cl_mlm.run(short)
    for path in (tmp_path / "runs" / FOLDER).glob("*-trained/state.safetensors"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    result = cl_mlm.run(short, strategies=["replay"])
    assert result.summary["reused"] == []
    assert "is damaged" in caplog.text
    assert len(cl_mlm.run(short, strategies=["ewc"]).summary["reused"]) == 1  # it was written anew


def test_a_smoke_run_shares_nothing(short, tmp_path):
    cl_mlm.run(short, "limit=4")
    assert not (tmp_path / "runs" / FOLDER).exists()


def test_a_reader_beside_a_writer_finds_the_entry_or_trains(tmp_path):
    """Two runs that trained the same stage both write it; a third that reads meanwhile must not fall over."""
    import threading

    import torch

    shared = SharedStages(tmp_path / FOLDER, "one", 1)
    state = {"weights": {"w": torch.zeros(1000)}, "place": {"epoch": 1}}
    shared._write("same-trained", state)
    stop, failures = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                found = shared._read("same-trained")
                if found is None:
                    failures.append("gone")
            except Exception as error:
                failures.append(repr(error))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        shared._write("same-trained", state)
    stop.set()
    reader.join()
    assert failures == []


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    half = tmp_path / ".abc-trained.tmp"
    half.mkdir()
    (half / "state.safetensors").write_bytes(b"x")
    SharedStages(tmp_path, "run", 1)._write("other-trained", {"a": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "other-trained"]
