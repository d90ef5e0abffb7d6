"""Settings of single stages: which a stage has, which identity they give, and what is refused."""

import pytest

from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import TrainingConfig
from cl_mlm.errors import ConfigError
from cl_mlm.experiment.preparation import prepare

NAMES = ["banking", "travel", "1"]


def of(index, **stages):
    return TrainingConfig(epochs=3, steps=9, stages=stages).at_stage(index, NAMES)


def test_a_stage_is_found_by_its_name_or_its_index():
    assert of(0, banking={"steps": 4}).steps == 4
    assert of(0, **{"0": {"steps": 4}}).steps == 4
    assert of(2, **{"2": {"batch_size": 4}}).batch_size == 4
    assert of(1, banking={"steps": 4}) == TrainingConfig(epochs=3, steps=9)


def test_a_name_that_is_a_number_is_the_stage_with_that_name():
    assert of(2, **{"1": {"steps": 4}}).steps == 4
    assert of(1, **{"1": {"steps": 4}}).steps == 9


def test_epochs_of_a_stage_count_also_where_the_others_have_steps():
    stage = of(0, banking={"epochs": 2})
    assert (stage.epochs, stage.steps) == (2, None)


def test_an_index_is_the_same_key_in_a_file_in_an_arm_and_on_the_command_line(fast):
    fast["training"]["stages"] = {1: {"epochs": 2}, "0": {"steps": 3}}
    fast["arms"] = {"long": {"training": {"stages": {1: {"learning_rate": 1}}}}}
    config = load_config(fast, ["training.stages.1.epochs=5"], arm="long")
    assert config.training.stages == {"1": {"epochs": 5, "learning_rate": 1.0}, "0": {"steps": 3}}
    assert load_config(fast, ["training.stages={0: {steps: 2}}"]).training.stages == {"0": {"steps": 2}}


def test_only_stages_with_settings_change_the_identity(fast):
    plain = load_config(fast)
    assert "stages" not in plain.to_dict()["training"]
    empty = [load_config(fast, [f"training.stages={given}"]).run_name for given in ("{}", "{1: {}}")]
    assert empty == [plain.run_name] * 2
    assert load_config(fast, ["training.stages.1.epochs=5"]).run_name != plain.run_name


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ({1: {"epoch": 2}}, "training.stages.1.epoch: unknown key (did you mean 'epochs'?); allowed: epochs, steps, "),
        ({1: {"warmup": 0.2}}, "training.stages.1.warmup: unknown key"),
        ({1: {"epochs": 0}}, "training.stages.1.epochs: must be at least 1, got 0"),
        ({1: {"epochs": None}}, "training.stages.1.epochs: must be a whole number, got None"),
        ({1: {"learning_rate": "fast"}}, "training.stages.1.learning_rate: must be a number, got 'fast'"),
        ({1: {"learning_rate": 0}}, "training.stages.1.learning_rate: must be above 0, got 0.0"),
        ({1: {"batch_size": 2.5}}, "training.stages.1.batch_size: must be a whole number, got 2.5"),
        ({1: {"patience": -1}}, "training.stages.1.patience: must be at least 1, got -1"),
        ({1: {"epochs": 2, "steps": 5}}, "training.stages.1: must have epochs or steps, which replaces epochs"),
        ({1: 5}, "training.stages.1: must be a mapping of epochs, steps, learning_rate, batch_size, patience, got 5"),
        ([1], "training.stages: must be a mapping, got [1]"),
    ],
)
def test_unknown_keys_and_values_are_refused(fast, stages, fault):
    fast["training"]["stages"] = stages
    with pytest.raises(ConfigError) as refused:
        load_config(fast)
    assert any(line.startswith(fault) for line in refused.value.problems)


def test_a_key_that_is_given_twice_is_refused(fast):
    with pytest.raises(ConfigError, match=r"training\.stages\.1: must be given once"):
        load_config(fast, [{"training": {"stages": {1: {"epochs": 2}, "1": {"steps": 2}}}}])


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ({2: {"epochs": 1}}, "training.stages.2: no stage has this name; allowed: labels-01, labels-02, or an index "),
        ({-1: {"epochs": 1}}, "training.stages.-1: no stage has this name"),
        ({"01": {"epochs": 1}}, "training.stages.01: no stage has this name"),
        ({"labels-03": {"epochs": 1}}, "training.stages.labels-03: no stage has this name (did you mean 'labels-0"),
        ({True: {"epochs": 1}}, "training.stages.True: no stage has this name"),
        (
            {1: {"epochs": 1}, "labels-02": {"steps": 4}},
            "training.stages.labels-02: must be the only key of stage 'labels-02', which '1' names, too",
        ),
    ],
)
def test_stages_that_do_not_exist_are_refused_before_a_model_is_loaded(fast, stages, fault):
    fast["training"]["stages"] = stages
    with pytest.raises(ConfigError) as refused:
        prepare(load_config(fast))
    assert any(line.startswith(fault) for line in refused.value.problems)


def test_a_joint_run_has_settings_of_its_one_stage_only(fast):
    fast |= {"strategies": ["joint"]}
    fast["training"]["stages"] = {1: {"epochs": 1}}
    prepare(load_config(fast))
    fast["training"]["stages"] = {0: {"epochs": 1}}
    with pytest.raises(ConfigError, match=r"training\.stages\.0: must be 'labels-02', the one stage in which a joint"):
        prepare(load_config(fast))


@pytest.mark.parametrize(
    ("own", "fault"), [({"epochs": 2}, "epochs: must be 1"), ({"steps": 5}, "steps: must be null")]
)
def test_a_stage_of_an_online_stream_shows_each_row_once(fast, own, fault):
    fast["stream"] |= {"scenario": "online", "chunk_rows": 8}
    fast["training"] |= {"epochs": 1, "stages": {1: {"learning_rate": 1e-4, "batch_size": 2}}}
    prepare(load_config(fast))
    fast["training"]["stages"] = {1: own}
    with pytest.raises(ConfigError, match=rf"training\.stages\.1\.{fault} where stream\.scenario is online"):
        prepare(load_config(fast))
