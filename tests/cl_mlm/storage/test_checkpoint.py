import os
import pickletools
import random

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from cl_mlm.errors import RunFolderError
from cl_mlm.models.backbone import PlainBackbone
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.storage.checkpoint import in_order, last_good, read_stage, read_step, write_stage, write_step
from cl_mlm.storage.state_files import damage

STATES = {"0": {"anchor": {"head.weight": torch.arange(6.0).reshape(2, 3)}, "constant": 0.5}, "1": {}}
RECORD = {"next_stage": 1, "matrix": [[0.5, None]]}


class Weights:
    """Stands in for a backbone: writes one file."""

    def save(self, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(range(256)))


def write(folder, stage_index=0, states=STATES, record=None):
    return write_stage(folder, stage_index, Weights(), states, record or {**RECORD, "next_stage": stage_index + 1})


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)], ids=str)
def test_tensors_come_back_to_the_bit(tmp_path, dtype, shape):
    tensor = (torch.randn(shape) * 3).to(dtype)
    states, _ = read_stage(write(tmp_path, states={"0": {"a": tensor}}))
    assert states["0"]["a"].dtype == dtype
    assert torch.equal(states["0"]["a"], tensor)


def test_transposed_tensors_and_views_come_back(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    states, _ = read_stage(
        write(tmp_path, states={"0": {"t": whole.T, "row": whole[1], "same": whole, "again": whole}})
    )
    assert torch.equal(states["0"]["t"], whole.T)
    assert torch.equal(states["0"]["row"], whole[1])
    assert torch.equal(states["0"]["again"], whole)


def test_states_and_record_come_back(tmp_path):
    states, record = read_stage(write(tmp_path))
    assert torch.equal(states["0"]["anchor"]["head.weight"], STATES["0"]["anchor"]["head.weight"])
    assert states["0"]["constant"] == 0.5
    assert states["1"] == {}
    assert record == RECORD


def test_a_sound_checkpoint_has_no_damage(tmp_path):
    assert damage(write(tmp_path)) is None


def test_a_stage_written_again_replaces_the_first(tmp_path):
    write(tmp_path)
    folder = write(tmp_path, record={"next_stage": 7})
    assert read_stage(folder)[1] == {"next_stage": 7}
    assert [path.name for path in tmp_path.iterdir()] == ["000"]


def test_the_newest_checkpoint_is_the_last_good_one(tmp_path):
    for stage_index in (0, 1, 11):
        write(tmp_path, stage_index)
    assert last_good(tmp_path) == (tmp_path / "011", [])


def test_the_newest_of_more_than_a_thousand_stages_is_the_last_good_one(tmp_path):
    for stage_index in (999, 1000):
        write(tmp_path, stage_index)
    assert last_good(tmp_path)[0] == tmp_path / "1000"
    assert [path.name for path in in_order(tmp_path.iterdir())] == ["999", "1000"]


def test_a_folder_without_checkpoints_has_no_last_good_one(tmp_path):
    assert last_good(tmp_path) == (None, [])


FILES = ["manifest.json", "model/model.safetensors", "record.json", "strategies.json", "strategies.safetensors"]


def test_a_checkpoint_is_made_of_these_files(tmp_path):
    folder = write(tmp_path)
    assert [str(path.relative_to(folder)) for path in files_of(folder)] == FILES


def assert_found(tmp_path, name):
    fault = damage(tmp_path / "001")
    assert fault is not None
    assert name in fault or name == "manifest.json"
    with pytest.raises(RunFolderError):
        read_stage(tmp_path / "001")
    assert last_good(tmp_path) == (tmp_path / "000", [fault])


@pytest.fixture
def two_stages(tmp_path):
    write(tmp_path, 0)
    write(tmp_path, 1)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_found_and_the_checkpoint_before_it_used(two_stages, name, share):
    path = two_stages / "001" / name
    os.truncate(path, int(path.stat().st_size * share))
    assert_found(two_stages, name)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found_and_the_checkpoint_before_it_used(two_stages, name):
    path = two_stages / "001" / name
    sound = path.read_bytes()
    places = random.Random(0).sample(range(8 * len(sound)), 25)
    for place in places:
        broken = bytearray(sound)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        assert_found(two_stages, name)


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_a_missing_file_is_found_and_the_checkpoint_before_it_used(two_stages, name):
    (two_stages / "001" / name).unlink()
    assert_found(two_stages, name)


def test_a_killed_write_leaves_the_checkpoint_before_it(tmp_path):
    class Killed(Weights):
        def save(self, folder):
            super().save(folder)
            raise KeyboardInterrupt

    write(tmp_path, 0)
    with pytest.raises(KeyboardInterrupt):
        write_stage(tmp_path, 1, Killed(), STATES, RECORD)
    assert last_good(tmp_path) == (tmp_path / "000", [])
    write(tmp_path, 1)
    assert last_good(tmp_path) == (tmp_path / "001", [])


def test_a_state_from_within_a_stage_comes_back(tmp_path):
    write_step(tmp_path, 2, 40, {"weights": {"a": torch.arange(3)}, "best": [1, None]})
    state, faults = read_step(tmp_path, 2)
    assert state is not None
    assert (state["weights"]["a"].tolist(), state["best"], faults) == ([0, 1, 2], [1, None], [])


def test_two_states_from_within_a_stage_are_kept(tmp_path):
    for step in (9, 10, 100):
        write_step(tmp_path, 0, step, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000-000000010", "000-000000100"]
    assert read_step(tmp_path, 0)[0] == {"step": 100}


def test_a_damaged_state_is_found_and_the_one_before_it_used(tmp_path):
    write_step(tmp_path, 0, 10, {"step": 10, "t": torch.zeros(2)})
    broken = write_step(tmp_path, 0, 20, {"step": 20, "t": torch.zeros(2)}) / "state.safetensors"
    os.truncate(broken, broken.stat().st_size - 1)
    state, faults = read_step(tmp_path, 0)
    assert state is not None
    assert state["step"] == 10
    assert faults == [f"{broken}: is damaged (its checksum differs)"]


def test_a_state_of_another_stage_is_not_read(tmp_path):
    write_step(tmp_path, 0, 10, {"step": 10})
    assert read_step(tmp_path, 1) == (None, [])


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path):
    config = BertConfig(vocab_size=100, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    backbone = PlainBackbone(BertForSequenceClassification(config), letter_tokenizer(), "sequence")
    folder = write_stage(tmp_path, 0, backbone, STATES, RECORD)
    names = {path.name for path in files_of(folder)}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert {path.suffix for path in files_of(folder)} <= {".json", ".safetensors"}
    for path in files_of(folder):
        with pytest.raises(ValueError, match=r"."):
            list(pickletools.genops(path.read_bytes()))
    assert damage(folder) is None


def test_steps_of_another_stage_are_not_taken_for_newer_ones(tmp_path):
    from cl_mlm.storage.checkpoint import read_step, write_step

    for stage_index, step in ((3, 10), (3, 20), (2, 10)):
        write_step(tmp_path, stage_index, step, {"at": step})
    assert read_step(tmp_path, 2) == ({"at": 10}, [])
    assert [path.name for path in tmp_path.glob("[0-9]*")] == ["002-000000010"]
