"""Keys that every stream section has: scenario, order and probes, from a config to a stream."""

from dataclasses import replace

import pytest

from cl_mlm import ConfigError
from cl_mlm.config.loading import load_config


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
def test_what_does_not_fit_is_refused_by_its_key(section, problem, section_faults):
    assert any(line.startswith(problem) for line in section_faults(section))


def test_more_than_one_pass_over_an_online_stream_is_refused(section_faults):
    found = section_faults({"scenario": "online", "chunk_rows": 5}, training={"epochs": 2, "steps": 3})
    assert found == [
        "training.epochs: must be 1 where stream.scenario is online, got 2",
        "training.steps: must be null where stream.scenario is online, got 3",
    ]


def test_settings_of_ordinary_streams_name_none_of_these_keys(tmp_path):
    config = load_config({"stream": {"name": "phrasebook"}})
    assert list(config.stream)[:3] == ["name", "overlap", "first_stages"]
    new = {"scenario_seed", "order", "orders", "probes", "num_stages", "chunk_rows", "evaluate_every", "blur"}
    assert not new & set(config.stream)


def test_a_resolved_section_resolves_to_itself(tmp_path, write_labelled):
    probe = {"name": "files", "path": write_labelled(tmp_path / "p", "p"), "stages_by": "whole"}
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
def test_what_is_not_asked_for_now_is_checked_too(stream, message, stream_of):
    with pytest.raises(ConfigError, match=message) as error:
        stream_of(stream)
    assert len(error.value.problems) == 1
