"""The damages themselves: each changes one thing, is drawn again from the same seed, and is known by its name."""

import json
import shutil
from random import Random

import pytest
from damages import KINDS, draw
from judge import names


@pytest.fixture(scope="module")
def two_folders(tmp_path_factory):
    """Two folders with a file of every sort, in which all values differ."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import save_file

    folders = []
    for value in (1, 2):
        folder = tmp_path_factory.mktemp("run")
        (folder / "stages" / "000").mkdir(parents=True)
        (folder / "predictions").mkdir()
        lines = [json.dumps({"kind": "metrics", "step": i, "values": {"loss": i * value}}) for i in range(9)]
        (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "config.yaml").write_text(f"seed: {value}\n")
        (folder / "matrix.csv").write_text(f"stage,a\nfirst,{value}\n")
        (folder / "summary.json").write_text(json.dumps({"metrics": {"mean": value}, "flags": [], "none": None}))
        save_file({"weight": torch.full((3,), float(value))}, folder / "stages" / "000" / "model.safetensors")
        pq.write_table(pa.table({"id": [value, value + 1], "same": ["x", "x"]}), folder / "predictions" / "0.parquet")
        folders.append(folder)
    return folders


def _all(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_damage_changes_what_it_names_and_nothing_else(two_folders, tmp_path, kind, seed):
    drawn = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        shutil.copytree(two_folders[0], folder)
        drawn.append(draw(Random(seed), kind, folder, two_folders[1]))
    before, after = _all(two_folders[0]), _all(tmp_path / "1")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    target = drawn[0].target
    assert changed
    assert all(name == target or name.startswith(f"{target}/") for name in changed)
    assert drawn[0] == drawn[1]
    assert after == _all(tmp_path / "2")


def test_nothing_is_drawn_where_nothing_is_of_the_kind(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert draw(Random(0), "journal deleted", tmp_path, tmp_path) is None
    assert draw(Random(0), "file of another seed's run", tmp_path, tmp_path) is None


@pytest.mark.parametrize(
    ("text", "target", "is_named"),
    [
        ("error: runs/a/predictions/0.parquet: is missing", "predictions/0.parquet", True),
        ("error: runs/a/predictions/10.parquet: is missing", "predictions/0.parquet", False),
        ("error: runs/a/stages/001: is damaged", "stages/001/model/config.json", True),
        ("error: runs/a/stages/001/model/config.json: is damaged", "config.json", True),
        ("error: the run is damaged", "journal.jsonl", False),
        ("error: runs/a/journal.jsonl: 3 lines are missing", "journal.jsonl", True),
    ],
)
def test_a_message_names_a_file_or_its_checkpoint(text, target, is_named):
    assert names(text, target) is is_named
