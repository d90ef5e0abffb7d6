import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from cl_mlm.errors import ConfigError, DataError
from streams.hub import hub

NAMES = ["bad", "good"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.delenv("CL_MLM_DATA", raising=False)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """What a repository of the hub looks like once it is downloaded: Parquet with class numbers, no test labels."""
    folder = tmp_path_factory.mktemp("reviews")
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=NAMES), "genre": Value("string")})
    (folder / "data").mkdir()
    for split, number in {"train": 40, "validation": 12, "test": 6}.items():
        table = {
            "sentence": [f"{split} film {i}" for i in range(number)],
            "label": [-1 if split == "test" else i % 2 for i in range(number)],
            "genre": [("drama", "comedy")[i // 2 % 2] for i in range(number)],
        }
        Dataset.from_dict(table, features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


def made(repository, **more):
    given = {"splits": {"train": "train", "test": "validation"}, "columns": {"text": "sentence"}, **more}
    return hub(dataset=repository, revision="main", **given)


def test_one_stage_with_names_of_classes_and_a_carved_validation_split(repository):
    stream = made(repository)
    (stage,) = stream.stages
    assert stage.labels == ("bad", "good")
    assert stage.test["text"][:2] == ["validation film 0", "validation film 1"]
    assert stage.test["label"][:2] == ["bad", "good"]
    assert (len(stage.train), len(stage.validation), len(stage.test)) == (36, 4, 12)
    assert stream.notes == ("validation carved from train: 10 % of rows",)


def test_the_same_rows_are_picked_every_time(repository):
    first, second = (made(repository, rows={"train": 10, "test": 5}) for _ in range(2))
    assert (len(first.stages[0].train), len(first.stages[0].test)) == (10, 5)
    assert first.fingerprint == second.fingerprint
    assert "train: 10 rows picked" in first.notes


def test_stages_by_label_and_by_field(repository):
    by_label = made(repository, stages_by="labels", labels_per_stage=1, order_seed=None)
    assert [stage.labels for stage in by_label.stages] == [("bad",), ("good",)]
    by_genre = made(repository, stages_by="field", field="genre", order_seed=None)
    assert [stage.name for stage in by_genre.stages] == ["comedy", "drama"]
    assert by_genre.scenario == "domain_incremental"


def test_rows_without_label_are_refused_where_they_are_read(repository):
    with pytest.raises(DataError, match="6 rows have no label"):
        made(repository, splits=None)


def test_a_folder_is_read_instead(tmp_path):
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{split} {i}", "label": NAMES[i % 2]} for i in range(6)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (stage,) = hub(dataset="nobody/reviews", revision="main", path=str(tmp_path), columns={"text": "sentence"}).stages
    assert (stage.name, stage.source, len(stage.train)) == ("reviews", "nobody/reviews", 6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stages_by": "domain"}, "stream.stages_by: must be whole, labels or field, got 'domain'"),
        ({"stages_by": "field"}, "stream.field: must name a column"),
        ({"field": "genre"}, "stream.field: must name a column"),
        ({"labels_per_stage": 1}, "stream.labels_per_stage: must be null where stages_by is whole, got 1"),
        ({"splits": {"train": "train"}}, "stream.splits: must name test"),
        (
            {"splits": {"train": "train", "tset": "test"}},
            "stream.splits: must name train, validation or test, got 'tset'",
        ),
        (
            {"splits": {"train": "train", "test": "nowhere"}},
            "stream.splits: .* has train, validation, test, got nowhere",
        ),
        ({"rows": {"train": 0}}, "stream.rows.train: must be at least 1, got 0"),
        ({"rows": {"train": 99}}, "stream.rows.train: must be at most 36, got 99"),
        ({"columns": {"text": "review"}}, "stream.columns: no column 'review'; allowed: sentence, label, genre"),
    ],
)
def test_what_does_not_fit_is_refused(repository, given, message):
    with pytest.raises(ConfigError, match=message):
        made(repository, **given)


def test_a_hub_out_of_reach_is_told_with_the_way_round(monkeypatch):
    def unreachable(*arguments, **named):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(
        DataError, match=r"nobody/reviews at main: cannot be read from the hub: HF_HUB_OFFLINE is set.*; stream.path"
    ):
        hub(dataset="nobody/reviews", revision="main")


def test_splits_that_are_not_read_are_noted(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test", "odd"):
        rows = [{"text": f"{split} {i}", "label": "ab"[i % 2]} for i in range(20)]
        Dataset.from_list(rows).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - {{split: {split}, path: data/{split}-*}}\n" for split in ("train", "test", "odd"))
        + "---\n"
    )
    given = {"dataset": str(tmp_path), "revision": "main"}
    assert hub(**given).notes[0] == "not read, as stream.splits does not name them: odd"
    named = hub(**given, splits={"train": "train", "test": "test"})
    assert not any(note.startswith("not read") for note in named.notes)
