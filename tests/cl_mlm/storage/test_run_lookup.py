"""Which folder a run has, who holds it, and what is read of it."""

import pytest

from cl_mlm.config.loading import load_config
from cl_mlm.errors import RunFolderError, StorageError
from cl_mlm.storage.run_lookup import locked, read_summary, run_folder


def test_a_run_folder_is_held_by_one_process_only(tmp_path):
    with locked(tmp_path / "run"), pytest.raises(RunFolderError, match="another process works on this run"):  # noqa: SIM117
        with locked(tmp_path / "run"):
            pass


def test_a_run_folder_is_free_again_afterwards(tmp_path):
    with locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_damaged_summary_is_named(tmp_path):
    (tmp_path / "summary.json").write_text('{"run_id":')
    with pytest.raises(RunFolderError, match=r"summary.json: cannot be read as a summary"):
        read_summary(tmp_path)


def test_an_experiment_with_odd_characters_gets_a_plain_folder(fast):
    fast["experiment"] = "Öl & Gas/../x"
    assert run_folder(load_config(fast)).parent.name == "ol-gas-..-x"


def test_a_folder_that_cannot_be_made_is_told_as_a_fault_of_the_output(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match=r"output: cannot write .*file is a file, not a folder"),
        locked(tmp_path / "file" / "run"),
    ):
        pass
