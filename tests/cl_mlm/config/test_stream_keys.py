"""Keys that every stream section has: scenario, order and probes, from a config to a stream."""

import json
from dataclasses import replace

import pytest

from cl_mlm import ConfigError, DataError
from cl_mlm.config.loading import load_config
from cl_mlm.experiment.preparation import prepare

LABELS = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CL_MLM_DATA", raising=False)


def write(folder, word, splits=("train", "validation", "test"), labels=LABELS):
    folder.mkdir(parents=True)
    for split in splits:
        lines = [{"text": f"{word} {split} {label} {i}", "label": label} for i in range(6) for label in labels]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


@pytest.fixture
def make(tmp_path):
    """Returns the prepared stream of a section over four labels, each a stage."""
    path = write(tmp_path / "mine", "mine")

    def prepared(stream, training=None, **settings):
        section = {"name": "files", "path": path, "order_seed": None, "labels_per_stage": 2, **stream}
        section = {key: value for key, value in section.items() if value != "unset"}
        values = {"stream": section, "training": {"epochs": 1, **(training or {})}, "output": str(tmp_path / "runs")}
        return prepare(load_config({**values, **settings})).stream

    return prepared


def faults(make, *arguments, **named):
    with pytest.raises((ConfigError, DataError)) as caught:
        make(*arguments, **named)
    return caught.value.problems


WHOLE = {"stages_by": "whole", "labels_per_stage": None}


def test_every_scenario_is_reached_by_its_name(make):
    instances = make({**WHOLE, "scenario": "instance_incremental", "num_stages": 4})
    assert ([len(s.train) for s in instances.stages], len(instances.columns)) == ([6, 6, 6, 6], 1)
    chunks = make({"scenario": "online", "chunk_rows": 5, "evaluate_every": 2})
    assert ([len(s.train) for s in chunks.stages], chunks.home) == ([5, 5, 2, 5, 5, 2], [2, 5])
    assert chunks.measured == (1, 2, 3, 5)
    spread = make({"scenario": "blurry", "blur": 0.5})
    assert spread.stages[0].labels == ("a", "b", "c", "d")
    assert [c.labels for c in spread.columns] == [("a", "b"), ("c", "d")]
    assert [s.scenario for s in (instances, chunks, spread)] == ["instance_incremental", "online", "blurry"]


def test_a_scenario_reaches_streams_that_know_nothing_of_it(make):
    section = {"name": "phrasebook", "path": "unset", "labels_per_stage": 10, "train_rows": 4, "order_seed": 0}
    stream = make({**section, "scenario": "blurry", "blur": 0.25, "scenario_seed": 3})
    assert [len(set(s.train["label"][:])) for s in stream.stages] == [20, 20]


def test_the_base_scenario_is_the_factorys(make):
    stream = make({"scenario": "online", "chunk_rows": 6, "base_scenario": "task_incremental"})
    assert (stream.base_scenario, stream.masks) == ("task_incremental", True)


def test_the_first_stages_of_a_scenario_are_its_own(make):
    stream = make({"scenario": "online", "chunk_rows": 5, "first_stages": 4})
    assert (len(stream.stages), [c.name for c in stream.columns]) == (4, ["labels-01"])
    assert (
        "no column is learned after 2 stages"
        in faults(make, {"scenario": "online", "chunk_rows": 5, "first_stages": 2})[0]
    )


def test_a_smoke_run_of_a_scenario_gives_rows_to_every_stage(make):
    stream = make({**WHOLE, "scenario": "instance_incremental", "num_stages": 6}, limit=1)
    assert len(stream.stages) == 6
    assert len(make({"scenario": "online", "chunk_rows": 2}, limit=4).stages) == 4


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"scenario": "blurry", "blur": 1.5}, "stream.blur: must be at least 0 and at most 1, got 1.5"),
        ({"scenario": "blurry"}, "stream.blur: is needed where stream.scenario is blurry"),
        ({"scenario": "online", "chunk_rows": 0}, "stream.chunk_rows: must be at least 1, got 0"),
        ({"scenario": "online", "chunk_rows": 2.5}, "stream.chunk_rows: must be a whole number, got 2.5"),
        (
            {"scenario": "onlin"},
            "stream.scenario: must be one of class_incremental, task_incremental, domain_incremental, "
            "instance_incremental, online, blurry, got 'onlin'",
        ),
        ({"chunk_rows": 5}, "stream.chunk_rows: needs stream.scenario=online, got 5 without"),
        ({"scenario": "blurry", "blur": 0.1, "num_stages": 3}, "stream.num_stages: needs stream.scenario=instance_in"),
        ({"scenario": "instance_incremental", "num_stages": 99}, "stream.num_stages: must be 1 to 24"),
        ({"order": [0, 0]}, "stream.order: must name every stage once, got twice: labels-01"),
        ({"order": [0, 2]}, "stream.order: a stage's index must be 0 to 1, got 2"),
        ({"order": ["labels-01"]}, "stream.order: must name every stage once, missing: labels-02"),
        ({"order": ["labels-01", "labels-03"]}, "stream.order: no stage is called 'labels-03'"),
        ({"order": "labels-01"}, "stream.order: must be a list of stages, by name or by index from 0"),
        ({"order": 3, "orders": {1: [0, 1], 2: [1, 0]}}, "stream.order: must be a key of stream.orders (1, 2), got 3"),
        ({"orders": {1: [0, 1]}}, "stream.order: must be a key of stream.orders (1), got None"),
        ({"orders": [[0, 1]], "order": 1}, "stream.orders: must be a mapping from a key to a list of stages"),
        ({"probes": ["x"]}, "stream.probes: must map names to paths or stream sections, got ['x']"),
        ({"probes": {"x": 3}}, "stream.probes.x: must be a path or a stream section, got 3"),
        ({"probes": {"x": {"name": "filed"}}}, "stream.probes.x.name: "),
        ({"probes": {"x": "/no/such/folder"}}, "stream.probes.x.path: must be a folder, got '/no/such/folder'"),
        (
            {"probes": {"x": {"name": "phrasebook", "scenario": "online", "chunk_rows": 2}}},
            "stream.probes.x.scenario: must not be set for a probe, got 'online'",
        ),
        (
            {"probes": {"x": {"name": "phrasebook", "overlap": "drop"}}},
            "stream.probes.x.overlap: must not be set for a probe, got 'drop'",
        ),
        (
            {"probes": {"x": {"name": "phrasebook"}}},
            "probe 'x/labels-01': its labels must be brought by a stage",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(make, section, problem):
    assert any(line.startswith(problem) for line in faults(make, section))


def test_more_than_one_pass_over_an_online_stream_is_refused(make):
    found = faults(make, {"scenario": "online", "chunk_rows": 5}, training={"epochs": 2, "steps": 3})
    assert found == [
        "training.epochs: must be 1 where stream.scenario is online, got 2",
        "training.steps: must be null where stream.scenario is online, got 3",
    ]


@pytest.mark.parametrize(
    "order",
    [{"order": [1, 0]}, {"order": ["labels-02", "labels-01"]}, {"orders": {1: [0, 1], "b": [1, 0]}, "order": "b"}],
)
def test_an_order_is_given_by_index_by_name_or_by_its_key(make, order):
    assert [stage.labels for stage in make(order).stages] == [("c", "d"), ("a", "b")]


def test_an_order_of_a_field_is_given_by_value_or_index(make, tmp_path):
    lines = [{"text": f"{d} {i} {x}", "label": x, "domain": d} for i in range(4) for d in "uvw" for x in "ab"]
    for split in ("train", "validation", "test"):
        rows = "".join(json.dumps({**line, "text": f"{split} {line['text']}"}) + "\n" for line in lines)
        (tmp_path / "mine" / f"{split}.jsonl").write_text(rows)
    section = {"stages_by": "field", "field": "domain", "labels_per_stage": None}
    for order in (["w", "u", "v"], [2, 0, 1]):
        assert [stage.name for stage in make({**section, "order": order}).stages] == ["w", "u", "v"]


def test_an_order_of_tags_that_depend_on_it_is_refused(make):
    section = {"stages_by": "types", "labels_per_stage": None, "objective": "tagging", "types_per_stage": 1}
    assert faults(make, {**section, "mask_others": False, "order": [0]})[0].startswith("stream.order: must be null")


def test_a_probe_is_a_folder_or_a_section(make, tmp_path):
    held, pair = write(tmp_path / "held", "held", splits=("test",)), write(tmp_path / "pair", "pair")
    sections = {"held": held, "pair": {"name": "files", "path": pair, "labels_per_stage": 2, "order_seed": None}}
    stream = make({"probes": sections})
    assert [column.name for column in stream.probes] == ["held", "pair/labels-01", "pair/labels-02"]
    assert stream.home == [0, 1, None, None, None]
    assert ([len(c.test) for c in stream.probes], len(stream.probes[0].validation)) == ([24, 12, 12], 0)
    one = make({"probes": {"pair": {**sections["pair"], "first_stages": 1}}})
    assert [column.name for column in one.probes] == ["pair"]


def test_probes_go_with_a_scenario(make, tmp_path):
    held = write(tmp_path / "held", "held", splits=("test",))
    stream = make({"scenario": "online", "chunk_rows": 5, "probes": {"held": held}})
    assert stream.home == [2, 5, None]


def test_a_probe_of_another_objective_is_refused(make, tmp_path):
    section = {"name": "files", "path": write(tmp_path / "web", "web"), "objective": "language_modelling"}
    (fault,) = faults(make, {"probes": {"web": {**section, "stages_by": "whole"}}})
    assert fault == ("stream.probes.web: must have the stream's objective classification, got language_modelling")


def test_training_rows_that_a_probe_holds_are_refused(make, tmp_path):
    leak = write(tmp_path / "leak", "mine", splits=("test",))
    (tmp_path / "leak" / "test.jsonl").write_text((tmp_path / "mine" / "train.jsonl").read_text())
    assert "no input may occur in a validation or test split too" in faults(make, {"probes": {"leak": leak}})[0]
    assert len(make({"probes": {"leak": leak}, "overlap": "keep"}).probes) == 1


def test_settings_of_ordinary_streams_name_none_of_these_keys(tmp_path):
    config = load_config({"stream": {"name": "phrasebook"}})
    assert list(config.stream)[:3] == ["name", "overlap", "first_stages"]
    new = {"scenario_seed", "order", "orders", "probes", "num_stages", "chunk_rows", "evaluate_every", "blur"}
    assert not new & set(config.stream)


def test_a_resolved_section_resolves_to_itself(make, tmp_path):
    probe = {"name": "files", "path": write(tmp_path / "p", "p"), "stages_by": "whole"}
    section = {"name": "phrasebook", "scenario": "online", "chunk_rows": 5, "orders": {1: [4, 3, 2, 1, 0]}, "order": 1}
    first = load_config({"stream": {**section, "probes": {"p": probe}}})
    assert load_config({"stream": first.stream}).stream == first.stream
    assert replace(first) == first


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (
            {"orders": {1: [1, 0], 2: [0]}, "order": 1},
            "stream.orders.2: must name every stage once, missing: labels-02",
        ),
        ({"orders": [1, 2], "order": 3}, "stream.orders: must be a mapping from a key to a list of stages"),
        ({"overlaps": "drop"}, r"stream.overlaps: unknown key \(did you mean 'overlap'\?\); allowed: .*evaluate_every"),
        ({"validation_fraction": 1.5}, "stream.validation_fraction: must be above 0 and below 1, got 1.5"),
    ],
)
def test_what_is_not_asked_for_now_is_checked_too(make, stream, message):
    with pytest.raises(ConfigError, match=message) as error:
        make(stream)
    assert len(error.value.problems) == 1
