"""One file as a stream, carved test rows, and the settings of reading as arguments of streams."""

import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from cl_mlm.config.loading import load_config
from cl_mlm.data.hygiene import clean
from cl_mlm.errors import ConfigError, DataError
from streams.files import files
from streams.hub import hub

LABELS = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.delenv("CL_MLM_DATA", raising=False)


def rows(copies=10, labels=LABELS, word=""):
    return [
        {"text": f"{word} {label} {i}", "label": label, "domain": ("home", "work")[i % 2]}
        for i in range(copies)
        for label in labels
    ]


def json_file(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def table(path, content, separator=",", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(content[0]), *(separator.join(row.values()) for row in content)]
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(path)


def sizes(stream):
    return [(len(stage.train), len(stage.validation), len(stage.test)) for stage in stream.stages]


def test_one_file_is_enough_and_its_rows_are_carved_evenly(tmp_path):
    path = table(tmp_path / "mine.csv", rows(20), ";")
    stream = files(path=path, labels_per_stage=2, order_seed=None)
    assert (stream.name, sizes(stream)) == ("mine", [(28, 4, 8), (30, 2, 8)])
    assert stream.notes == (
        "mine.csv: columns are separated by ';'",
        "test carved from mine.csv: 20 % of rows",
        "validation carved from train: 10 % of rows",
    )
    for stage in stream.stages:
        assert {stage.test["label"][:].count(label) for label in stage.labels} == {4}
    clean(stream, "error")
    assert files(path=path, labels_per_stage=2, order_seed=None).fingerprint == stream.fingerprint


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.tsv", "data.parquet", "saved"])
def test_one_file_of_any_format_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    if name.endswith("l"):
        json_file(path, rows())
    elif name.endswith("json"):
        path.write_text(json.dumps(rows(), indent=1))
    elif name.endswith("tsv"):
        table(path, rows(), "\t")
    elif name.endswith("parquet"):
        Dataset.from_list(rows()).to_parquet(path)
    else:
        Dataset.from_list(rows()).save_to_disk(str(path))
    expected = files(path=json_file(tmp_path / "other.jsonl", rows()), labels_per_stage=2)
    assert files(path=str(path), labels_per_stage=2).fingerprint == expected.fingerprint


def test_one_file_is_found_in_the_data_folder(tmp_path, monkeypatch):
    json_file(tmp_path / "all" / "mine.jsonl", rows())
    monkeypatch.setenv("CL_MLM_DATA", str(tmp_path / "all"))
    assert files(path="mine.jsonl", labels_per_stage=2).name == "mine"


def test_the_fractions_of_one_file_can_be_given(tmp_path):
    path = json_file(tmp_path / "mine.jsonl", rows(20))
    assert sizes(files(path=path, labels_per_stage=4, test_fraction=0.5, validation_fraction=0.25)) == [(30, 10, 40)]


@pytest.mark.parametrize("stages_by", ["labels", "field", "whole"])
@pytest.mark.parametrize("copies", [3, 4, 6])
def test_a_few_rows_of_each_label_are_enough_for_all_splits_of_every_stage(tmp_path, stages_by, copies):
    given = {"labels": {"labels_per_stage": 2}, "field": {"field": "domain"}, "whole": {}}[stages_by]
    number = copies * 2 if stages_by == "field" else copies
    stream = files(path=json_file(tmp_path / "a.jsonl", rows(number)), stages_by=stages_by, **given)
    assert all(min(size) for size in sizes(stream))
    clean(stream, "error")


def test_one_file_of_tags_is_carved_by_entity_type(tmp_path):
    tagged = [{"tokens": [f"{t}{i}", "x"], "tags": [f"B-{t}", "O"]} for i in range(4) for t in ("loc", "per", "org")]
    given = {"stages_by": "types", "types_per_stage": 1, "objective": "tagging"}
    stream = files(path=json_file(tmp_path / "a.jsonl", tagged), **given)
    assert sizes(stream) == [(2, 1, 1)] * 3


def test_relations_and_entities_may_be_character_spans(tmp_path):
    pairs = [(f"Anna {i} knows Bob.", label) for i in range(10) for label in "ab"]
    related = [{"text": text, "head": [0, 4], "tail": [13, 16], "label": label} for text, label in pairs]
    tagged = [{"text": text, "entities": [[0, 4, label]]} for text, label in pairs]
    stream = files(path=json_file(tmp_path / "a.jsonl", related), labels_per_stage=2, objective="relation")
    clean(stream, "keep")
    row = stream.stages[0].train[0]
    assert [row["tokens"][slice(*row[name])] for name in ("head", "tail")] == [["Anna"], ["Bob"]]
    given = {"stages_by": "types", "types_per_stage": 1, "order_seed": None, "objective": "tagging"}
    stream = files(path=json_file(tmp_path / "b.jsonl", tagged), **given)
    clean(stream, "keep")
    assert stream.stages[0].train["tags"][0] == ["B-a", "O", "O", "O", "O"]


def test_a_stage_without_carved_validation_rows_gets_some_and_the_note_says_so(tmp_path):
    for split in ("train", "test"):
        json_file(tmp_path / "own" / f"{split}.jsonl", rows(6, word=split))
    stream = files(path=str(tmp_path / "own"), labels_per_stage=2)
    assert sizes(stream) == [(10, 2, 12)] * 2
    assert stream.notes[-1].startswith("every label of two training rows or more has given a validation row")
    clean(stream, "error")


def test_carved_rows_stay_as_they_are_where_every_stage_has_some(tmp_path):
    for split in ("train", "test"):
        json_file(tmp_path / "own" / f"{split}.jsonl", rows(6, word=split))
    stream = files(path=str(tmp_path / "own"), labels_per_stage=4)
    assert stream.stages[0].validation["label"][:] == ["b", "a"]  # 10 % of 24 rows: some labels give none
    assert len(stream.notes) == 1


def test_a_missing_test_file_is_carved_where_that_is_asked_for(tmp_path):
    folder = tmp_path / "own"
    json_file(folder / "train.jsonl", rows(20))
    with pytest.raises(DataError, match=r"must have a test file.*; stream.test_fraction=0.2 carves one from train"):
        files(path=str(folder), labels_per_stage=2)
    stream = files(path=str(folder), labels_per_stage=2, test_fraction=0.2)
    assert sizes(stream) == [(28, 4, 8), (30, 2, 8)]
    json_file(folder / "test.jsonl", rows(2))
    with pytest.raises(ConfigError, match=r"stream.test_fraction: must be null where there is a test file, got 0.2"):
        files(path=str(folder), labels_per_stage=2, test_fraction=0.2)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, 2.0])
def test_a_fraction_out_of_bounds_is_refused(tmp_path, fraction):
    with pytest.raises(ConfigError, match=r"^stream.test_fraction: must be above 0 and below 1, got"):
        files(path=str(tmp_path), labels_per_stage=2, test_fraction=fraction)


def test_a_saved_dict_of_data_sets_is_a_folder_with_names_of_classes(tmp_path):
    features = Features({"body": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    parts = {
        split: Dataset.from_dict({"body": [f"{split} {i}" for i in range(10)], "label": [0, 1] * 5}, features=features)
        for split in ("train", "test")
    }
    DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert files(path=str(tmp_path / "saved"), stages_by="whole", columns={"text": "body"}).labels == ("no", "yes")


def test_separator_encoding_and_gaps_are_arguments(tmp_path):
    content = [*rows(10, ("größe", "b")), {"text": "no label", "label": "", "domain": "home"}]
    path = table(tmp_path / "a.csv", content, "#", "latin-1")
    stream = files(path=path, labels_per_stage=2, delimiter="#", encoding="latin-1", missing="drop")
    assert stream.labels in (("größe", "b"), ("b", "größe"))
    assert stream.notes[0] == "a.csv: 1 row without label dropped, at line 22"
    with pytest.raises(ConfigError) as caught:
        files(path=path, labels_per_stage=2, delimiter="##", encoding="latin-99", missing="skip")
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "stream.delimiter",
        "stream.encoding",
        "stream.missing",
    ]


def test_each_of_stages_has_settings_of_its_own_and_may_be_a_file(tmp_path):
    table(tmp_path / "first.csv", rows(10), "#")
    table(tmp_path / "second" / "train.csv", rows(10, ("x", "ä")), ",", "cp1252")
    stages = [{"path": "first.csv", "delimiter": "#"}, {"path": "second", "encoding": "cp1252", "test_fraction": 0.4}]
    stream = files(path=str(tmp_path), stages_by="files", stages=stages, scenario="class_incremental")
    assert [stage.labels for stage in stream.stages] == [LABELS, ("x", "ä")]
    assert sizes(stream) == [(28, 4, 8), (10, 2, 8)]
    assert stream.notes[:2] == (
        "first.csv: test carved from first.csv: 20 % of rows",
        "second: test carved from train: 40 % of rows",
    )
    with pytest.raises(ConfigError, match=r"^stream.stages\[0\].encoding: must be a text encoding"):
        files(path=str(tmp_path), stages_by="files", stages=[{"path": "first.csv", "encoding": "odd"}])


def test_folders_of_stages_are_carved_and_the_same_fault_of_many_is_told_once(tmp_path):
    for name in "abcde":
        json_file(tmp_path / "own" / name / "train.jsonl", rows(10, word=name))
    stream = files(path=str(tmp_path / "own"), stages_by="files", test_fraction=0.2)
    assert sizes(stream) == [(28, 4, 8)] * 5
    assert stream.notes[0].endswith(": test carved from train: 20 % of rows")
    with pytest.raises(DataError) as caught:
        files(path=str(tmp_path / "own"), stages_by="files", test_fraction=0.2, columns={"text": "body"})
    (problem,) = caught.value.problems
    assert "set columns: {text: text}" in problem
    assert "the same in 4 more" in problem


@pytest.mark.parametrize(("per_stage", "sizes_of_stages"), [(3, [3, 1]), (4, [4]), (1, [1, 1, 1, 1])])
def test_the_last_stage_may_be_smaller_on_request(tmp_path, per_stage, sizes_of_stages):
    path = json_file(tmp_path / "a.jsonl", rows())
    stream = files(path=path, labels_per_stage=per_stage, uneven=True)
    assert [len(stage.labels) for stage in stream.stages] == sizes_of_stages


def test_a_number_that_does_not_divide_is_told_with_the_ways_out(tmp_path):
    path = json_file(tmp_path / "a.jsonl", rows())
    said = "stream.labels_per_stage: must divide 4, got 3; allowed: 1, 2, 4; uneven: true leaves a smaller last stage, "
    with pytest.raises(ConfigError) as caught:
        files(path=path, labels_per_stage=3)
    assert caught.value.problems == [f"{said}groups (of the stream files) names the labels of each"]
    with pytest.raises(
        ConfigError, match=r"stream.labels_per_stage: must be 1 to 4, as there are so many labels, got 9"
    ):
        files(path=path, labels_per_stage=9, uneven=True)
    with pytest.raises(
        ConfigError, match=r"stream.uneven: must be false where stream.groups says what each stage brings"
    ):
        files(path=path, groups=[["a", "b"], ["c", "d"]], uneven=True)
    with pytest.raises(ConfigError, match=r"stream.uneven: must be null where stream.stages_by is whole, got True"):
        files(path=path, stages_by="whole", uneven=True)


def test_whole_numbers_in_groups_are_labels(tmp_path):
    path = json_file(tmp_path / "a.jsonl", [{**row, "label": LABELS.index(row["label"])} for row in rows()])
    assert [stage.labels for stage in files(path=path, groups=[[3, "1"], [0, 2]]).stages] == [("3", "1"), ("0", "2")]


def config_faults(tmp_path, section):
    config = tmp_path / "config.yaml"
    config.write_text(f"experiment: x\nmodel: {{name: tiny}}\nstream: {section}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(config)
    return caught.value.problems


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("groups: [[yes, no], [on, off]]", "YAML reads yes, no, on, off, true and false as truth values: put names in"),
        ("groups: [[a, null], [b]]", "YAML reads null, ~ and an empty place as no value: put names in quotes"),
        ("groups: [[a, 1.5]]", "YAML reads 1.5 as a number: put names in quotes, such as '1.5'"),
        ("order: [yes, no]", "YAML reads yes, no"),
        ("columns: {text: yes}", "YAML reads yes, no"),
        ("field: on", "YAML reads yes, no"),
    ],
)
def test_names_that_yaml_has_read_as_something_else_are_told(tmp_path, given, said):
    problems = config_faults(tmp_path, f"{{name: files, path: x, {given}}}")
    assert any(line.startswith(f"stream.{given.partition(':')[0]}: ") and said in line for line in problems)


@pytest.mark.parametrize("given", ["rows: {train: null}", "options: [yes]", "labels_per_stage: yes"])
def test_what_is_no_name_gets_no_hint_at_quotes(tmp_path, given):
    (problem,) = config_faults(tmp_path, f"{{name: files, path: x, {given}}}")
    assert "YAML" not in problem


def test_new_arguments_stay_out_of_a_section_that_does_not_set_them(tmp_path):
    def section(more=""):
        config = tmp_path / "config.yaml"
        config.write_text(f"experiment: x\nmodel: {{name: tiny}}\nstream: {{name: files, path: x{more}}}\n")
        return load_config(config).stream

    new = {"delimiter", "encoding", "missing", "test_fraction", "uneven"}
    assert not new & section().keys()
    assert section(", missing: error, delimiter: null, uneven: false") == section()
    assert section(", missing: drop, uneven: true").keys() & new == {"missing", "uneven"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """What a repository of the hub looks like once it is downloaded, with a row that has no label and no test split."""
    folder = tmp_path_factory.mktemp("reviews")
    names = [f"l{i}" for i in range(5)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names), "domain": Value("string")})
    (folder / "data").mkdir()
    codes = [i % 5 for i in range(50)] + [-1]
    content = {"text": [f"row {i}" for i in range(51)], "label": codes, "domain": ["d"] * 51}
    Dataset.from_dict(content, features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return str(folder)


def test_a_data_set_of_the_hub_without_test_split_is_carved_and_its_gaps_are_dropped(repository):
    given = {"dataset": repository, "revision": "main", "stages_by": "labels", "labels_per_stage": 2, "uneven": True}
    with pytest.raises(ConfigError, match=r"stream.splits: must name test, .*; stream.test_fraction=0.2 carves test"):
        hub(**given, splits={"train": "train"})
    with pytest.raises(ConfigError, match=r"stream.splits: .* has train, got .*; stream.test_fraction=0.2 carves test"):
        hub(**given, missing="drop")
    stream = hub(**given, missing="drop", test_fraction=0.2)
    assert sizes(stream) == [(14, 2, 4), (14, 2, 4), (7, 1, 2)]
    assert stream.notes[:2] == (
        "train: 1 row without text or label dropped, the first is row 50, counted from 0",
        "test carved from train: 20 % of rows",
    )


def test_settings_of_files_go_with_a_path_only(tmp_path, repository):
    with pytest.raises(
        ConfigError, match=r"^stream.encoding: must be null where stream.path is, as the hub is then read"
    ):
        hub(dataset=repository, revision="main", encoding="latin-1")
    path = table(tmp_path / "a.csv", rows(10, ("ä", "b")), "#", "latin-1")
    stream = hub(dataset="nobody/x", revision="main", path=path, delimiter="#", encoding="latin-1")
    assert stream.labels == ("b", "ä")
