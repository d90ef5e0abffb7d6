"""Rules of running from Python: objects instead of names, what a result gives, what is kept."""

from pathlib import Path

import numpy as np
import pytest
from typing_extensions import override

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError
from cl_mlm.experiment.preparation import prepare, with_objects
from cl_mlm.strategy import Strategy
from strategies.ewc import Ewc
from strategies.replay import Replay

# MLflow's SQL store uses a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


class Watching(Strategy):
    """Writes a line to a file at every step, so that a test sees that its hooks ran."""

    def __init__(self, path: str, times: int = 1) -> None:
        self.path = path
        self.times = times

    @override
    def validate(self):
        return ["times: must be at least 0, got -1"] * (self.times < 0)

    @override
    def after_step(self, run):
        with Path(self.path).open("a") as file:
            file.write(f"{run.stage_index} {run.step}\n" * self.times)


def weights(model):
    return np.concatenate([parameter.detach().numpy().ravel() for parameter in model.parameters()])


def test_a_stream_object_is_trained_on(result, small_stream):
    assert result.summary["stream"]["name"] == "small"
    assert result.summary["stream"]["fingerprint"] == small_stream.fingerprint
    assert result.summary["columns"] == ["stage 0", "stage 1"]


def test_a_stream_object_is_cut_to_its_first_stages(quick, small_stream):
    cut = cl_mlm.run(quick, "stream.first_stages=1", stream=small_stream, progress=False)
    assert cut.summary["columns"] == ["stage 0"]
    whole = cl_mlm.run(quick, "limit=4", stream=small_stream, progress=False)
    assert whole.summary["columns"] == ["stage 0", "stage 1"]


@pytest.mark.parametrize(
    ("value", "said"), [("3", "must be at most 2 here, got 3"), ("0", "must be at least 1"), ("x", "must be a whole")]
)
def test_the_first_stages_of_a_stream_object_are_checked(quick, small_stream, value, said):
    with pytest.raises(ConfigError, match=f"stream.first_stages: {said}"):
        cl_mlm.run(quick, f"stream.first_stages={value}", stream=small_stream)


def test_the_labels_of_a_stream_object_can_be_written_out(fast, small_stream):
    overrides = ["stream.as_text=true", "model.name=tiny-decoder"]
    config = with_objects(load_config(fast, overrides, needs_stream=False), small_stream, None)
    assert config.stream["as_text"] is True
    assert prepare(config, small_stream).stream.stages[0].objective == "text_to_text"


def test_a_stream_object_without_cut_keeps_the_name_of_its_run(fast, small_stream):
    section = with_objects(load_config(fast, needs_stream=False), small_stream, None).stream
    assert section == {"name": "small", "overlap": "error", "fingerprint": small_stream.fingerprint}


@pytest.mark.parametrize("kind", ["labels", "field"])
def test_data_sets_in_memory_are_staged_and_trained_on(quick, kind):
    from datasets import Dataset

    from cl_mlm.data.staging import by_field, by_labels

    def rows(split):
        found = [(f"{label} {k} {split}", label, "ab"[k % 2]) for k in range(4) for label in ("w", "x", "y", "z")]
        return Dataset.from_dict(dict(zip(("text", "label", "domain"), zip(*found, strict=True), strict=True)))

    splits = {split: rows(split) for split in ("train", "validation", "test")}
    stream = (
        by_labels(splits, name="mine", labels_per_stage=2)
        if kind == "labels"
        else by_field(splits, "domain", name="mine")
    )
    result = cl_mlm.run(quick, stream=stream, progress=False)
    assert result.summary["columns"] == (["labels-01", "labels-02"] if kind == "labels" else ["a", "b"])
    assert result.matrix.shape == (2, 2)


def test_a_run_is_recorded_with_class_and_arguments_of_its_objects(result):
    (strategy,) = result.summary["strategies"]
    assert strategy == {"name": "strategies.replay.Replay", "capacity": 6, "weight": 1.0, "rows": None}
    assert result.folder.name.startswith("replay-seed0-")


def test_the_hooks_of_a_strategy_object_run(quick, tmp_path):
    cl_mlm.run(quick, strategies=[Watching(str(tmp_path / "steps"))])
    assert (tmp_path / "steps").read_text().splitlines() == ["0 0", "0 1", "1 0", "1 1"]


def test_an_object_used_twice_does_not_carry_one_run_into_the_next(quick, tmp_path):
    replay = Replay(capacity=6)
    cl_mlm.run(quick, strategies=[replay], seed=1)
    used = cl_mlm.run(quick, strategies=[replay], seed=2)
    fresh = cl_mlm.run(quick, strategies=[Replay(capacity=6)], seed=2, output=str(tmp_path / "fresh"))
    assert used.summary["cost"]["train_examples"] == fresh.summary["cost"]["train_examples"]
    assert (weights(used.model()) == weights(fresh.model())).all()


def test_names_and_objects_of_one_strategy_give_equal_results(quick, tmp_path):
    by_name = cl_mlm.run(quick, strategies=["ewc"], output=str(tmp_path / "names"))
    by_object = cl_mlm.run(quick, strategies=[Ewc()], output=str(tmp_path / "objects"))
    assert (weights(by_name.model()) == weights(by_object.model())).all()


def test_a_changed_argument_of_an_object_is_another_run(quick, tmp_path):
    config = load_config(quick)
    assert len({with_objects(config, None, [Watching(str(tmp_path), times)]).run_name for times in (1, 2)}) == 2


def test_names_and_objects_together_are_refused(quick):
    with pytest.raises(ConfigError, match="strategies: must be all objects or all names"):
        cl_mlm.run(quick, strategies=[Replay(), "ewc"])


def test_the_arguments_of_objects_are_checked(quick, tmp_path):
    with pytest.raises(ConfigError, match=r"strategies\.watching\.times: must be at least 0, got -1"):
        cl_mlm.run(quick, strategies=[Watching(str(tmp_path), times=-1)])


def test_one_strategy_twice_is_refused(quick):
    with pytest.raises(ConfigError, match="strategies: each may be given once, got replay twice"):
        cl_mlm.run(quick, strategies=[Replay(capacity=1), Replay(capacity=2)])


def test_settings_go_over_the_config(quick):
    folder = cl_mlm.run(quick, "training.steps=1", seed=3, model={"dropout": 0.2}).folder
    config = load_config(folder / "config.yaml")
    assert (config.seed, config.training.steps, config.model.dropout) == (3, 1, 0.2)


def test_a_mapping_of_strategies_sets_their_arguments(quick):
    result = cl_mlm.run(quick, strategies={"replay": {"capacity": 3}}, progress=False)
    assert result.summary["strategies"][0]["capacity"] == 3


def test_one_strategy_may_be_given_by_its_name_alone(quick):
    result = cl_mlm.run(quick, strategies="replay", progress=False)
    assert [strategy["name"] for strategy in result.summary["strategies"]] == ["replay"]
