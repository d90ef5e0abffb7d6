"""`cl-mlm predict`: new texts from the command line or a file, answers to the terminal or a file."""

import csv
import json

import pytest

import cl_mlm


@pytest.fixture
def texts():
    return ["snow snow snow", "sun  sun\tsun", "drum"]


def test_a_line_has_answer_probability_and_text(result, cli, texts):
    said = cli("predict", result.folder, *texts)
    assert said.code == 0
    lines = [line.split("\t") for line in said.out.splitlines()]
    found = result.predict(texts, scores=True)
    assert lines == [[label, f"{p:.4f}", " ".join(text.split())] for (label, p), text in zip(found, texts, strict=True)]


def test_an_earlier_stage_answers_with_its_own_labels(result, cli, texts):
    said = cli("predict", result.folder, *texts, "--stage", 0)
    assert {line.split("\t")[0] for line in said.out.splitlines()} <= {"cold", "hot"}


FILES = {
    "new.txt": "snow snow\n\n  \nsun\n",
    "new.csv": "id,text\n1,snow snow\n2,sun\n",
    "new.jsonl": '{"text": "snow snow"}\n{"text": "sun", "label": "never seen"}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_rows_come_from_a_file_and_answers_go_to_one(name, result, cli, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    rows, expected = ["snow snow", "sun"], result.predict(["snow snow", "sun"], scores=True)
    said = cli("predict", result.folder, "--file", tmp_path / name, "--output", tmp_path / "out.jsonl")
    assert said.out == f"written: {tmp_path / 'out.jsonl'} (2 rows)\n"
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == [
        {"text": text, "prediction": label, "probability": p} for text, (label, p) in zip(rows, expected, strict=True)
    ]
    cli("predict", result.folder, "--file", tmp_path / name, "--output", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        assert [(row["text"], row["prediction"]) for row in csv.DictReader(file)] == [
            (row["text"], row["prediction"]) for row in found
        ]


def test_a_file_may_name_its_columns_as_the_files_of_the_run_do(quick, write_rows, tmp_path, cli):
    rows = {
        split: [{"utterance": f"{label} {split} {i}", "intent": label} for i in range(4) for label in "abcd"]
        for split in ("train", "validation", "test")
    }
    write_rows(tmp_path / "own", **rows)
    quick["stream"] |= {"path": str(tmp_path / "own"), "columns": {"text": "utterance", "label": "intent"}}
    run = cl_mlm.run(quick, progress=False)
    for header in ("utterance", "text"):
        (tmp_path / "new.csv").write_text(f"{header}\na new one\n")
        said = cli("predict", run.folder, "--file", tmp_path / "new.csv")
        assert said.out.split("\t")[2] == "a new one\n", said.err


def test_a_file_may_be_written_as_the_files_of_the_run_are(quick, tmp_path, cli):
    folder = tmp_path / "own"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [f"{label} café {split} {i};{label}" for i in range(4) for label in "abcd"]
        (folder / f"{split}.csv").write_bytes("\n".join(["text;label", *rows]).encode("latin-1"))
    quick["stream"] |= {"path": str(folder), "encoding": "latin-1"}
    run = cl_mlm.run(quick, progress=False)
    for name, text in {"new.csv": "nr;text\n1;a café\n", "new.txt": "a café\n"}.items():
        for encoding in ("latin-1", "utf-8"):
            (tmp_path / name).write_bytes(text.encode(encoding))
            said = cli("predict", run.folder, "--file", tmp_path / name)
            assert said.code == 0, said.err
            assert said.out.endswith("a café\n")
    (tmp_path / "new.txt").write_bytes("a café €\n".encode("cp1252"))
    assert cli("predict", run.folder, "--file", tmp_path / "new.txt", "--encoding", "cp1252").out.endswith("a café €\n")


def test_answers_that_are_no_texts_are_json(mixed, cli):
    mixed["training"] |= {"steps": 1}
    run = cl_mlm.run(mixed, progress=False)
    said = cli("predict", run.folder, "look at ice", "--task", "tagging")
    tags, probability, words = said.out.rstrip("\n").split("\t")
    assert len(json.loads(tags)) == 3
    assert 0 <= float(probability) <= 1
    assert words == "look at ice"
