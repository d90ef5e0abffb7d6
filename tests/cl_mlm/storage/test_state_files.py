"""States on disk: what comes back, what is refused, what is damage."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_mlm.storage.checkpoint import last_good
from cl_mlm.storage.state_files import MANIFEST, damage, join_state, read_entry, split_state, state_bytes, write_entry


def round_trip(state):
    tensors = {}
    plain = json.loads(json.dumps(split_state(state, "", tensors)))
    return join_state(plain, tensors)


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


@pytest.mark.parametrize("name", ["../secret", "{absolute}", "nul\0", "x/../../secret", "a" * 5000])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path, name):
    import hashlib

    secret = tmp_path / "secret"
    secret.write_text("x")
    entry = tmp_path / "000"
    write_entry(entry, {"a": 1})
    name = name.format(absolute=secret)
    manifest = json.loads((entry / MANIFEST).read_text())
    (entry / MANIFEST).write_text(json.dumps({name: hashlib.sha256(b"x").hexdigest(), **manifest}))
    assert damage(entry) == f"{entry / name}: is missing"
    assert last_good(tmp_path)[0] is None


def test_a_checkpoint_with_a_link_to_elsewhere_is_refused(tmp_path):
    entry = tmp_path / "000"
    write_entry(entry, {"a": 1})
    moved = shutil.move(entry / "state.json", tmp_path / "elsewhere.json")
    (entry / "state.json").symlink_to(moved)
    assert damage(entry) == f"{entry / 'state.json'}: is missing"


@pytest.mark.parametrize("manifest", ["[]", '"x"', "null", "3"])
def test_a_manifest_that_is_no_mapping_is_damage(tmp_path, manifest):
    entry = tmp_path / "000"
    write_entry(entry, {"a": 1})
    (entry / MANIFEST).write_text(manifest)
    assert "must map names to checksums" in (damage(entry) or "")


def test_a_state_refers_to_tensors_of_its_own_file_only(tmp_path):
    entry = tmp_path / "000"
    write_entry(entry, {"a": np.zeros(2)})
    (entry / "state.json").write_text('{"a": {"$tensor": "../../secret"}}')
    with pytest.raises(KeyError, match=r"\.\./\.\./secret"):
        read_entry(entry)
