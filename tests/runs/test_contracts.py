"""Contracts keep their word: needs, what is handed out, the cost of hooks, stages without rows."""

from contextlib import contextmanager
from shutil import rmtree

import numpy as np
import pytest
import torch
from pyarrow.parquet import read_table
from safetensors.torch import load_file
from typing_extensions import override

import cl_mlm
from cl_mlm import ConfigError, Strategy
from cl_mlm.check.timing import timed_steps
from cl_mlm.config import load_config
from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.preparation import prepare
from cl_mlm.randomness import seed_everything
from strategies.replay import Replay


class NeedsStage(Strategy):
    needs = frozenset({"task_id"})


class NeedsOldModel(Strategy):
    needs = frozenset({"old_model"})


class NeedsByArgument(Strategy):
    """Needs rows of later stages where its argument says so."""

    def __init__(self, looks_ahead: bool = False) -> None:
        self.looks_ahead = looks_ahead

    @property
    def needs(self):
        return frozenset({"future"} if self.looks_ahead else ())


class SwapsWeights(Strategy):
    """Scores zeros in place of the class head's bias."""

    @override
    @contextmanager
    def evaluation(self, run, columns):
        with torch.no_grad():
            before = run.model.classifier.bias.clone()
            run.model.classifier.bias.zero_()
            yield
            run.model.classifier.bias.copy_(before)


class ChoosesNoRows(Strategy):
    """Trains no row of one stage."""

    def __init__(self, stage: int = 1) -> None:
        self.stage = stage

    @override
    def training_data(self, run, stage):
        return np.zeros(0, dtype=np.int64) if run.stage_index == self.stage else None


class Asks(Strategy):
    """Runs the model, dropout on, before every stage and in every step; keeps what it was told."""

    def __init__(self, extra_draws: int = 0) -> None:
        self.extra_draws = extra_draws
        self.heard = []

    def _ask(self, run):
        run.model.train()
        torch.rand(self.extra_draws)  # what others draw from the global generator must not matter
        self.heard.append(run.forward(run.rows(run.training_ids[:3])).logits.detach().clone())

    @override
    def before_stage(self, run, stage):
        self._ask(run)

    @override
    def after_step(self, run):
        with torch.no_grad():
            self._ask(run)


@pytest.fixture
def short(fast):
    fast["training"] |= {"steps": 3}
    del fast["training"]["epochs"]
    return fast


def test_a_need_for_the_stage_is_refused_where_the_stage_is_not_known(short):
    with pytest.raises(
        ConfigError, match=r"strategies.needsstage: needs task_id .* must be task_incremental, got class"
    ):
        cl_mlm.run(short, strategies=[NeedsStage()])


def test_a_need_for_the_stage_is_met_in_a_task_incremental_stream(short):
    short["stream"] |= {"scenario": "task_incremental"}
    assert cl_mlm.run(short, strategies=[NeedsStage()]).is_new


@pytest.mark.parametrize(("strategy", "need"), [("replay", "old_rows"), ("lwf", "old_model"), ("joint", "future")])
def test_what_a_stream_withholds_is_refused_by_name(short, strategy, need):
    short["stream"] |= {"withhold": [need]}
    with pytest.raises(ConfigError, match=f"strategies.{strategy}: needs {need} .*: stream.withhold names {need}"):
        cl_mlm.run(short, strategies=[strategy])


def test_a_stream_that_withholds_rows_trains_what_needs_none(short):
    short["stream"] |= {"withhold": ["old_rows"]}
    assert cl_mlm.run(short, strategies=["lwf"]).is_new


def test_a_need_may_depend_on_the_arguments(short):
    short["stream"] |= {"withhold": ["future"]}
    assert cl_mlm.run(short, strategies=[NeedsByArgument()]).is_new
    with pytest.raises(ConfigError, match="needs future"):
        cl_mlm.run(short, strategies=[NeedsByArgument(looks_ahead=True)])


def test_needs_are_refused_for_a_stream_handed_over_as_an_object(short, small_stream):
    short["stream"] = {"withhold": ["old_model"]}
    with pytest.raises(ConfigError, match=r"stream\.withhold names old_model"):
        cl_mlm.run(short, stream=small_stream, strategies=[NeedsOldModel()])


def test_what_is_handed_out_is_what_was_scored_and_training_goes_on_from_the_other(short):
    result = cl_mlm.run(short, strategies=[SwapsWeights()])
    assert result.summary["swapped_for_evaluation"] == ["swapsweights"]
    kept = result.folder / "stages" / "001"
    trained, scored = (load_file(folder / "model.safetensors") for folder in (kept / "model", result.model_folder()))
    assert not torch.equal(trained["classifier.bias"], scored["classifier.bias"])
    assert torch.equal(result.model().classifier.bias, scored["classifier.bias"])
    predicted = read_table(result.folder / "predictions" / "1.parquet").to_pydict()
    texts = [row["text"] for stage in prepare(load_config(short)).stream.stages for row in stage.test]
    assert result.predict(texts) == [str(answer) for answer in predicted["prediction"]]


def test_a_model_that_was_not_scored_is_not_handed_out(short):
    result = cl_mlm.run(short, strategies=[SwapsWeights()])
    rmtree(result.folder / "stages" / "001" / "scored")  # as an early version leaves it
    with pytest.raises(RunFolderError, match=r"not the ones that were scored: strategy swapsweights has weights"):
        result.model()


def test_a_model_that_was_scored_is_handed_out(short):
    result = cl_mlm.run(short)
    assert "swapped_for_evaluation" not in result.summary
    assert result.model().config.num_labels == 4


@pytest.mark.parametrize(
    ("stage", "training", "beside"),
    [
        (0, {"steps": 3}, "lwf"),
        (0, {"epochs": 2}, "ewc"),
        (0, {"epochs": 2, "patience": 1}, "replay"),
        (1, {"steps": 3}, "replay"),
        (1, {"epochs": 2}, "lwf"),
        (1, {"epochs": 2, "patience": 1}, "ewc"),
    ],
)
def test_a_stage_without_rows_trains_0_steps_and_is_flagged(fast, stage, training, beside):
    del fast["training"]["epochs"]
    fast["training"] |= training
    result = cl_mlm.run(fast, strategies={f"{__name__}.ChoosesNoRows": {"stage": stage}, beside: {}})
    assert f"labels-{stage + 1:02d}: trained on no rows: 0 steps" in result.summary["flags"]
    assert not np.isnan(result.matrix[stage, : stage + 1]).any()


def test_passes_of_hooks_are_counted_apart_from_the_rows_of_steps(short):
    plain, asking = cl_mlm.run(short), cl_mlm.run(short, strategies=[Asks()])
    num_passes = 2 * (1 + 3)  # in each of two stages: before it, and in every step
    assert asking.summary["cost"]["hook_examples"] == 3 * num_passes
    assert asking.summary["cost"]["hook_tokens"] > 0
    assert plain.summary["cost"]["hook_examples"] == 0
    for name in ("train_examples", "train_tokens"):
        assert asking.summary["cost"][name] == plain.summary["cost"][name]


@pytest.mark.parametrize(("strategy", "passes"), [("ewc", 64), ("lwf", 32)])
def test_the_cost_of_a_teacher_and_of_fisher_information_is_counted(short, strategy, passes):
    # 32 training rows a stage: a Fisher after either stage, a teacher before the second.
    assert cl_mlm.run(short, strategies=[strategy]).summary["cost"]["hook_examples"] == passes / 2


def test_passes_of_hooks_draw_dropout_by_address_and_move_no_training(short):
    matrices, heard = [], []
    for strategies in ([], [Asks()], [Asks(extra_draws=5)]):
        result = cl_mlm.run(short | {"output": f"{short['output']}-{len(matrices)}"}, strategies=strategies)
        matrices.append(result.matrix)
        heard.append(result.folder)
    assert all(np.array_equal(matrix, matrices[0], equal_nan=True) for matrix in matrices)


def test_a_need_that_there_is_not_is_refused(short):
    class Misspelt(Strategy):
        needs = frozenset({"old_row"})

    with pytest.raises(ConfigError, match=r"misspelt: needs must be of .*, got 'old_row' \(did you mean 'old_rows'"):
        cl_mlm.run(short, strategies=[Misspelt()])


def test_every_pass_of_a_hook_in_a_step_has_an_address_of_its_own(short, monkeypatch):
    addresses = []
    seed = seed_everything
    monkeypatch.setattr("cl_mlm.training.strategy_view.seed_everything", lambda *a: addresses.append(a) or seed(*a))

    class AsksInTheLoss(Strategy):
        @override
        def loss_terms(self, run, batch, outputs):
            run.forward(batch)
            return {}

    cl_mlm.run(short | {"training": short["training"] | {"accumulation": 2}}, strategies=[AsksInTheLoss(), Replay()])
    assert len(addresses) == 3 * 2 + 3 * 4  # micro-batches of the first stage; in the second memory batches, too
    assert len({*addresses}) == len(addresses)


def test_a_stage_that_there_is_not_has_no_model(short):
    result = cl_mlm.run(short)
    for stage in (2, 99, -3):
        with pytest.raises(ConfigError, match=f"stage: must be -2 to 1, got {stage}"):
            result.model(stage)


def test_what_those_who_write_objectives_import_stands_where_it_stood():
    from cl_mlm import objective

    assert {"Batch", "Outputs", "Sites", "Predictions", "Objective", "Predictor", "Encoded", "Lengths"} <= {
        name for name in objective.__all__ if hasattr(objective, name)
    }


def test_steps_of_a_stage_without_rows_are_timed_as_none(short):
    prepared = prepare(load_config(short | {"strategies": {f"{__name__}.ChoosesNoRows": {"stage": 1}, "ewc": {}}}))
    assert timed_steps(prepared, 2).later_step == 0


def test_an_argument_without_annotation_takes_what_the_config_says(short):
    prepared = prepare(load_config(short | {"strategies": {f"{__name__}.SaysNoType": {"times": 3}}}))
    assert prepared.strategies[0].times == 3


class SaysNoType(Strategy):
    def __init__(self, times=1):
        self.times = times
