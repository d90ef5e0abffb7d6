"""What `datasets` has saved, names of files in any case, and folders that lack a split."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value

from cl_mlm.data.file_format import Reading
from cl_mlm.data.files import find_data, find_folder, read_file, read_splits
from cl_mlm.errors import ConfigError, DataError

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
TAGGED = Features({"tokens": Sequence(Value("string")), "tags": Sequence(ClassLabel(names=["O", "B-x", "I-x"]))})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CL_MLM_DATA", raising=False)


def dataset(name="x", codes=(1, 0)):
    return Dataset.from_dict({"text": [f"{name} {i}" for i in range(len(codes))], "label": [*codes]}, features=FEATURES)


@pytest.mark.parametrize("validation", ["validation", "dev", "valid", "eval"])
def test_a_saved_dict_of_data_sets_is_a_folder_of_splits_with_names_of_classes(tmp_path, validation):
    names = ("train", validation, "test")
    DatasetDict({name: dataset(name) for name in names}).save_to_disk(str(tmp_path / "saved"))
    splits = read_splits(tmp_path / "saved")
    assert [*splits] == ["train", "validation", "test"]
    assert splits["validation"].to_list()[0] == {"text": f"{validation} 0", "label": "yes"}


def test_a_saved_data_set_for_each_split_goes_with_other_files(tmp_path):
    dataset("train").save_to_disk(str(tmp_path / "train"))
    (tmp_path / "test.csv").write_text("text,label\nx,yes\n")
    splits = read_splits(tmp_path)
    assert splits["train"]["label"][:] == ["yes", "no"]


def test_columns_are_renamed_and_faults_name_the_row_of_a_saved_data_set(tmp_path):
    folder = tmp_path / "saved"
    dataset(codes=(1, -1, 0)).rename_column("text", "body").save_to_disk(str(folder))
    reading = Reading({"text": "body"}, missing="drop")
    rows, notes = read_file(folder, reading, ("text", "label"))
    assert (rows["label"][:], notes) == (["yes", "no"], ["1 row without label dropped, at row 2"])
    with pytest.raises(DataError) as caught:
        read_file(folder, Reading(), ("text", "label"))
    assert caught.value.problems[0].endswith("columns: body, label; set columns: {text: body}")


def test_a_saved_data_set_with_chosen_rows_is_read_as_it_shows(tmp_path):
    dataset("r", (1, 0, 1, 0)).select([2, 0]).save_to_disk(str(tmp_path / "saved"))
    assert read_file(tmp_path / "saved", Reading(), ("text",))[0]["text"][:] == ["r 2", "r 0"]


def test_class_numbers_in_lists_are_names_too(tmp_path):
    tagged = Dataset.from_dict({"tokens": [["a", "b"]], "tags": [[1, 2]]}, features=TAGGED)
    tagged.save_to_disk(str(tmp_path / "saved"))
    tagged.to_parquet(tmp_path / "a.parquet")
    for path in (tmp_path / "saved", tmp_path / "a.parquet"):
        assert read_file(path, Reading(), ("tokens", "tags"))[0]["tags"][:] == [["B-x", "I-x"]]


def test_a_changed_saved_data_set_is_read_anew(tmp_path):
    dataset("old").save_to_disk(str(tmp_path / "a"))
    read_file(tmp_path / "a", Reading(), ("text",))
    dataset("new").save_to_disk(str(tmp_path / "b"))
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    assert read_file(tmp_path / "a", Reading(), ("text",))[0]["text"][0] == "new 0"


def test_names_of_files_may_be_in_any_case(tmp_path):
    (tmp_path / "Train.CSV").write_text("text,label\nx,a\n")
    (tmp_path / "TEST.Jsonl").write_text('{"text": "y", "label": "a"}\n')
    assert {split: rows["text"][0] for split, rows in read_splits(tmp_path).items()} == {"train": "x", "test": "y"}
    (tmp_path / "train.tsv").write_text("text\tlabel\nx\ta\n")
    with pytest.raises(DataError, match=r"must have one train file, got Train.CSV, train.tsv"):
        read_splits(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"train.csv": "text,label\nx,a\n"},
            "must have a test file, .*; stream.test_fraction=0.2 carves one from train",
        ),
        ({"data.csv": "", "test.xlsx": ""}, r"must have a train file, .*; path: \S+data.csv reads that file alone"),
        ({"train.xlsx": ""}, "must have a train file, .*: train.xlsx is a spreadsheet: export it as CSV"),
        ({"train.csv.gz": ""}, "must have a train file, .*: train.csv.gz is packed: unpack it first"),
        ({"notes.md": ""}, "must have a train file, .*; it holds notes.md"),
    ],
)
def test_a_folder_without_a_split_is_told_with_the_way_out(tmp_path, files, said):
    folder = tmp_path / "own"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(DataError, match=said):
        read_splits(folder)


def test_a_file_is_found_as_given_or_in_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").touch()
    monkeypatch.setenv("CL_MLM_DATA", str(tmp_path / "data"))
    assert find_data("a.csv") == tmp_path / "data" / "a.csv"
    with pytest.raises(ConfigError, match=r"^stream.path: must be a folder, got 'a.csv'"):
        find_folder("a.csv")
    with pytest.raises(ConfigError, match=r"^stream.path: must be a folder or file, got 'b.csv'; looked in"):
        find_data("b.csv")


@pytest.mark.parametrize("name", ["eval", "Eval"])
def test_eval_is_the_validation_split_where_no_other_is(tmp_path, name):
    for split in ("train", "test", name):
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{split},a\n")
    notes = []
    assert read_splits(tmp_path, notes=notes)["validation"]["text"][:] == [name]
    assert notes == []
    (tmp_path / "dev.csv").write_text("text,label\ndev,a\n")
    (tmp_path / "extra.jsonl").write_text("{}\n")
    (tmp_path / "notes.md").write_text("no rows")
    assert read_splits(tmp_path, notes=notes)["validation"]["text"][:] == ["dev"]
    assert notes == [f"not read, as they are no split: {name}.csv, extra.jsonl"]
