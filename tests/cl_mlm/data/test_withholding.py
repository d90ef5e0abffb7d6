"""`stream.withhold`: what strategies may not be given, from the config to the stream."""

from dataclasses import replace

import pytest

from cl_mlm.config.loading import load_config
from cl_mlm.data.sampling import limit
from cl_mlm.data.scenarios import blurry, instance_incremental, online
from cl_mlm.data.split_owners import split_owners, with_splits
from cl_mlm.data.stream_building import build_stream
from cl_mlm.data.text_form import as_text
from cl_mlm.errors import ConfigError, DataError

SECTION = {
    "name": "phrasebook",
    "train_rows": 4,
    "validation_rows": 2,
    "test_rows": 2,
    "labels_per_stage": 5,
    "overlap": "drop",
}
RULE = r"must be a list \(one of old_rows, old_model, future each\) or null"


def resolved(**keys):
    return load_config({"stream": {**SECTION, **keys}})


def test_withhold_that_is_not_set_leaves_the_hash_as_it_was():
    plain = resolved()
    assert "withhold" not in plain.stream
    assert {resolved(withhold=value).run_name for value in (None, [])} == {plain.run_name}
    assert resolved(withhold=["old_rows"]).run_name != plain.run_name


def test_the_order_of_what_is_withheld_changes_no_hash():
    first, second = resolved(withhold=["future", "old_rows"]), resolved(withhold=["old_rows", "future", "future"])
    assert first.stream["withhold"] == ["old_rows", "future"]
    assert first.run_name == second.run_name


@pytest.mark.parametrize("value", [["old_row"], "old_rows", [1], {"old_rows": 1}, False])
def test_withhold_names_what_is_allowed(value):
    with pytest.raises(ConfigError, match=rf"stream\.withhold: {RULE}, got "):
        resolved(withhold=value)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"as_text": True},
        {"first_stages": 2},
        {"scenario": "online", "chunk_rows": 9},
        {"scenario": "blurry", "blur": 0.2},
        {"scenario": "instance_incremental", "num_stages": 3},
    ],
)
def test_a_stream_withholds_what_its_section_says(keys):
    section = resolved(withhold=["old_rows"], **keys).stream
    stream, _ = build_stream(section, 3)
    assert stream.withheld == ("old_rows",)
    assert stream.fingerprint == build_stream({**section, "withhold": []}, 3)[0].fingerprint


def test_what_a_stream_object_withholds_stays_through_every_step():
    plain, _ = build_stream(resolved().stream)
    stream = replace(plain, withheld=("future",))
    steps = [
        as_text,
        lambda s: limit(s, 2),
        lambda s: s.first(2),
        lambda s: online(s, 5),
        lambda s: blurry(s, 0.2),
        lambda s: instance_incremental(s, 3),
        lambda s: with_splits(s, [dict(owner.splits) for owner in split_owners(s)]),
    ]
    assert {step(stream).withheld for step in steps} == {("future",)}
    section = load_config({"stream": {"overlap": "drop", "withhold": ["old_model"]}}, needs_stream=False).stream
    assert build_stream(section, None, stream)[0].withheld == ("old_model", "future")


def test_a_stream_object_that_withholds_an_unknown_thing_is_refused():
    stream, _ = build_stream(resolved().stream)
    with pytest.raises(DataError, match="withheld must name only old_rows, old_model, future, got 'old_row'"):
        build_stream({"overlap": "drop"}, None, replace(stream, withheld=("old_row",)))


def test_probes_and_prompts_withhold_nothing():
    with pytest.raises(
        ConfigError, match=r"stream\.probes\.p\.withhold: must not be set for a probe, got \['future'\]"
    ):
        resolved(probes={"p": {"name": "phrasebook", "withhold": ["future"]}})
    data = {"name": "phrasebook", "withhold": ["future"]}
    with pytest.raises(ConfigError, match=r"prompting\.data\.withhold: must not be set for prompts"):
        load_config({"stream": SECTION, "prompting": {"template": "x", "data": data}})
