"""What `cl-mlm check` says of the places that a run writes to, and that a run tries them too."""

import errno
import os
from pathlib import Path

import pytest

import cl_mlm
from cl_mlm import disk
from cl_mlm.check import places
from cl_mlm.check.disk import most_bytes
from cl_mlm.check.places import place_lines
from cl_mlm.config.loading import load_config
from cl_mlm.data.tasks import tasks_of
from cl_mlm.errors import StorageError
from cl_mlm.experiment import places as run_places
from cl_mlm.experiment import session
from cl_mlm.experiment.preparation import prepare
from cl_mlm.models.size import size_of_tasks


@pytest.fixture
def checked(fast):
    """The run and the size of its model."""
    prepared = prepare(load_config(fast))
    return prepared, size_of_tasks(prepared.config, tasks_of(prepared.stream))


def read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_nothing_is_said_where_there_is_room(checked):
    assert place_lines(*checked) == []


def test_room_that_may_not_do_is_told_with_what_the_run_takes(checked, monkeypatch):
    most = most_bytes(*checked)
    monkeypatch.setattr(places, "free_bytes", lambda folder: most - 1)
    (line,) = place_lines(*checked)
    assert line.endswith(f"which may not do: the run writes up to {disk.shown(most)} more")


def test_room_for_no_checkpoint_is_refused_by_check_and_by_the_run_before_it_trains(checked, fast, monkeypatch):
    monkeypatch.setattr(run_places, "free_bytes", lambda folder: 1000)
    with pytest.raises(StorageError, match=r"no room for a checkpoint in .* 1 kB are free") as caught:
        place_lines(*checked)
    assert caught.value.exit_code == 2
    with pytest.raises(StorageError, match=r"no room for a checkpoint in .* 1 kB are free") as caught:
        cl_mlm.run(fast, progress=False)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "given",
    [{"strategies": {"ewc": {}}}, {"strategies": {"ema": {}}}, {"checkpoint": {"every_steps": 1}}],
    ids=["a state", "other weights while it scores", "moments within a stage"],
)
def test_what_a_checkpoint_holds_beside_the_model_needs_room_too(fast, monkeypatch, given):
    fast = {**fast, **given}
    prepared = prepare(load_config(fast))
    size = size_of_tasks(prepared.config, tasks_of(prepared.stream))
    monkeypatch.setattr(run_places, "free_bytes", lambda folder: 1.5 * size.whole)
    for refuse in (lambda: place_lines(prepared, size), lambda: cl_mlm.run(fast, progress=False)):
        with pytest.raises(StorageError, match=r"output: no room for a checkpoint in .*: it takes .* are free"):
            refuse()


def test_a_place_that_cannot_be_written_is_refused_by_check_and_by_the_run(checked, fast, monkeypatch):
    monkeypatch.setattr(disk.tempfile, "mkstemp", read_only)
    for refuse in (lambda: place_lines(*checked), lambda: cl_mlm.run(fast, progress=False)):
        with pytest.raises(StorageError, match=r"output: cannot write .*: the file system is read-only") as caught:
            refuse()
        assert len(caught.value.problems) == 1  # the cache lies on the same disk


def test_places_on_two_disks_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.tempfile, "mkstemp", read_only)
    monkeypatch.setattr(run_places, "cache_root", lambda: Path("/proc/cache"))
    with pytest.raises(StorageError) as caught:
        run_places.try_places(tmp_path)
    assert [line.partition(":")[0] for line in caught.value.problems] == ["output", "cache (CL_MLM_CACHE)"]


def test_no_run_fails_for_a_store_that_cannot_be_written(fast, monkeypatch):
    monkeypatch.setattr(session, "SENDING_SECONDS", 0.5)
    fast["tracking"]["uri"] = "sqlite:////sys/nowhere/mlflow.db"
    (line,) = place_lines(prepare(load_config(fast)), None)
    assert line.startswith("tracking store: cannot write '/sys/nowhere': ")
    result = cl_mlm.run(fast, progress=False)
    assert "the journal holds everything: cl-mlm sync " in result.warnings[0]


def test_a_finished_run_is_handed_back_from_a_disk_that_takes_nothing(fast, monkeypatch):
    first = cl_mlm.run(fast, progress=False)
    monkeypatch.setattr(disk.tempfile, "mkstemp", read_only)
    again = cl_mlm.run(fast, progress=False)
    assert (again.is_new, again.folder) == (False, first.folder)
    prepared = prepare(load_config(fast))
    assert place_lines(prepared, None) == []


def test_a_disk_that_takes_not_even_the_config_is_told_as_such(fast, monkeypatch):
    from cl_mlm.experiment import reporting

    def full(path, text):
        with disk.writing(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(reporting, "write_text_whole", full)
    with pytest.raises(StorageError, match=r"config.yaml': the disk is full") as caught:
        cl_mlm.run(fast, progress=False)
    assert caught.value.exit_code == 2
