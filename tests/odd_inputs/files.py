"""Files of rows: separators, encodings, gaps, columns, splits."""

from pathlib import Path

from tests.odd_inputs.case import CONFIG, ROWS, Case, data

TEST = ROWS.replace("\na ", "\nb ")
FEW = "text,label\n" + "".join(f"a {word} {i},{word}\n" for word in ("red", "blue", "green", "grey") for i in range(6))
ONE_FILE = CONFIG.replace("path: data", "path: data.csv")


def latin_1(text: str) -> bytes:
    return text.replace("red", "röd").encode("latin-1")


def saved(path: Path) -> None:
    """Writes the rows as `datasets.DatasetDict.save_to_disk` does, labels as class numbers."""
    from datasets import ClassLabel, Dataset, DatasetDict

    parts = {}
    for split, text in {"train": ROWS, "test": TEST}.items():
        texts, labels = zip(*(line.split(",") for line in text.splitlines()[1:]), strict=True)
        rows = Dataset.from_dict({"text": list(texts), "label": list(labels)})
        parts[split] = rows.cast_column("label", ClassLabel(names=sorted(set(labels))))
    DatasetDict(parts).save_to_disk(str(path))


CASES = [
    Case(
        given="CSV with semicolons",
        says="columns are separated by ';'",
        code=0,
        files=data(ROWS.replace(",", ";"), TEST.replace(",", ";")),
    ),
    Case(
        given="a Latin-1 file without `encoding`",
        says="encoding: cp1252 or latin-1",
        files=data() | {"data/train.csv": latin_1(ROWS)},
    ),
    Case(
        given="the same with `encoding: latin-1`",
        says="good to run",
        code=0,
        command=("check", "config.yaml", "stream.encoding=latin-1"),
        files=data() | {"data/train.csv": latin_1(ROWS), "data/test.csv": latin_1(TEST)},
    ),
    Case(
        given="a UTF-16 file, as Excel writes it",
        says="is not UTF-8 but UTF-16: set encoding: utf-16",
        files=data() | {"data/train.csv": ROWS.encode("utf-16")},
    ),
    Case(
        given="lines that end in CR alone",
        says="good to run",
        code=0,
        files=data(ROWS.replace("\n", "\r"), TEST.replace("\n", "\r")),
    ),
    Case(
        given="a file with NUL bytes",
        says="data/train.csv:2: must hold no NUL byte, got one at position 1",
        files=data(ROWS.replace("a red 0", "\0a red 0")),
    ),
    Case(
        given="one file with all rows",
        says="test carved from data.csv: 20 % of rows",
        code=0,
        files={"config.yaml": ONE_FILE, "data.csv": ROWS},
    ),
    Case(
        given="a folder without test file",
        says="stream.test_fraction=0.2 carves one from train",
        files={"config.yaml": CONFIG, "data/train.csv": ROWS},
    ),
    Case(
        given="four labels of six rows each, without validation file",
        says="every label of two training rows or more has given a validation row",
        code=0,
        files=data(FEW),
    ),
    Case(
        given="a folder that `DatasetDict.save_to_disk` has written",
        says="good to run",
        code=0,
        files={"config.yaml": CONFIG, "data": saved},
    ),
    Case(
        given="an Excel file",
        says="train.xlsx is a spreadsheet: export it as CSV",
        files={"config.yaml": CONFIG, "data/train.xlsx": b"PK\x03\x04", "data/test.csv": TEST},
    ),
    Case(
        given="columns of other names",
        says="set columns: {text: utterance, label: intent}",
        files=data(ROWS.replace("text,label", "utterance,intent"), TEST.replace("text,label", "utterance,intent")),
    ),
    Case(
        given="hundreds of rows without a label",
        says="no label in 312 rows, first at lines 82, 83, 84; line 82: got ''; missing: drop leaves such rows out",
        files=data(ROWS + "".join(f"no label {i},\n" for i in range(312))),
    ),
    Case(
        given="the same with `missing: drop`",
        says="train.csv: 312 rows without label dropped, first at lines 82, 83, 84",
        code=0,
        command=("check", "config.yaml", "stream.missing=drop"),
        files=data(ROWS + "".join(f"no label {i},\n" for i in range(312))),
    ),
    Case(
        given="`labels_per_stage` that does not divide",
        says="must divide 4, got 3; allowed: 1, 2, 4; uneven: true leaves a smaller last stage, groups",
        command=("check", "config.yaml", "stream.labels_per_stage=3"),
        files=data(),
    ),
    Case(
        given="`groups` of yes, no, on, off without quotes",
        says="YAML reads yes, no, on, off, true and false as truth values: put names in quotes",
        files=data(config=CONFIG.replace("labels_per_stage: 2", "groups: [[yes, no], [on, off]]")),
    ),
    Case(
        given="domains with labels of their own",
        says="where stages bring labels of their own, set stream.scenario: class_incremental",
        files={"config.yaml": CONFIG.replace("labels_per_stage: 2", "stages_by: field, field: domain")}
        | {
            f"data/{split}.csv": "text,label,domain\n"
            + "".join(f"{split} {i} {x},{x},{'home' if x < 'c' else 'work'}\n" for i in range(20) for x in "abcd")
            for split in ("train", "test")
        },
    ),
]
