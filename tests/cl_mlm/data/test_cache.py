"""What killed processes have left half-written in the cache is removed by the next, what living ones write is not."""

import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from cl_mlm.data import cache, file_digest
from cl_mlm.data.cache import building

BUILDER = """
import sys, time
from pathlib import Path
from cl_mlm.data.cache import building
with building(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print("building", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def builder(tmp_path):
    """Starts processes that build an entry of `tmp_path` and never end: `builder(name)`."""
    started = []

    def start(name):
        command = [sys.executable, "-c", BUILDER, str(tmp_path / name)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "building\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def half_built(folder):
    return [path.name.split(".")[1] for path in folder.iterdir() if path.name.startswith(".")]


def test_an_entry_of_a_killed_process_is_removed_and_one_of_a_living_process_is_not(tmp_path, builder):
    living, killed = builder("living"), builder("killed")
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert sorted(half_built(tmp_path)) == ["killed", "living"]
    with building(tmp_path / "other") as folder:
        (folder / "whole").write_text("x")
        assert sorted(half_built(tmp_path)) == ["living", "other"]
    assert (tmp_path / "other" / "whole").read_text() == "x"
    assert living.poll() is None
    assert half_built(tmp_path) == ["living"]


def test_a_note_of_a_killed_process_is_removed(tmp_path):
    (tmp_path / f".{'0' * 32}.0badcafe").write_text('{"pa')
    file_digest._write(tmp_path / "note", {"path": "p"})
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    assert json.loads((tmp_path / "note").read_text()) == {"path": "p"}


def test_other_hidden_files_stay(tmp_path):
    for name in (".nfs0001", ".keep", ".a.b"):
        (tmp_path / name).touch()
    cache.remove_unheld(tmp_path)
    assert len([*tmp_path.iterdir()]) == 3


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, locked = fcntl.flock, []

    def lock_late(descriptor, operation):
        if operation == fcntl.LOCK_EX:
            locked.append(descriptor)
            if len(locked) == 1:
                cache.remove_unheld(tmp_path)
        lock(descriptor, operation)

    monkeypatch.setattr(cache.fcntl, "flock", lock_late)
    with building(tmp_path / "entry") as folder:
        (folder / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]
    assert len(locked) == 2
