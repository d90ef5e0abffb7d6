"""Rows in memory: forms that are taken, and typical mistakes told in words."""

from dataclasses import replace

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

import cl_mlm
from cl_mlm.data import by_field, by_labels, by_source, by_types, carve_validation
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS, Stage, Stream


def table(split, labels="abcd"):
    return [
        {"text": f"{label} {split} {i}", "label": label, "domain": "uv"[i % 2]} for i in range(4) for label in labels
    ]


TABLES = {split: table(split) for split in SPLITS}
SETS = {split: Dataset.from_list(rows) for split, rows in TABLES.items()}


@pytest.mark.parametrize(
    "make",
    [
        lambda: TABLES,
        lambda: {split: pd.DataFrame(rows) for split, rows in TABLES.items()},
        lambda: {split: dict(pd.DataFrame(rows)) for split, rows in TABLES.items()},
        lambda: {split: (row for row in rows) for split, rows in TABLES.items()},
        lambda: DatasetDict(SETS),
    ],
)
def test_usual_forms_make_the_same_stream(make):
    expected = by_labels(SETS, name="mine", labels_per_stage=2)
    assert by_labels(make(), name="mine", labels_per_stage=2).fingerprint == expected.fingerprint
    assert by_field(make(), "domain", name="mine").fingerprint == by_field(SETS, "domain", name="mine").fingerprint
    assert len(by_source({"one": make()}, name="mine").stages[0].train) == 16


def labelled(*labels):
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


NUMBERED = {
    split: [{**row, "label": "abcd".index(row["label"])} for row in rows if row["label"] != "d"]
    for split, rows in TABLES.items()
}


@pytest.mark.parametrize("form", [list, pd.DataFrame, Dataset.from_list], ids=["list", "frame", "data set"])
def test_labels_that_are_whole_numbers_become_strings(form):
    splits = {split: form(rows) for split, rows in NUMBERED.items()}
    stream = by_labels(splits, name="mine", groups=[[0, 2], [1]])
    assert [stage.labels for stage in stream.stages] == [("0", "2"), ("1",)]
    assert {*stream.stages[0].train["label"][:]} == {"0", "2"}
    assert by_source({"one": splits}, name="mine").labels == ("0", "1", "2")
    assert by_field(splits, "domain", name="mine").labels == ("0", "1", "2")


def test_class_numbers_become_their_names_in_the_order_of_the_data_set():
    feature = ClassLabel(names=["red", "blue", "green"])
    splits = {split: Dataset.from_list(rows).cast_column("label", feature) for split, rows in NUMBERED.items()}
    stream = by_labels({**splits, "train": splits["train"].select([2, 1, 0])}, name="mine", labels_per_stage=3)
    assert stream.labels == ("blue", "green", "red")
    assert stream.stages[0].train["label"][:] == ["green", "blue", "red"]
    assert stream.stages[0].train["domain"][:] == ["u"] * 3


def test_a_gap_in_a_column_that_is_not_used_stays_a_gap():
    rows = [{**row, "remark": float("nan") if i else "x"} for i, row in enumerate(TABLES["train"])]
    stream = by_labels({**SETS, "train": rows}, name="mine", labels_per_stage=4)
    assert stream.stages[0].train["remark"][:3] == ["x", None, None]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"labels_per_stage": "2"}, "stream.labels_per_stage: must be a whole number or None, got '2'"),
        ({"labels_per_stage": 2.0}, "stream.labels_per_stage: must be a whole number or None, got 2.0"),
        ({"labels_per_stage": True}, "stream.labels_per_stage: must be a whole number or None, got True"),
        ({"order_seed": "1"}, "stream.order_seed: must be a whole number or None, got '1'"),
        ({"scenario": "nix"}, "stream.scenario: must be one of class_incremental, .*, got 'nix'"),
        ({"scenario": "class-incremental"}, r"did you mean 'class_incremental'\?"),
        ({"scenario": None}, "stream.scenario: must be one of class_incremental, .*, got None"),
        ({"name": None}, "name: must be a string that is not empty, got None"),
        ({"name": " "}, "name: must be a string that is not empty, got ' '"),
        ({"labels_per_stage": None, "groups": "abcd"}, "stream.groups: must be a list of lists of labels, got 'abcd'"),
        ({"labels_per_stage": None, "groups": ["ab", "cd"]}, "stream.groups: must be a list of lists of labels, got"),
        ({"uneven": "yes"}, "stream.uneven: must be True or False, got 'yes'"),
        ({"notes": "a note"}, "notes: must be a list of strings, got 'a note'"),
    ],
)
def test_arguments_of_other_types_are_told(arguments, said):
    with pytest.raises(ConfigError, match=said):
        by_labels(SETS, **{"name": "mine", "labels_per_stage": 2} | arguments)


def test_arguments_of_the_other_helpers_are_told_too():
    with pytest.raises(ConfigError, match=r"stream.types_per_stage: must be a whole number or None, got '1'"):
        by_types(SETS, name="mine", types_per_stage="1")
    with pytest.raises(ConfigError, match=r"stream.order: must be a list of strings, got 'uv'"):
        by_field(SETS, "domain", name="mine", order="uv")
    with pytest.raises(ConfigError) as caught:
        by_source({"one": SETS}, name=3, scenario="online")
    assert len(caught.value.problems) == 2


class Torch:
    """What people write for a data loader."""

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return ("text", "label")


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ([1], r"mine: must be given {'train': ..., 'validation': ..., 'test': ...}, got list"),
        (SETS["train"], "mine: must be given .*, got datasets.arrow_dataset.Dataset"),
        (
            {**SETS, "validation": None},
            "mine validation: must be a datasets.Dataset, .*, got NoneType",
        ),
        (
            {"train": SETS["train"], "test": SETS["test"]},
            "needs the split 'validation', .*carve_validation takes",
        ),
        ({"train": SETS["train"], "valdation": SETS["test"]}, r"\(did you mean 'valdation'\?\)"),
        ({**SETS, "train": Torch()}, "mine train: must be a datasets.Dataset, .*, got .*Torch"),
        ({**SETS, "train": "train.csv"}, "mine train: must be a datasets.Dataset, .*, got str"),
        ({**SETS, "train": ["a", "b"]}, "mine train: a row must be a dict, got 'a' as row 0"),
        ({**SETS, "train": DatasetDict(SETS)}, "mine train: must be the rows of one split, got the splits train"),
        (
            {**SETS, "train": [{"text": "a", "lable": "x"}]},
            r"needs the column 'label', .*did you mean 'lable'",
        ),
        ({**SETS, "train": []}, "mine train: needs the column 'label', has none"),
        ({**SETS, "train": labelled(2, 1.5)}, "or whole numbers, got float 2.0 in row 0; write labels as strings"),
        ({**SETS, "train": labelled(True)}, "must hold strings or whole numbers, got bool True in row 0"),
        ({**SETS, "train": labelled(None)}, "mine train: 1 row has no label, first row 0; fill it in, or leave"),
        ({**SETS, "train": pd.DataFrame(labelled(1, None))}, "mine train: 1 row has no label, first row 1; fill"),
        ({**SETS, "train": pd.DataFrame(labelled("x", None))}, "mine train: 1 row has no label, first row 1; fill"),
        ({**SETS, "train": labelled("x", float("nan"))}, "mine train: 1 row has no label, first row 1; fill"),
        ({**SETS, "train": labelled("x", "y", 3)}, "column 'label' has str 'x' in row 0 and int 3 in row 2"),
        (
            {**SETS, "train": {"text": ["a", float("nan")], "label": ["x", "y"]}},
            "mine train: 1 row has no text, first row 1; fill it in, or leave such rows out",
        ),
        ({**SETS, "train": [{"text": "a", "label": "x"}, {"text": "b"}]}, "mine train: 1 row has no label"),
        ({**SETS, "train": {"text": ["a"], "label": ["x", "y"]}}, "mine train: columns must be of equal length"),
        ({**SETS, "train": {"text": "a", "label": ["x"]}}, "mine train: a dict must hold a list for each column"),
        ({**SETS, "train": [{"text": "a", "label": "x"}, {"text": "b", "label": ["x"]}]}, "must be of one type"),
    ],
)
def test_typical_mistakes_are_told(splits, said):
    with pytest.raises(DataError, match=said):
        by_labels(splits, name="mine", labels_per_stage=2)


def test_the_other_helpers_tell_too():
    with pytest.raises(DataError, match="mine: needs the split 'test'"):
        by_field({"train": TABLES["train"], "validation": []}, "domain", name="mine")
    with pytest.raises(DataError, match="mine: must be given a mapping from stages to their splits, got list"):
        by_source([SETS], name="mine")
    with pytest.raises(DataError, match=r"mine one: must be given .*, got int"):
        by_source({"one": 3}, name="mine")
    with pytest.raises(DataError, match="mine train: needs the column 'tokens'"):
        by_types(SETS, name="mine", types_per_stage=1)
    with pytest.raises(DataError, match=r"train: must be a datasets.Dataset, .*, got int"):
        carve_validation(3, 0.1, 0)
    assert len(carve_validation(TABLES["train"], 0.25, 0)[1]) == 4


def stage(**fields):
    return Stage(**({"name": "one", "labels": ("a", "b", "c", "d"), **SETS} | fields))


GOOD = Stream("mine", (stage(),))


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (replace(GOOD, stages=stage()), "stream 'mine': stages must be a tuple of cl_mlm.Stage, got Stage"),
        (replace(GOOD, stages=[SETS]), "stages must be a tuple of cl_mlm.Stage, got"),
        (replace(GOOD, stages=(s for s in ())), "stages must be a tuple of cl_mlm.Stage, got <generator"),
        (replace(GOOD, scenario="class-incremental"), r"scenario must be one of .*did you mean 'class_incremental'\?"),
        (
            replace(GOOD, stages=(stage(train=TABLES["train"]),)),
            "'one' train: must be a datasets.Dataset, got list",
        ),
        (replace(GOOD, stages=(stage(test=None),)), "stage 'one' test: must be a datasets.Dataset, got NoneType"),
        (replace(GOOD, stages=(stage(labels="abcd"),)), "stage 'one': labels must be a tuple of strings, got 'abcd'"),
        (replace(GOOD, stages=(stage(labels=(1, 2)),)), r"labels must be a tuple of strings, got \(1, 2\)"),
        (replace(GOOD, stages=(stage(labels=None),)), "labels must be a tuple of strings, got None"),
        (replace(GOOD, stages=(stage(name=3),)), "stage 3: name must be a string that is not empty, got int"),
        (
            replace(GOOD, stages=(stage(), stage())),
            "a stage's name must be unique, 2 stages have this one",
        ),
        (replace(GOOD, stages=()), "stream 'mine': must have at least one stage, got none"),
    ],
)
def test_streams_with_other_fields_are_told(stream, said, fast):
    with pytest.raises(DataError, match=said):
        cl_mlm.run(fast, stream=stream)
