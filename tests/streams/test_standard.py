"""Rules of cutting one known data set into stages, on small stand-ins and on the real sets that are here."""

import json
import os
from pathlib import Path

import pytest

from cl_mlm.config.components import make_stream
from cl_mlm.data.hygiene import clean
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS
from streams.standard import standard

DATA = Path(os.environ.get("CL_MLM_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
LABELS = [f"intent_{i}" for i in range(7)]
TYPES = ["city", "day", "name"]


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.delenv("CL_MLM_DATA", raising=False)


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(split)))
    return str(folder)


@pytest.fixture
def intents(tmp_path):
    def rows(split):
        return [{"text": f"{split} {x} {i}", "label": x, "domain": x[-1]} for x in LABELS for i in range(3)]

    return write(tmp_path / "data" / "banking77", rows)


@pytest.fixture
def words(tmp_path):
    def rows(split):
        return [{"tokens": [split, kind, str(i)], "tags": ["O", f"B-{kind}", "O"]} for kind in TYPES for i in range(3)]

    return write(tmp_path / "data" / "wnut17", rows)


def test_stages_that_do_not_come_out_even_differ_by_one_label(intents):
    stream = standard(dataset="banking77", path=intents, stages=3, order_seed=None)
    assert [list(stage.labels) for stage in stream.stages] == [LABELS[:3], LABELS[3:5], LABELS[5:]]
    assert stream.scenario == "class_incremental"
    assert [len(stage.test) for stage in stream.stages] == [9, 6, 6]


def test_the_seed_orders_the_labels(intents):
    first, second = (standard(dataset="banking77", path=intents, stages=7, order_seed=seed) for seed in (0, 1))
    assert first.labels != second.labels
    assert sorted(first.labels) == sorted(second.labels) == LABELS


def test_groups_are_taken_as_given(intents):
    groups = [LABELS[3:], LABELS[:3]]
    assert [list(s.labels) for s in standard(dataset="banking77", path=intents, groups=groups).stages] == groups


def test_one_stage_a_value_of_a_column_or_one_for_all(intents):
    by_domain = standard(
        dataset="banking77", path=intents, stages_by="field", field="domain", scenario="class_incremental"
    )
    assert sorted(stage.domain for stage in by_domain.stages) == list("0123456")
    (whole,) = standard(dataset="banking77", path=intents, stages_by="whole").stages
    assert list(whole.labels) == LABELS


def test_tagged_rows_are_cut_by_entity_type(words):
    stream = standard(dataset="wnut17", path=words, stages=2, order_seed=None)
    assert [stage.labels for stage in stream.stages] == [("city", "day"), ("name",)]
    assert {stage.objective for stage in stream.stages} == {"tagging"}
    assert stream.partial


def test_stages_name_source_and_licence(intents):
    stage = standard(dataset="banking77", path=intents, stages=1).stages[0]
    assert (stage.licence, stage.language) == ("CC BY 4.0", "en")
    assert stage.source.startswith("github.com/PolyAI")


def test_the_folder_of_that_name_in_the_data_folder_is_read(intents, monkeypatch):
    monkeypatch.setenv("CL_MLM_DATA", str(Path(intents).parent))
    stream = make_stream("standard", {"dataset": "banking77", "stages": 7})
    assert len(stream) == 7
    assert stream.notes[0].startswith("banking77: local copy, 21 / 21 / 21 rows")


def test_limits_reach_the_rows(intents):
    stream = standard(
        dataset="banking77", path=intents, stages=7, max_rows={"test": 14}, max_rows_per_label={"train": 2}
    )
    assert [len(stage.train) for stage in stream.stages] == [2] * 7
    assert sum(len(stage.test) for stage in stream.stages) == 14


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "banking7"}, r"stream.dataset: no data set is called 'banking7' .did you mean 'banking77'"),
        ({"stages": 0}, "stream.stages: must be 1 to 7, the number of labels, got 0"),
        ({"stages": 8}, "stream.stages: must be 1 to 7, the number of labels, got 8"),
        ({"stages": None}, "stream.stages: needed, or stream.groups instead"),
        ({"groups": [LABELS]}, "stream.stages: needed, or stream.groups instead"),
        ({"stages": None, "groups": [LABELS[1:]]}, "stream.groups: must name every label once, missing: intent_0"),
        ({"stages": None, "groups": []}, "stream.groups: must name every label once, missing: intent_0"),
        ({"stages_by": "domains"}, "stream.stages_by: must be labels, types, field or whole, got 'domains'"),
        ({"stages_by": "types"}, "stream.stages_by: types needs rows with tags, got objective classification"),
        ({"stages_by": "whole"}, "stream.stages: must be null where stages_by is whole, got 2"),
        ({"stages_by": "field", "stages": None}, "stream.field: must name a column"),
        ({"field": "domain"}, "stream.field: must name a column where stages_by is field, else be null, got 'domain'"),
        ({"mask_others": False}, "stream.mask_others: must be true where stages_by is labels"),
        ({"path": "nowhere"}, "stream.path: must be a folder, got 'nowhere'"),
        ({"max_rows": {"train": 0}}, "stream.max_rows.train: must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(intents, given, message):
    with pytest.raises(ConfigError, match=message):
        standard(**{"dataset": "banking77", "path": intents, "stages": 2, **given})


def test_a_set_without_a_known_copy_on_the_hub_says_where_to_put_one():
    with pytest.raises(
        DataError, match=r"ontonotes: no copy on the hub is known .* put a folder ontonotes into CL_MLM"
    ):
        standard(dataset="ontonotes", stages=2)


# Data set: the keys of its config; rows; labels of every stage.
REAL = {
    "snips_intent": ({"stages": 3}, (8825, 700, 700), [3, 2, 2]),
    "wnut17": ({"stages": 3}, None, [2, 2, 2]),
    "snips_slots": ({"stages": 13}, None, [3] * 13),
    "fewrel": ({"stages": 8}, (4800, 640, 1600), [10] * 8),
    "sgd_response": ({"stages_by": "field", "field": "domain"}, (2931, 296, 693), [0] * 14),
    "sgd_intent": (
        {"stages_by": "field", "field": "domain", "scenario": "class_incremental", "order_seed": None},
        (5550, 1082, 2180),
        [2, 2, 3, 3, 4, 2, 4, 2, 2, 4, 2, 2, 1, 2, 1, 1],
    ),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_the_real_sets_are_cut_as_their_configs_say(monkeypatch, name):
    given, rows, labels = REAL[name]
    monkeypatch.setenv("CL_MLM_DATA", str(DATA))
    if not any((DATA / folder).is_dir() for folder in (name, "fewrel80" if name == "fewrel" else name)):
        pytest.skip("the public data sets are not here")
    stream = standard(dataset=name, **given)
    assert [len(stage.labels) for stage in stream.stages] == labels
    if rows is not None:  # a row stands in several stages where they are by type
        assert tuple(sum(len(stage.split(split)) for stage in stream.stages) for split in SPLITS) == rows
    assert len(clean(stream, "drop")[0]) == len(labels)
