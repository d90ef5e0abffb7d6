"""The inventory of a finished run: what is missing or other is named, edits at once, all else on a thorough look."""

import json
import os
import shutil

import pytest

from cl_mlm.storage.inventory import faults, write_inventory
from cl_mlm.storage.state_files import write_entry

FILES = [
    "config.yaml",
    "versions.json",
    "journal.jsonl",
    "summary.json",
    "per_class.csv",
    "accuracy_matrix.csv",
    "prompting_2-shot.csv",
    "predictions/before.parquet",
    "figures/accuracy_matrix.png",
]


@pytest.fixture
def folder(tmp_path):
    """A finished run, with a checkpoint and files that are not the run's."""
    for name in [*FILES, "mlflow.json", ".lock", "notes.txt", "prompting/a.json"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"this is {name}")
    write_entry(tmp_path / "stages" / "001", {"a": 1})
    write_inventory(tmp_path)
    return tmp_path


def test_a_run_as_it_was_written_has_no_faults(folder):
    kept = [f"stages/001/{name}" for name in ("manifest.json", "state.json", "state.safetensors")]
    assert sorted(json.loads((folder / "files.json").read_text())) == sorted([*FILES, *kept, "files.json"])
    assert faults(folder, thorough=False) == faults(folder, thorough=True) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_shorter_or_edited_is_named(folder, name):
    path = folder / name
    whole = path.read_text()
    path.unlink()
    assert faults(folder, thorough=False) == [f"{name}: is missing"]
    path.write_text(whole[:-3])
    assert faults(folder, thorough=False) == [f"{name}: has {len(whole) - 3} bytes instead of {len(whole)}"]
    path.write_text(whole.upper())
    assert faults(folder, thorough=False) == [f"{name}: is damaged (its checksum differs)"]
    path.write_text(whole)
    assert faults(folder, thorough=False) == []


def test_a_copy_with_other_times_has_no_faults(folder, tmp_path_factory):
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "run", copy_function=shutil.copyfile)
    assert faults(copy, thorough=False) == []


def test_what_a_disk_changes_by_itself_is_found_by_a_thorough_look(folder):
    path = folder / "predictions" / "before.parquet"
    before = path.stat()
    path.write_text(path.read_text().upper())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert faults(folder, thorough=False) == []
    assert faults(folder, thorough=True) == ["predictions/before.parquet: is damaged (its checksum differs)"]


def test_a_damaged_checkpoint_is_found_and_one_that_was_removed_by_a_thorough_look(folder):
    state = folder / "stages" / "001" / "state.json"
    state.write_text(state.read_text()[::-1])
    expected = ["stages/001/state.json: is damaged (its checksum differs)"]
    assert faults(folder, thorough=False) == faults(folder, thorough=True) == expected
    (folder / "files.json").rename(folder / "away")
    assert faults(folder, thorough=True) == ["files.json: is missing", *expected]
    (folder / "away").rename(folder / "files.json")
    shutil.rmtree(folder / "stages")
    assert faults(folder, thorough=False) == []
    assert "stages/001/manifest.json: is missing" in faults(folder, thorough=True)


def test_what_others_write_into_the_folder_is_theirs(folder):
    for name in ("mlflow.json", ".lock", "notes.txt", "prompting/a.json"):
        (folder / name).write_text("changed")
    assert faults(folder, thorough=True) == []


@pytest.mark.parametrize("text", ["", "[]", '"text"', "{}", '{"summary.json": 3}', "\udcff"])
def test_an_inventory_that_is_none_is_named(folder, text):
    (folder / "files.json").write_text(text, errors="surrogateescape")
    (fault,) = faults(folder, thorough=False)
    assert fault.startswith("files.json: ")


def test_a_missing_inventory_is_named(folder):
    (folder / "files.json").unlink()
    assert faults(folder, thorough=False) == ["files.json: is missing"]


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../b"])
def test_an_inventory_that_names_files_elsewhere_is_not_followed(folder, name):
    entries = json.loads((folder / "files.json").read_text())
    entries[name] = entries["config.yaml"]
    (folder / "files.json").write_text(json.dumps(entries))
    (fault,) = faults(folder, thorough=True)
    assert fault.startswith("files.json: is damaged")
