"""Rules of what a config means: its layers, its faults, its identity, and the configs that are shipped."""

import re
import shlex
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from cl_mlm.config.arms import planned
from cl_mlm.config.layers import arm_layers, read_layer
from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import Config
from cl_mlm.errors import ConfigError

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
ARMS = [(path, arm) for path in SHIPPED for arm in (None, *arm_layers(read_layer(path)))]
BASE = {"stream": "phrasebook"}


def load(*overrides, arm=None, **settings):
    return load_config({**BASE, **settings}, overrides, arm)


def faults_of(*overrides, **settings):
    with pytest.raises(ConfigError) as caught:
        load(*overrides, **settings)
    return caught.value.problems


def test_the_schema_gives_what_nobody_sets():
    assert load().training.epochs == Config().training.epochs


def test_a_file_overrides_the_schema(tmp_path):
    (tmp_path / "a.yaml").write_text("stream: phrasebook\ntraining: {epochs: 7}\n")
    config = load_config(tmp_path / "a.yaml")
    assert (config.training.epochs, config.training.batch_size) == (7, Config().training.batch_size)


def test_an_arm_overrides_its_file():
    config = load(training={"epochs": 7, "warmup": 0.3}, arms={"long": {"training": {"epochs": 9}}}, arm="long")
    assert (config.training.epochs, config.training.warmup) == (9, 0.3)


def test_an_arm_does_not_leak_into_the_file_itself():
    assert load(arms={"long": {"training": {"epochs": 9}}}).training.epochs == Config().training.epochs


def test_the_command_line_overrides_an_arm():
    arms = {"long": {"training": {"epochs": 9}}}
    assert load("training.epochs=11", arms=arms, arm="long").training.epochs == 11


def test_the_last_of_two_overrides_wins():
    assert load("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize("section", ["phrasebook", {"name": "phrasebook"}])
def test_a_bare_name_is_a_section_with_the_defaults_of_its_stream(section):
    stream = load(stream=section).stream
    assert (stream["name"], stream["labels_per_stage"], stream["overlap"]) == ("phrasebook", 4, "error")


def test_a_bare_stream_name_replaces_the_section():
    old = {"name": "phrasebook", "labels_per_stage": 10, "overlap": "keep"}
    assert load("stream=phrasebook", stream=old).stream == load().stream


def test_a_bare_model_name_replaces_the_section():
    model = load("model=some-model", model={"name": "other", "dropout": 0.3}).model
    assert (model.name, model.dropout) == ("some-model", None)


@pytest.mark.parametrize("override", ["stream.name=files", {"stream": {"name": "files"}}])
def test_another_stream_name_drops_the_old_arguments(override):
    config = load(override, "stream.path=somewhere", stream={"name": "phrasebook", "train_rows": 10})
    assert "train_rows" not in config.stream


def test_the_same_stream_name_keeps_the_arguments():
    config = load("stream.name=phrasebook", stream={"name": "phrasebook", "train_rows": 10})
    assert config.stream["train_rows"] == 10


def test_another_model_name_drops_the_old_arguments():
    assert load("model.name=other", model={"name": "some", "revision": "abc"}).model.revision is None


def test_a_list_of_strategies_replaces_the_section():
    config = load("strategies=[ewc]", strategies={"replay": {"capacity": 7}})
    assert list(config.strategies) == ["ewc"]


@pytest.mark.parametrize(
    ("override", "kept", "gone"),
    [
        ("stream={name: phrasebook, order_seed: 2}", ("stream", "labels_per_stage", 4), "labels_per_stage: 10"),
        ("training={epochs: 2}", ("training", "warmup", 0.1), "warmup: 0.3"),
        ("model={name: same, dropout: 0.1}", ("model", "revision", None), "revision: abc"),
        ("evaluation={batch_size: 7}", ("evaluation", "splits", ["validation", "test"]), "splits: [test]"),
        ("checkpoint={}", ("checkpoint", "keep_stages", "last"), "keep_stages: all"),
    ],
)
def test_a_mapping_on_the_command_line_replaces_the_section(override, kept, gone):
    file = """{stream: {name: phrasebook, labels_per_stage: 10}, training: {warmup: 0.3},
        model: {name: same, revision: abc}, evaluation: {splits: [test]}, checkpoint: {keep_stages: all}}"""
    section, key, value = kept
    assert gone in file
    assert load_config(yaml.safe_load(file), [override]).to_dict()[section][key] == value


@pytest.mark.parametrize(("override", "left"), [("{ewc: {}}", ["ewc"]), ("{}", []), ("{replay: {}}", ["replay"])])
def test_a_mapping_of_strategies_on_the_command_line_replaces_the_section(override, left):
    config = load(f"strategies={override}", strategies={"lwf": {}, "replay": {"capacity": 7}})
    assert list(config.strategies) == left
    assert config.strategies.get("replay", {}).get("capacity", 200) == 200


def test_a_mapping_below_a_section_replaces_what_was_under_its_key():
    old = {"replay": {"capacity": 7, "weight": 2.0}, "ewc": {}}
    strategies = load("strategies.replay={weight: 3}", strategies=old).strategies
    assert (strategies["replay"]["capacity"], strategies["replay"]["weight"], list(strategies)) == (
        200,
        3.0,
        ["replay", "ewc"],
    )


def test_a_single_key_after_a_mapping_is_merged_into_it():
    config = load("training={epochs: 2}", "training.warmup=0.5", training={"batch_size": 8})
    assert (config.training.epochs, config.training.warmup, config.training.batch_size) == (2, 0.5, 32)


@pytest.mark.parametrize("override", ["stream={overlap: drop}", "model={dropout: 0.1}"])
def test_a_mapping_without_the_name_of_its_stream_or_model_is_refused(override):
    (fault,) = faults_of(override, model={"name": "own"})
    assert "a mapping replaces the whole section, so it must have a name" in fault
    assert "single keys are set by " in fault


def test_a_mapping_handed_over_in_python_is_merged():
    config = load({"training": {"epochs": 2}}, training={"batch_size": 8})
    assert (config.training.epochs, config.training.batch_size) == (2, 8)


def test_an_argument_after_a_list_is_set_alone():
    strategies = load("strategies=[replay,ewc]", "strategies.ewc.weight=3").strategies
    assert list(strategies) == ["replay", "ewc"]
    assert strategies["ewc"] == {**load("strategies=[ewc]").strategies["ewc"], "weight": 3.0}


def test_a_mapping_of_strategies_adds_to_the_section():
    config = load({"strategies": {"ewc": {}}}, strategies={"replay": {"capacity": 7}})
    assert (list(config.strategies), config.strategies["replay"]["capacity"]) == (["replay", "ewc"], 7)


def test_strategies_keep_the_order_they_are_given_in():
    assert list(load("strategies=[replay,ewc,lwf]").strategies) == ["replay", "ewc", "lwf"]
    assert list(load("strategies=[lwf,replay,ewc]").strategies) == ["lwf", "replay", "ewc"]


@pytest.mark.parametrize("naive", [["naive"], [], "naive", None, {}, {"naive": {}}, {"naive": None}])
def test_naive_is_the_same_as_no_strategy(naive):
    assert load(strategies=naive).run_name == load().run_name
    assert load(strategies=naive).label == "naive"


def test_naive_beside_another_strategy_changes_nothing():
    assert load(strategies=["naive", "ewc"]) == load(strategies=["ewc"])


@pytest.mark.parametrize("text", ["5e-4", "0.0005", "5.0e-4"])
def test_five_e_minus_four_is_a_number_in_a_file_and_on_the_command_line(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"stream: phrasebook\ntraining: {{learning_rate: {text}}}\n")
    assert load_config(tmp_path / "a.yaml").training.learning_rate == 0.0005
    assert load(f"training.learning_rate={text}").training.learning_rate == 0.0005


def test_null_on_the_command_line_is_none():
    assert load("training.clip=null").training.clip is None


def test_an_interpolation_is_replaced():
    assert load(seed=3, experiment="words-${seed}").experiment == "words-3"


def test_an_interpolation_shows_what_the_command_line_set():
    assert load("seed=5", seed=3, experiment="words-${seed}").experiment == "words-5"


def test_an_interpolation_shows_a_default():
    assert load(experiment="${model.name}").experiment == Config().model.name


def test_an_interpolation_that_leads_nowhere_is_named():
    (fault,) = faults_of(experiment="a-${sead}")
    assert fault.startswith("experiment: ")
    assert "'sead' not found" in fault


def test_every_fault_is_told_at_once():
    faults = faults_of(
        "training.epochs=-1",
        "nonsense",
        seed="x",
        stream={"name": "phrasbook"},
        model={"dropout": 2},
        strategies={"ewc": {"wait": 1}, "repley": {}, "replay": {"capacity": 0}},
        trainning={},
        evaluation={"splits": ["tset"]},
    )
    assert len(faults) == 10
    text = "\n".join(faults)
    for expected in (
        "nonsense: an override is key=value, such as training.epochs=5",
        "trainning: unknown key (did you mean 'training'?); allowed: experiment, seed, ",
        "seed: must be a whole number, got 'x'",
        "training.epochs: must be at least 1, got -1",
        "model.dropout: must be at least 0 and at most 0.95, got 2.0",
        "evaluation.splits: must be a list (one of validation, test each), got ['tset']",
        "stream.name: no stream is called 'phrasbook' (did you mean 'phrasebook'?); allowed: ",
        "strategies.ewc.wait: unknown key",
        "strategies.repley: no strategy is called 'repley' (did you mean 'replay'?); allowed: ",
        "strategies.replay.capacity: must be at least 1, got 0",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategies": 3}, "strategies: must be a mapping, got 3"),
        ({"strategies": {"ewc": 3}}, "strategies: must be a mapping, got {'ewc': 3}"),
        ({"strategies": {"ewc": [1]}}, "strategies: must be a mapping, got {'ewc': [1]}"),
        ({"strategies": [{"ewc": {}}]}, "strategies: must be a mapping, got [{'ewc': {}}]"),
        ({"stream": None}, "stream: must be a mapping, got None"),
        ({"stream": {}}, "stream.name: must name a stream, got None; see `cl-mlm list streams`"),
        ({"stream": ["phrasebook"]}, "stream: must be a mapping, got ['phrasebook']"),
        ({"stream": {"name": "files"}}, "stream.path: is needed (a text)"),
        ({"stream": {"name": "phrasebook", "overlap": "drp"}}, "stream.overlap: must be one of error, drop, keep"),
        ({"stream": {"name": "phrasebook", "train_rows": "many"}}, "stream.train_rows: must be a whole number"),
        ({"training": None}, "training: must be a mapping, got None"),
        ({"model": 3}, "model: must be a mapping, got 3"),
        ({"strategies": {"ewc": {"fisher": "sample"}}}, "strategies.ewc.fisher: must be one of sampled, exact, empi"),
        ({"strategies": {"naive": {"weight": 1}}}, "strategies.naive.weight: unknown key; allowed: "),
    ],
)
def test_a_section_of_the_wrong_kind_is_named(settings, message):
    (fault,) = faults_of(**settings)
    assert fault.startswith(message)


def test_a_file_must_hold_a_mapping(tmp_path):
    (tmp_path / "a.yaml").write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match=r"a.yaml: must be a mapping of settings, got list"):
        load_config(tmp_path / "a.yaml")


def test_an_arm_that_is_not_declared_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no arm is called 'repley' \(did you mean 'replay'\?\); allowed: replay"):
        load(arms={"replay": {}}, arm="repley")


def test_arms_must_be_a_mapping_of_mappings():
    with pytest.raises(ConfigError, match="arms: must be a mapping from a name to settings"):
        load(arms={"a": 3})


def test_loading_changes_no_value_of_its_source():
    source = {"stream": {"name": "phrasebook"}, "training": {"epochs": 2}, "arms": {"a": {"training": {"epochs": 3}}}}
    load_config(source, ["training.batch_size=4"], "a")
    assert source == {
        "stream": {"name": "phrasebook"},
        "training": {"epochs": 2},
        "arms": {"a": {"training": {"epochs": 3}}},
    }


def test_a_resolved_config_written_and_read_again_is_the_same(tmp_path):
    config = load("strategies=[ewc,replay]", "training.learning_rate=5e-4")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("override", ["output=elsewhere", "tracking.uri=sqlite:///x.db", "checkpoint.keep_stages=all"])
def test_identity_does_not_depend_on_where_a_run_is_written_and_kept(override):
    assert load(override).identity() == load().identity()
    assert load(override).run_name == load().run_name


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "limit=3",
        "training.threads=2",
        "training.device=cuda",
        "training.precision=bf16",
        "stream.order_seed=1",
        "stream.overlap=keep",
        "strategies=[ewc]",
        "model.dropout=0.2",
        "evaluation.batch_size=8",
        "experiment=other",
    ],
)
def test_identity_depends_on_whatever_can_change_a_result(override):
    assert load(override).run_name != load().run_name


def test_a_default_that_is_written_out_gives_the_same_run():
    assert load("strategies=[ewc]", "strategies.ewc.weight=1000").run_name == load("strategies=[ewc]").run_name


def test_a_run_is_named_by_strategies_seed_and_hash():
    assert re.fullmatch(r"replay\+ewc-seed4-[0-9a-f]{8}", load("strategies=[replay,ewc]", "seed=4").run_name)


def test_a_dotted_strategy_is_named_by_its_class():
    assert replace(load(), strategies={"my.place.Mine": {}}).label == "mine"


def test_configs_are_shipped():
    assert "quickstart.yaml" in [path.name for path in SHIPPED]


@pytest.mark.parametrize(("path", "arm"), ARMS, ids=[f"{path.stem}-{arm}" for path, arm in ARMS])
def test_every_shipped_config_and_arm_binds(path, arm):
    assert load_config(path, arm=arm).experiment


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_head_of_a_shipped_config_shows_commands_that_are_valid(path):
    commands = head_commands(path)
    assert commands, f"{path.name}: its head shows no `cl-mlm run configs/{path.name}`"
    for words in commands:
        arms = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--arm"]
        overrides = [word for word in words if "=" in word and not word.startswith("-")]
        for variant in planned(path, arms, []):
            assert load_config(path, overrides, variant.arm)


def head_commands(path):
    """Returns the words of every `cl-mlm run` on this file in its head; a command ends where two blanks follow."""
    head = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    found = [re.search(rf"cl-mlm run (?:configs/)?{re.escape(path.name)}(?: \S+)*", line) for line in head]
    return [shlex.split(match[0]) for match in found if match]


def test_a_run_that_would_measure_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"evaluation.splits: must name at least one of validation, test, got \[\]"):
        load_config({"stream": "phrasebook"}, ["evaluation.splits=[]"])


def test_a_strategy_named_twice_is_refused():
    with pytest.raises(ConfigError, match="must name each strategy once"):
        load_config({"stream": "phrasebook"}, ["strategies=[replay,replay]"])
