"""Rows in memory: forms that are taken, and typical mistakes told in words."""

from dataclasses import replace

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

import cl_mlm
from cl_mlm.data import by_field, by_labels, by_source, by_types, carve_validation
from cl_mlm.errors import DataError
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
        ({**SETS, "train": [{"text": "a", "label": 3}]}, "mine train: column 'label' must hold strings, got int64"),
        ({**SETS, "train": [{"text": "a", "label": "x"}, {"text": "b"}]}, "mine train: 1 rows have no label"),
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
