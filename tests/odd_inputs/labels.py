"""Labels and the rows that have them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.odd_inputs.case import CONFIG, ROWS, Case, Files, data

TEST = ROWS.replace("\na ", "\nb ")
FOLD, DROP = "stream.labels=fold", "stream.unseen_labels=drop"
PER_STAGE = "stream.labels_per_stage=null"


def lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def files(objective: str, row: Callable[[str, str], dict[str, Any]], odd: str) -> Files:
    """Returns rows of one stage with the labels `red` and `blue`; one test row has the label `odd`."""
    splits = {split: [row(f"{split} {i}", "red" if i % 2 else "blue") for i in range(8)] for split in ("train", "test")}
    splits["test"].append(row("odd one", odd))
    stream = f"{{name: files, path: data, stages_by: whole, objective: {objective}}}"
    config = CONFIG.replace("{name: files, path: data, labels_per_stage: 2, order_seed: null}", stream)
    return {"config.yaml": config} | {f"data/{split}.jsonl": lines(rows) for split, rows in splits.items()}


def multilabel(text: str, label: str) -> dict[str, Any]:
    return {"text": text, "labels": [label]}


def tagging(text: str, label: str) -> dict[str, Any]:
    words = text.split()
    return {"tokens": words, "tags": ["O"] * (len(words) - 1) + [f"B-{label}"]}


def relation(text: str, label: str) -> dict[str, Any]:
    return {"tokens": text.split(), "head": [0, 1], "tail": [1, 2], "label": label}


def with_domains(rows: str) -> str:
    """Returns the rows with a column `domain`: `home` for two labels, `home ` for the other two."""
    domains = {"red": "home", "blue": "home", "green": "home ", "grey": "home "}
    lines_of_rows = [f"{line},{domains[line.rpartition(',')[2]]}" for line in rows.splitlines()[1:]]
    return "\n".join(["text,label,domain", *lines_of_rows]) + "\n"


CASES = [
    Case(
        given="a label with a trailing blank in test",
        says="labels must not look the same, got 'red' (40 rows) and 'red ' (1 row); stream.labels=fold makes them one",
        files=data(test=TEST + "b,red \n"),
    ),
    Case(
        given="a label with a no-break space in train",
        says=r"labels must not look the same, got 'red' (40 rows) and 'red\xa0' (1 row)",
        files=data(train=ROWS + "b,red\u00a0\n"),
    ),
    Case(
        given="a label in full-width letters, `labels: fold`",
        says="labels folded: 'ｒｅｄ' (1 row)",
        code=0,
        command=("check", "config.yaml", FOLD),
        files=data(test=TEST + "b,ｒｅｄ\n"),
    ),
    Case(
        given="a label with a character that nobody sees",
        says=r"labels must not look the same, got 'red' (40 rows) and 'r\u200bed' (1 row)",
        files=data(test=TEST + "b,r\u200bed\n"),
    ),
    Case(
        given="a label that shows nothing",
        says=r"labels must have a visible character, got '\u200b' (20 rows)",
        files=data(train=ROWS.replace(",grey", ",\u200b"), test=TEST.replace(",grey", ",green")),
    ),
    Case(
        given="a set of labels with a trailing blank in one",
        says="labels must not look the same, got 'red' (8 rows) and 'red ' (1 row)",
        files=files("multilabel", multilabel, "red "),
    ),
    Case(
        given="an entity type with a trailing blank",
        says="labels must not look the same, got 'red' (8 rows) and 'red ' (1 row)",
        files=files("tagging", tagging, "red "),
    ),
    Case(
        given="a relation with a trailing blank",
        says="labels must not look the same, got 'red' (8 rows) and 'red ' (1 row)",
        files=files("relation", relation, "red "),
    ),
    Case(
        given="labels that differ in case only",
        says="labels that differ in upper and lower case only: 'Grey' (40 rows) and 'grey' (40 rows)",
        code=0,
        command=("check", "config.yaml", "stream.labels_per_stage=5"),
        files=data(
            train=ROWS + "".join(f"c {i},Grey\n" for i in range(20)),
            test=TEST + "".join(f"d {i},Grey\n" for i in range(20)),
        ),
    ),
    Case(
        given="a label in test that train lacks",
        says="test: train has no row of 'plum', test has 1; stream.unseen_labels=drop leaves such rows out",
        command=("check", "config.yaml", "stream.labels_per_stage=5"),
        files=data(test=TEST + "b,plum\n"),
    ),
    Case(
        given="a label in test that train lacks, alone in its stage",
        says="train has no row of 'plum' (train 0, validation 0, test 1); give them training rows, or leave the stage",
        command=("check", "config.yaml", "stream.groups=[[red, blue, green, grey], [plum]]", PER_STAGE),
        files=data(test=TEST + "b,plum\n"),
    ),
    Case(
        given="a label in test that train lacks, alone in its stage, `unseen_labels: drop`",
        says="stages left out, as no training row has a label of theirs: 1 of 2, 'labels-02' with 'plum'",
        code=0,
        command=("check", "config.yaml", "stream.groups=[[red, blue, green, grey], [plum]]", PER_STAGE, DROP),
        files=data(test=TEST + "b,plum\n"),
    ),
    Case(
        given="a label in train that test lacks, alone in its stage",
        says="'labels-02' test: must have rows, got none; its labels are 'plum' (train 18, validation 2, test 0)",
        command=("check", "config.yaml", "stream.groups=[[red, blue, green, grey], [plum]]", PER_STAGE),
        files=data(train=ROWS + "".join(f"c {i},plum\n" for i in range(20))),
    ),
    Case(
        given="an entity type in test that train lacks, `unseen_labels: drop`",
        says="labels without training rows: 0 validation and 1 test rows dropped, with 'plum' (1 row)",
        code=0,
        command=("check", "config.yaml", DROP),
        files=files("tagging", tagging, "plum"),
    ),
    Case(
        given="a label in train that test lacks",
        says="labels with training rows and without test rows: 'plum' (18 rows)",
        code=0,
        command=("check", "config.yaml", "stream.labels_per_stage=5"),
        files=data(train=ROWS + "".join(f"c {i},plum\n" for i in range(20))),
    ),
    Case(
        given="one text with two labels",
        says="conflicting train rows, kept: 1 input has several answers in 2 rows: 'a red 0' is",
        code=0,
        command=("check", "config.yaml", "stream.validation_fraction=0.05"),
        files=data(train=ROWS + "a red 0,blue\n"),
    ),
    Case(
        given="a training row that is a test row in capitals, under a tokenizer that folds case",
        says="1 training and 0 validation rows differ in letter case only",
        command=("check", "config.yaml", "stream.validation_fraction=0.05"),
        files=data(train=ROWS + "B RED 0,red\n"),
    ),
    Case(
        given="a domain with a trailing blank, stages by domain",
        says="stages 'home' and 'home ': names must not look the same",
        command=(
            "check",
            "config.yaml",
            "stream.stages_by=field",
            "stream.field=domain",
            "stream.labels_per_stage=null",
        ),
        files=data(*(with_domains(text) for text in (ROWS, TEST))),
    ),
    Case(
        given="an unknown value of `labels`",
        says="stream.labels: must be one of error, fold, got 'drop'",
        command=("check", "config.yaml", "stream.labels=drop"),
        files=data(),
    ),
]
