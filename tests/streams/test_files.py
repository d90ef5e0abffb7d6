import json
import os
from pathlib import Path

import pytest

from cl_mlm.config.components import make_stream
from cl_mlm.errors import ConfigError, DataError
from streams.files import files

DATA = Path(os.environ.get("CL_MLM_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CL_MLM_DATA", raising=False)


def rows(labels=("a", "b", "c", "d"), copies=10):
    return [
        {"text": f"{label} {i}", "label": label, "domain": ("home", "work")[i % 2]}
        for i in range(copies)
        for label in labels
    ]


def folder_of(path, splits=("train", "validation", "test"), content=None):
    path.mkdir(parents=True)
    for split in splits:
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content or rows()))
    return path


def texts(split):
    return split["text"][:]


def test_labels_are_cut_into_stages(tmp_path):
    stream = files(path=str(folder_of(tmp_path / "mine")), labels_per_stage=2, order_seed=None)
    assert [stage.labels for stage in stream.stages] == [("a", "b"), ("c", "d")]
    assert (stream.name, stream.scenario, stream.notes) == ("mine", "class_incremental", ())


def test_groups_are_stages_of_labels(tmp_path):
    stream = files(path=str(folder_of(tmp_path / "mine")), groups=[["d"], ["a", "c", "b"]])
    assert [stage.labels for stage in stream.stages] == [("d",), ("a", "c", "b")]


def test_a_field_gives_stages_with_the_same_labels(tmp_path):
    stream = files(path=str(folder_of(tmp_path / "mine")), stages_by="field", field="domain", order=["work", "home"])
    assert [stage.name for stage in stream.stages] == ["work", "home"]
    assert {stage.labels for stage in stream.stages} == {("a", "b", "c", "d")}
    assert stream.scenario == "domain_incremental"


def test_sub_folders_are_stages(tmp_path):
    for name in ("z", "a", "m"):
        folder_of(tmp_path / "mine" / name)
    assert [s.name for s in files(path=str(tmp_path / "mine"), stages_by="files", order_seed=None).stages] == [
        "a",
        "m",
        "z",
    ]
    shuffled = {files(path=str(tmp_path / "mine"), stages_by="files", order_seed=i).stages[0].name for i in range(8)}
    assert len(shuffled) > 1


def test_an_order_picks_sub_folders(tmp_path):
    for name in ("a", "b", "c"):
        folder_of(tmp_path / "mine" / name)
    stream = files(path=str(tmp_path / "mine"), stages_by="files", order=["c", "a"])
    assert [stage.name for stage in stream.stages] == ["c", "a"]


def test_an_order_names_stages_of_labels(tmp_path):
    path = str(folder_of(tmp_path / "mine"))
    stream = files(
        path=path, labels_per_stage=1, order_seed=None, order=["labels-02", "labels-01", "labels-04", "labels-03"]
    )
    assert [stage.labels for stage in stream.stages] == [("b",), ("a",), ("d",), ("c",)]
    with pytest.raises(ConfigError, match=r"stream.order: must name every stage once, missing: labels-02"):
        files(path=path, labels_per_stage=2, order=["labels-01"])


def test_a_whole_folder_is_one_stage(tmp_path):
    (stage,) = files(path=str(folder_of(tmp_path / "mine")), stages_by="whole").stages
    assert (stage.name, stage.labels, len(stage.train)) == ("mine", ("a", "b", "c", "d"), 40)


def test_the_scenario_can_be_set(tmp_path):
    stream = files(path=str(folder_of(tmp_path / "mine")), labels_per_stage=2, scenario="task_incremental")
    assert stream.scenario == "task_incremental"


def test_a_relative_path_is_looked_up_in_the_data_folder(tmp_path, monkeypatch):
    folder_of(tmp_path / "data" / "mine")
    monkeypatch.setenv("CL_MLM_DATA", str(tmp_path / "data"))
    assert len(files(path="mine", labels_per_stage=1)) == 4


def test_columns_can_be_renamed(tmp_path):
    content = [{"sentence": row["text"], "intent": row["label"]} for row in rows()]
    folder = folder_of(tmp_path / "mine", content=content)
    stream = files(path=str(folder), labels_per_stage=4, columns={"text": "sentence", "label": "intent"})
    assert stream.labels == files(path=str(folder_of(tmp_path / "plain")), labels_per_stage=4).labels


def test_whole_numbers_as_labels_become_strings(tmp_path):
    folder = folder_of(tmp_path / "mine", content=[{"text": str(i), "label": i % 2} for i in range(6)])
    assert files(path=str(folder), labels_per_stage=2, order_seed=None).labels == ("0", "1")


def test_a_missing_validation_split_is_carved_from_train_and_noted(tmp_path):
    folder = folder_of(tmp_path / "mine", splits=("train", "test"))
    stream = files(path=str(folder), labels_per_stage=2, validation_fraction=0.2)
    assert stream.notes == ("validation carved from train: 20 % of rows",)
    for stage in stream.stages:
        assert (len(stage.train), len(stage.validation), len(stage.test)) == (16, 4, 20)
        assert not set(texts(stage.train)) & set(texts(stage.validation))


def test_the_carved_rows_do_not_depend_on_the_order_of_stages(tmp_path):
    folder = folder_of(tmp_path / "mine", splits=("train", "test"))
    streams = [files(path=str(folder), labels_per_stage=size, order_seed=seed) for size, seed in ((1, 0), (2, 1))]
    carved = [{text for stage in stream.stages for text in texts(stage.validation)} for stream in streams]
    assert carved[0] == carved[1]


def test_every_stage_of_a_field_gets_carved_rows(tmp_path):
    content = rows() + [{"text": f"rare {i}", "label": "a", "domain": "rare"} for i in range(2)]
    folder = folder_of(tmp_path / "mine", splits=("train", "test"), content=content)
    stream = files(path=str(folder), stages_by="field", field="domain", order_seed=None)
    assert [(s.name, len(s.train), len(s.validation)) for s in stream.stages] == [
        ("home", 18, 2),
        ("rare", 1, 1),
        ("work", 18, 2),
    ]


def test_the_note_names_the_folders_that_were_carved(tmp_path):
    folder_of(tmp_path / "mine" / "whole")
    folder_of(tmp_path / "mine" / "bare", splits=("train", "test"))
    stream = files(path=str(tmp_path / "mine"), stages_by="files", order_seed=None)
    assert stream.notes == ("validation carved from train: 10 % of rows, in bare",)
    assert [len(stage.validation) for stage in stream.stages] == [4, 40]


def test_a_missing_test_split_is_an_error(tmp_path):
    folder = folder_of(tmp_path / "mine", splits=("train", "validation"))
    with pytest.raises(DataError, match="must have a test file"):
        files(path=str(folder), labels_per_stage=2)


def test_faults_of_all_sub_folders_come_together(tmp_path):
    for name in ("a", "b"):
        (folder_of(tmp_path / "mine" / name) / "test.jsonl").write_text("{\n")
    with pytest.raises(DataError) as caught:
        files(path=str(tmp_path / "mine"), stages_by="files")
    assert len(caught.value.problems) == 2


def test_a_sub_folder_that_is_not_there_is_named_with_the_nearest(tmp_path):
    folder_of(tmp_path / "mine" / "yelp")
    with pytest.raises(ConfigError) as caught:
        files(path=str(tmp_path / "mine"), stages_by="files", order=["yepl", "yelp", "yelp"])
    assert [problem.split(" has no ")[-1] for problem in caught.value.problems] == [
        "folder 'yepl' (did you mean 'yelp'?)",
        "stream.order: must name every folder once, got 'yelp' twice",
    ]


def test_a_folder_without_sub_folders_gives_no_stages(tmp_path):
    with pytest.raises(ConfigError, match=r"stream.path: must hold a folder for each stage"):
        files(path=str(folder_of(tmp_path / "mine")), stages_by="files")


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        ({"stages_by": "label"}, ["stream.stages_by: must be one of labels, types, field, files, whole, got 'label'"]),
        (
            {"stages_by": "field", "labels_per_stage": 2},
            [
                "stream.labels_per_stage: must be null where stream.stages_by is field, got 2",
                "stream.field: must name a column where stream.stages_by is field, got None",
            ],
        ),
        (
            {"stages_by": "whole", "field": "domain", "order": ["a"]},
            [
                "stream.field: must be null where stream.stages_by is whole, got 'domain'",
                "stream.order: must be null where stream.stages_by is whole, got ['a']",
            ],
        ),
        (
            {"stages_by": "files", "groups": [["a"]]},
            ["stream.groups: must be null where stream.stages_by is files, got [['a']]"],
        ),
    ],
)
def test_arguments_of_another_kind_of_stages_are_refused(tmp_path, arguments, problems):
    with pytest.raises(ConfigError) as caught:
        files(path=str(tmp_path), **arguments)
    assert caught.value.problems == problems


def test_a_config_reaches_the_stream_by_its_name(tmp_path):
    assert len(make_stream("files", {"path": str(folder_of(tmp_path / "mine")), "labels_per_stage": 2})) == 2


TAGGED = [
    {"tokens": [f"{kind}{i}", "and", "x"], "tags": [f"B-{kind}", "O", "B-org" if i % 2 else "O"]}
    for kind in ("loc", "per", "day")
    for i in range(10)
]


def test_entity_types_are_cut_into_stages(tmp_path):
    path = folder_of(tmp_path / "mine", content=TAGGED)
    stream = files(path=str(path), stages_by="types", types_per_stage=2, order_seed=None, objective="tagging")
    assert [stage.labels for stage in stream.stages] == [("day", "loc"), ("org", "per")]
    assert (stream.scenario, stream.stages[1].objective) == ("class_incremental", "tagging")
    assert stream.stages[1].train["tags"][:][0] == ["O", "O", "B-org"]
    grouped = files(
        path=str(path),
        stages_by="types",
        groups=[["loc"], ["org", "day", "per"]],
        mask_others=False,
        objective="tagging",
    )
    assert grouped.stages[1].train["tags"][:][0] == ["B-loc", "O", "B-org"]


def test_a_missing_validation_split_of_tags_is_carved_by_rarest_type(tmp_path):
    rare = [{"tokens": ["one"], "tags": ["B-rare"]}, {"tokens": ["two"], "tags": ["B-rare"]}]
    path = folder_of(tmp_path / "mine", splits=("train", "test"), content=[*TAGGED, *rare])
    stream = files(path=str(path), stages_by="types", types_per_stage=5, objective="tagging", validation_fraction=0.4)
    (stage,) = stream.stages
    assert stream.notes[0] == "validation carved from train: 40 % of rows"
    assert len(stage.validation) == 13
    kept = [tags for row in stage.train["tags"][:] for tags in row]
    assert all(f"B-{kind}" in kept for kind in ("loc", "per", "day", "org", "rare"))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"stages_by": "types"}, "stream.stages_by: types needs an objective with the column tags, got classification"),
        (
            {"objective": "tagging", "labels_per_stage": 2},
            "stream.stages_by: labels needs an objective with the column label, got tagging, whose columns are "
            "tokens, tags",
        ),
        ({"types_per_stage": 2}, "stream.types_per_stage: must be null where stream.stages_by is labels, got 2"),
        ({"mask_others": False}, "stream.mask_others: must be true where stream.stages_by is labels, got False"),
    ],
)
def test_settings_of_entity_types_go_with_stages_of_entity_types(given, problem, tmp_path):
    with pytest.raises(ConfigError) as caught:
        files(path=str(tmp_path), **given)
    assert caught.value.problems[0].startswith(problem)


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "sgd_intent").is_dir(), reason="the public data sets are not here")
def test_dialogue_intents_are_cut_by_domain(monkeypatch):
    monkeypatch.setenv("CL_MLM_DATA", str(DATA))
    stream = files(path="sgd_intent", stages_by="field", field="domain", scenario="class_incremental")
    assert len(stream) == 16
    assert len(stream.labels) == 37
    assert [sum(len(stage.split(name)) for stage in stream.stages) for name in ("train", "validation", "test")] == [
        5550,
        1082,
        2180,
    ]


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "cl15_yelp").is_dir(), reason="the public data sets are not here")
def test_data_sets_with_and_without_pairs_make_one_stream(monkeypatch):
    monkeypatch.setenv("CL_MLM_DATA", str(DATA))
    stream = files(path=str(DATA), stages_by="files", order=["cl15_cb", "cl15_sst2"], scenario="class_incremental")
    assert [len(stage.train) for stage in stream.stages] == [224, 1800]
    assert [("text_pair" in stage.train.column_names) for stage in stream.stages] == [True, False]


def test_rows_picks_the_same_rows_in_every_call_and_says_so(tmp_path):
    path = str(folder_of(tmp_path / "mine"))
    first, second = (files(path=path, labels_per_stage=4, rows={"train": 30, "test": 20}) for _ in range(2))
    assert (len(first.stages[0].train), len(first.stages[0].test)) == (30, 20)
    assert len(first.stages[0].validation) == 40
    assert first.fingerprint == second.fingerprint
    assert first.notes == ("train: 30 rows picked", "test: 20 rows picked")


def test_rows_are_picked_in_the_order_of_the_file(tmp_path):
    whole = texts(files(path=str(folder_of(tmp_path / "mine")), labels_per_stage=4).stages[0].train)
    some = texts(files(path=str(tmp_path / "mine"), labels_per_stage=4, rows={"train": 25}).stages[0].train)
    assert [text for text in whole if text in some] == some
    assert some != whole[:25]


def test_rows_are_picked_before_a_field_cuts_them(tmp_path):
    stream = files(path=str(folder_of(tmp_path / "mine")), stages_by="field", field="domain", rows={"train": 30})
    assert sum(len(stage.train) for stage in stream.stages) == 30
    assert sum(len(stage.test) for stage in stream.stages) == 40


def test_rows_are_those_of_every_sub_folder_and_a_smaller_one_is_used_whole(tmp_path):
    folder_of(tmp_path / "mine" / "large")
    folder_of(tmp_path / "mine" / "small", content=rows(copies=3))
    stream = files(path=str(tmp_path / "mine"), stages_by="files", order=["large", "small"], rows={"train": 20})
    assert [len(stage.train) for stage in stream.stages] == [20, 12]
    assert "train: at most 20 rows a stage" in stream.notes


def test_rows_of_a_carved_validation_split_are_picked_after_carving(tmp_path):
    path = folder_of(tmp_path / "mine", splits=("train", "test"))
    (stage,) = files(path=str(path), labels_per_stage=4, rows={"train": 36, "validation": 2}).stages
    assert (len(stage.train), len(stage.validation)) == (36, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": {"tset": 3}}, "stream.rows: must name train, validation or test, got 'tset' .did you mean 'test'"),
        ({"rows": {"train": 0}}, "stream.rows.train: must be at least 1, got 0"),
        ({"rows": {"train": 41}}, "stream.rows.train: must be at most 40, got 41"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        files(path=str(folder_of(tmp_path / "mine")), labels_per_stage=2, **given)


def test_rows_of_a_split_that_is_carved_later_are_refused(tmp_path):
    path = folder_of(tmp_path / "mine", splits=("train", "test"))
    with pytest.raises(ConfigError, match=r"rows\.validation: there is no validation split to pick rows from"):
        files(path=str(path), stages_by="field", field="domain", rows={"validation": 2})


@pytest.mark.parametrize("path", ["../other", "/other"])
def test_folders_of_stages_lie_inside_the_path(path, tmp_path):
    with pytest.raises(ConfigError, match=r"stages\[0\].path: must name a folder or file inside stream.path, got"):
        files(path=str(tmp_path), stages_by="files", stages=[{"path": path}])
