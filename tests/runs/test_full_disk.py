"""A small run on a disk that is too small for it; `python tests/disk` tries every size."""

import filling
import pytest
import quota


@pytest.fixture(scope="module")
def runs(tmp_path_factory, empty_store, settled_imports):
    root = tmp_path_factory.mktemp("disk")
    if not quota.is_possible(root / "space"):
        pytest.skip("this machine lets no process mount a file system of its own")
    made = filling.Filling(root, empty_store)
    made.prepare()
    return made


@pytest.mark.parametrize(
    ("kind", "size", "code", "said"),
    [
        ("cache", 8, 2, "cache (CL_MLM_CACHE): cannot write "),
        ("output", 224, 1, "/steps/"),
        ("output", 704, 1, "/stages/001': the disk is full ("),
        ("files", 45, 1, "no inodes are left"),
    ],
)
def test_a_run_on_a_full_disk_is_told_and_goes_on_to_the_same_bits(runs, kind, size, code, said):
    outcome = runs.play(kind, size)
    assert outcome.faults == []
    assert outcome.codes == [code, 0]
    assert said in outcome.said[-1]
