"""Rules of how a known data set is found, read, carved and cut to size."""

import json
from dataclasses import replace

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from cl_mlm.config.components import make_objective
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS
from streams._rows import take
from streams._sources import Limits, Source, find_local, load_splits

LABELS = ["bad", "good"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FEATURES = Features({"sentence": Value("string"), "label": ClassLabel(names=LABELS)})
NO_LIMITS = Limits({}, {})
CLASSIFICATION = make_objective("classification", {})


def source(**more):
    given = {"hub": "somebody/reviews", "revision": COMMIT, "splits": {"train": "train", "test": "test"}, **more}
    return Source(take(text="sentence", label="label"), (40, 0, 12), "CC0", "somewhere", **given)


def rows(split, number):
    return {"sentence": [f"{split} film {i}" for i in range(number)], "label": [i % 2 for i in range(number)]}


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """Puts a small data set in the hub's place; returns the arguments that it is asked with."""
    asked = []

    def load_dataset(*arguments, **named):
        asked.append((*arguments, named["revision"]))
        parts = {"train": 40, "test": 12, "more": 20}
        return DatasetDict({split: Dataset.from_dict(rows(split, n), FEATURES) for split, n in parts.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.delenv("CL_MLM_DATA", raising=False)
    return asked


@pytest.fixture
def folder(tmp_path):
    for split, number in (("train", 40), ("test", 12)):
        table = [{"text": f"{split} film {i}", "label": LABELS[i % 2]} for i in range(number)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    return tmp_path


def loaded(given, folder=None, limits=NO_LIMITS, objective=CLASSIFICATION):
    return load_splits("reviews", given, folder, objective, limits)


def test_the_hub_is_asked_at_the_revision(hub):
    loaded(source(subset="plain"))
    assert hub == [("somebody/reviews", "plain", COMMIT)]


def test_either_source_gives_the_same_rows(folder):
    from_hub, from_files = loaded(source())[0], loaded(source(), folder)[0]
    assert [from_hub[split].to_list() for split in SPLITS] == [from_files[split].to_list() for split in SPLITS]


def test_a_missing_split_is_carved_evenly_and_said():
    splits, notes = loaded(source())
    assert [len(splits[split]) for split in SPLITS] == [36, 4, 12]
    assert sorted(splits["validation"]["label"]) == ["bad", "bad", "good", "good"]
    assert notes == ["reviews: validation carved from train: 10 % of rows"]


def test_two_splits_of_the_hub_may_be_one_and_test_may_be_carved():
    given = source(splits={"train": "train+more"}, carve={"test": 0.2, "validation": 0.25})
    splits, _ = loaded(given)
    assert [len(splits[split]) for split in SPLITS] == [36, 12, 12]


@pytest.mark.parametrize("local", [True, False])
def test_limits_take_the_same_rows_evenly_over_labels(folder, local):
    limits = Limits({"test": 5}, {"train": 3})
    first, notes = loaded(source(), folder if local else None, limits)
    assert sorted(first["train"]["label"]) == ["bad"] * 3 + ["good"] * 3
    assert [len(first[split]) for split in SPLITS] == [6, 4, 5]
    assert notes[-1] == "reviews: 6 / 4 / 5 rows used"
    again, _ = loaded(source(), folder if local else None, limits)
    assert first["train"].to_list() == again["train"].to_list()


def test_limits_above_what_there_is_take_all():
    splits, notes = loaded(source(), limits=Limits({"test": 500}, {"train": 500}))
    assert [len(splits[split]) for split in SPLITS] == [36, 4, 12]
    assert "used" not in notes[-1]


def test_other_numbers_than_published_are_said(folder):
    (folder / "test.jsonl").write_text('{"text": "one", "label": "good"}\n')
    notes = loaded(source(), folder)[1]
    assert notes[0] == "reviews: local copy, 40 / 0 / 1 rows (train / validation / test); published 40 / 0 / 12"


@pytest.mark.parametrize("revision", [None, "refs/convert/parquet"])
def test_what_may_change_is_said(revision):
    told = loaded(source(revision=revision))[1][0]
    assert told == f"reviews: somebody/reviews at {revision or 'its newest revision'}, which may change"


def test_columns_of_a_local_copy_are_renamed(tmp_path):
    for split in ("train", "test"):
        table = [{"prompt": f"{split} {i}", "answer": str(i)} for i in range(20)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    given = source(local={"source": "prompt", "target": "answer"})
    splits, _ = loaded(given, tmp_path, objective=make_objective("text_to_text", {}))
    assert splits["test"][3] == {"source": "test 3", "target": "3"}


def test_rows_with_labels_that_train_lacks_are_left_out_where_the_source_says_so(folder):
    with (folder / "test.jsonl").open("a") as file:
        file.write('{"text": "x", "label": "odd"}\n')
    splits, notes = loaded(source(only_known=True), folder)
    assert len(splits["test"]) == 12
    assert notes[-1] == "reviews: 1 test rows with labels that train lacks left out"
    assert len(loaded(source(), folder)[0]["test"]) == 13


def test_tagged_rows_are_carved_by_their_rarest_type(tmp_path):
    common = {"tokens": ["to", "Oslo"], "tags": ["O", "B-city"]}
    rare = {"tokens": ["Oslo", "today"], "tags": ["B-city", "B-day"]}
    for split in ("train", "test"):
        table = [common] * 20 + [rare] * 10
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    splits, _ = loaded(source(), tmp_path, objective=make_objective("tagging", {}))
    assert sum("B-day" in tags for tags in splits["validation"]["tags"]) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"hub": None},
            "reviews: no copy on the hub is known .*; give stream.path, or put a folder reviews into CL_MLM",
        ),
        ({"splits": {"train": "train", "test": "tset"}}, "must have the splits tset, got train, test, more"),
        ({"splits": {"train": "train"}}, "reviews: must have a test split, got train, validation"),
    ],
)
def test_what_cannot_be_read_is_refused(given, message):
    with pytest.raises(DataError, match=message):
        loaded(source(**given))


def test_a_hub_whose_rows_lack_a_column_is_refused():
    given = replace(source(), rows=take(text="review", label="label"))
    with pytest.raises(
        DataError, match=r"reviews train: the hub's rows must have a column 'review', got sentence, label"
    ):
        loaded(given)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no route"), "HF_HUB_OFFLINE is set, and the cache does not hold it"),
        (RuntimeError("Dataset scripts are no longer supported"), "Dataset scripts are no longer supported"),
    ],
)
def test_a_hub_out_of_reach_or_a_script_is_told_with_the_way_round(monkeypatch, error, reason):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=f"somebody/reviews at {COMMIT}: .*{reason}; .*give stream.path, or"):
        loaded(source())


@pytest.mark.parametrize(
    ("rows", "per_label", "message"),
    [
        ({"tets": 1}, {}, "stream.max_rows: must name train, validation or test, got 'tets' .did you mean 'test'"),
        ({"test": 0}, {}, "stream.max_rows.test: must be at least 1, got 0"),
        ({}, {"train": 0}, "stream.max_rows_per_label.train: must be at least 1, got 0"),
    ],
)
def test_limits_that_mean_nothing_are_refused(rows, per_label, message):
    with pytest.raises(ConfigError, match=message):
        Limits(rows, per_label)


def test_rows_without_label_cannot_be_limited_by_label(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(json.dumps({"source": f"{split} {i}", "target": "a"}) + "\n" for i in range(20))
        )
    with pytest.raises(ConfigError, match=r"stream.max_rows_per_label: the rows of reviews have no label"):
        loaded(source(), tmp_path, Limits({}, {"train": 5}), make_objective("text_to_text", {}))


def test_a_local_copy_is_looked_for_by_all_its_names(tmp_path, monkeypatch):
    (tmp_path / "films80").mkdir()
    given = source(folders=("films80",))
    assert find_local("reviews", given, str(tmp_path)) == tmp_path / "films80"
    assert find_local("reviews", given, None) is None
    monkeypatch.setenv("CL_MLM_DATA", str(tmp_path))
    assert find_local("reviews", given, None) == tmp_path / "films80"
    (tmp_path / "reviews").mkdir()
    assert find_local("reviews", given, None) == tmp_path / "reviews"
