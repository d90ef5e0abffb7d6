import json
import math
import os
import pickletools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

from cl_mlm.errors import RunFolderError
from cl_mlm.models.backbone import Backbone
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.storage.checkpoint import in_order, last_good, read_stage, read_step, write_stage, write_step
from cl_mlm.storage.state_files import damage, join_state, split_state, state_bytes

STATES = {"0": {"anchor": {"head.weight": torch.arange(6.0).reshape(2, 3)}, "constant": 0.5}, "1": {}}
RECORD = {"next_stage": 1, "matrix": [[0.5, None]]}


class Weights:
    """Stands in for a backbone: writes one file."""

    def save(self, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(range(256)))


def write(folder, stage_index=0, states=STATES, record=RECORD):
    return write_stage(folder, stage_index, Weights(), states, record)


def round_trip(state):
    tensors = {}
    plain = json.loads(json.dumps(split_state(state, "", tensors)))
    return join_state(plain, tensors)


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


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=10,
)


@given(PLAIN)
@settings(deadline=None)
def test_nested_plain_values_come_back(value):
    assert round_trip(value) == value


def test_values_that_are_not_finite_come_back():
    found = round_trip({"best": -math.inf, "worst": math.inf, "none": math.nan})
    assert (found["best"], found["worst"]) == (-math.inf, math.inf)
    assert math.isnan(found["none"])


def test_nested_tensors_come_back_in_place():
    state = {"a": [{"b": torch.ones(2)}, 3, [torch.zeros(1), "x"]], "c": torch.tensor(2.0)}
    found = round_trip(state)
    assert found["a"][0]["b"].tolist() == [1.0, 1.0]
    assert found["a"][1:] == [3, [torch.zeros(1), "x"]]
    assert float(found["c"]) == 2.0


def test_names_with_slashes_do_not_meet():
    found = round_trip({"a/b": torch.tensor(1.0), "a": {"b": torch.tensor(2.0)}})
    assert (float(found["a/b"]), float(found["a"]["b"])) == (1.0, 2.0)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "array",
    [np.arange(4), np.ones((2, 2), np.float32), np.arange(6)[::-2], read_only(np.arange(3)), np.zeros(0, np.int64)],
    ids=["int64", "float32", "reversed", "read-only", "empty"],
)
def test_arrays_come_back_as_tensors_of_the_same_values(array):
    found = round_trip({"ids": array})["ids"]
    assert isinstance(found, torch.Tensor)
    assert np.array_equal(found.numpy(), array)
    assert found.numpy().dtype == array.dtype


def test_a_kept_tensor_does_not_change_with_the_original():
    tensors, tensor = {}, torch.zeros(2, requires_grad=True)
    plain = split_state({"a": tensor}, "", tensors)
    with torch.no_grad():
        tensor.fill_(1.0)
    assert join_state(plain, tensors)["a"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "wrong", [object(), {1, 2}, b"bytes", torch.nn.Linear(1, 1), len], ids=lambda x: type(x).__name__
)
def test_objects_are_refused_by_their_path(wrong):
    with pytest.raises(TypeError, match=r"^state/0/deep/1: must be tensors and plain values only, got "):
        split_state({"0": {"deep": [1, wrong]}}, "", {})


def test_state_bytes_counts_tensors_and_arrays():
    assert state_bytes({"a": torch.zeros(3), "b": [np.zeros(2, np.int64), 7]}) == 3 * 4 + 2 * 8


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


def files_by_name(tmp_path):
    return [str(path.relative_to(tmp_path)) for path in files_of(write(tmp_path))]


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
    backbone = Backbone(BertForSequenceClassification(config), letter_tokenizer())
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
