"""From a stream section to a stream: scenario, order and probes."""

import json

import pytest

WHOLE = {"stages_by": "whole", "labels_per_stage": None}


def test_every_scenario_is_reached_by_its_name(stream_of):
    instances = stream_of({**WHOLE, "scenario": "instance_incremental", "num_stages": 4})
    assert ([len(s.train) for s in instances.stages], len(instances.columns)) == ([6, 6, 6, 6], 1)
    chunks = stream_of({"scenario": "online", "chunk_rows": 5, "evaluate_every": 2})
    assert ([len(s.train) for s in chunks.stages], chunks.home) == ([5, 5, 2, 5, 5, 2], [2, 5])
    assert chunks.measured == (1, 2, 3, 5)
    spread = stream_of({"scenario": "blurry", "blur": 0.5})
    assert spread.stages[0].labels == ("a", "b", "c", "d")
    assert [c.labels for c in spread.columns] == [("a", "b"), ("c", "d")]
    assert [s.scenario for s in (instances, chunks, spread)] == ["instance_incremental", "online", "blurry"]


def test_a_scenario_reaches_streams_that_know_nothing_of_it(stream_of):
    section = {"name": "phrasebook", "path": "unset", "labels_per_stage": 10, "train_rows": 4, "order_seed": 0}
    stream = stream_of({**section, "scenario": "blurry", "blur": 0.25, "scenario_seed": 3})
    assert [len(set(s.train["label"][:])) for s in stream.stages] == [20, 20]


def test_the_base_scenario_is_the_factorys(stream_of):
    stream = stream_of({"scenario": "online", "chunk_rows": 6, "base_scenario": "task_incremental"})
    assert (stream.base_scenario, stream.masks) == ("task_incremental", True)


def test_the_first_stages_of_a_scenario_are_its_own(stream_of, section_faults):
    stream = stream_of({"scenario": "online", "chunk_rows": 5, "first_stages": 4})
    assert (len(stream.stages), [c.name for c in stream.columns]) == (4, ["labels-01"])
    assert (
        "no column is learned after 2 stages"
        in section_faults({"scenario": "online", "chunk_rows": 5, "first_stages": 2})[0]
    )


def test_a_smoke_run_of_a_scenario_gives_rows_to_every_stage(stream_of):
    stream = stream_of({**WHOLE, "scenario": "instance_incremental", "num_stages": 6}, limit=1)
    assert len(stream.stages) == 6
    assert len(stream_of({"scenario": "online", "chunk_rows": 2}, limit=4).stages) == 4


@pytest.mark.parametrize(
    "order",
    [{"order": [1, 0]}, {"order": ["labels-02", "labels-01"]}, {"orders": {1: [0, 1], "b": [1, 0]}, "order": "b"}],
)
def test_an_order_is_given_by_index_by_name_or_by_its_key(order, stream_of):
    assert [stage.labels for stage in stream_of(order).stages] == [("c", "d"), ("a", "b")]


def test_an_order_of_a_field_is_given_by_value_or_index(tmp_path, stream_of):
    lines = [{"text": f"{d} {i} {x}", "label": x, "domain": d} for i in range(4) for d in "uvw" for x in "ab"]
    for split in ("train", "validation", "test"):
        rows = "".join(json.dumps({**line, "text": f"{split} {line['text']}"}) + "\n" for line in lines)
        (tmp_path / "mine" / f"{split}.jsonl").write_text(rows)
    section = {"stages_by": "field", "field": "domain", "labels_per_stage": None}
    for order in (["w", "u", "v"], [2, 0, 1]):
        assert [stage.name for stage in stream_of({**section, "order": order}).stages] == ["w", "u", "v"]


def test_an_order_of_tags_that_depend_on_it_is_refused(section_faults):
    section = {"stages_by": "types", "labels_per_stage": None, "objective": "tagging", "types_per_stage": 1}
    assert section_faults({**section, "mask_others": False, "order": [0]})[0].startswith("stream.order: must be null")


def test_a_probe_is_a_folder_or_a_section(tmp_path, stream_of, write_labelled):
    held, pair = write_labelled(tmp_path / "held", "held", splits=("test",)), write_labelled(tmp_path / "pair", "pair")
    sections = {"held": held, "pair": {"name": "files", "path": pair, "labels_per_stage": 2, "order_seed": None}}
    stream = stream_of({"probes": sections})
    assert [column.name for column in stream.probes] == ["held", "pair/labels-01", "pair/labels-02"]
    assert stream.home == [0, 1, None, None, None]
    assert ([len(c.test) for c in stream.probes], len(stream.probes[0].validation)) == ([24, 12, 12], 0)
    one = stream_of({"probes": {"pair": {**sections["pair"], "first_stages": 1}}})
    assert [column.name for column in one.probes] == ["pair"]


def test_probes_go_with_a_scenario(tmp_path, stream_of, write_labelled):
    held = write_labelled(tmp_path / "held", "held", splits=("test",))
    stream = stream_of({"scenario": "online", "chunk_rows": 5, "probes": {"held": held}})
    assert stream.home == [2, 5, None]


def test_a_probe_of_another_objective_is_refused(tmp_path, section_faults, write_labelled):
    section = {"name": "files", "path": write_labelled(tmp_path / "web", "web"), "objective": "language_modelling"}
    (fault,) = section_faults({"probes": {"web": {**section, "stages_by": "whole"}}})
    assert fault == ("stream.probes.web: must have the stream's objective classification, got language_modelling")


def test_training_rows_that_a_probe_holds_are_refused(tmp_path, stream_of, section_faults, write_labelled):
    leak = write_labelled(tmp_path / "leak", "mine", splits=("test",))
    (tmp_path / "leak" / "test.jsonl").write_text((tmp_path / "mine" / "train.jsonl").read_text())
    assert "no input may occur in a validation or test split too" in section_faults({"probes": {"leak": leak}})[0]
    assert len(stream_of({"probes": {"leak": leak}, "overlap": "keep"}).probes) == 1
