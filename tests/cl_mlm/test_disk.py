"""A write that fails is told in one line, whoever wrote; a place is tried before it is needed."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest
from safetensors import SafetensorError

from cl_mlm import disk
from cl_mlm.data.cache import building
from cl_mlm.disk import CACHE, OUTPUT, disk_faults_told, try_writing, writing
from cl_mlm.errors import ConfigError, StorageError
from cl_mlm.whole_files import write_text_whole

WORDS = {
    errno.ENOSPC: "the disk is full (",
    errno.EDQUOT: "the quota is used up (",
    errno.EROFS: "the file system is read-only; make the folder writable",
    errno.EACCES: "this user may not write there; make the folder writable",
    errno.EPERM: "this user may not write there; make the folder writable",
    errno.ENOTDIR: "is a file, not a folder; make the folder writable",
    errno.EFBIG: "the file grows larger than the file system or `ulimit -f` allows; raise the limit",
    errno.EIO: "the device reports an input/output error; have the device looked at",
    errno.ENOENT: "the folder is gone; put it back, or what was in it is made again",
}


def told(error, path, **given):
    with pytest.raises(StorageError) as caught, writing(path, **given):
        raise error
    (line,) = caught.value.problems
    assert "\n" not in line
    return line


@pytest.mark.parametrize("number", WORDS)
@pytest.mark.parametrize("names_file", [True, False])
def test_every_fault_of_a_disk_names_folder_reason_and_way_out(number, names_file, tmp_path):
    named = [str(tmp_path / "run" / ".x.tmp")] if names_file else []
    line = told(OSError(number, os.strerror(number), *named), tmp_path / "run" / "x")
    assert line.startswith(f"output: cannot write '{tmp_path / 'run' / 'x'}': ")
    assert WORDS[number] in line
    assert line.endswith(", and the same command goes on")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (SafetensorError("I/O error: File too large (os error 27)"), "the file grows larger"),
        (Exception("No space left on device (os error 28)"), "the disk is full"),  # tokenizers
        (OSError("100000 requested and 8176 written"), "the disk is full"),  # NumPy
        (OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device"), "the disk is full"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "read-only"),
    ],
)
def test_the_errors_of_libraries_are_known(error, says, tmp_path):
    assert says in told(error, tmp_path / "x")


def test_an_error_is_told_that_a_library_wraps(tmp_path):
    wrapped = RuntimeError("An error occurred while generating the dataset")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert "the disk is full" in told(wrapped, tmp_path / "x", place=CACHE)


def test_the_output_is_named_where_an_error_names_no_file(tmp_path):
    line = str(disk.storage_error(OSError(28, "No space left on device"), tmp_path))
    assert line.startswith(f"output: cannot write '{tmp_path}': the disk is full (")
    named = str(disk.storage_error(OSError(28, "No space left on device", "/elsewhere/x"), tmp_path))
    assert named.startswith("cannot write '/elsewhere/x': ")


def test_what_is_needed_is_told_where_it_is_known(tmp_path):
    assert "it takes over 91 MB)" in told(OSError(28, "full"), tmp_path / "x", needs=lambda: 91e6)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere/rows.csv"),
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/rows.csv"),
        ValueError("nothing of the kind"),
        OSError("Repository not found"),
        Exception("a hook says: No space left on device"),
        ConfigError("seed: must be a number"),
    ],
)
def test_what_is_no_fault_of_the_place_that_is_written_passes(error, tmp_path):
    with pytest.raises(type(error)) as caught, disk_faults_told(), writing(tmp_path / "x"):
        raise error
    assert caught.value is error


def test_an_error_while_another_is_handled_is_not_taken_for_it(tmp_path):
    odd = ValueError("odd")
    odd.__context__ = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "x"))
    with pytest.raises(ValueError, match="odd"), writing(tmp_path / "x"):
        raise odd


def test_inodes_are_named_where_they_lack(tmp_path, monkeypatch):
    found = os.statvfs(tmp_path)
    fields = {name: getattr(found, name) for name in ("f_bavail", "f_frsize")}
    lacking = type("Found", (), fields | {"f_files": 1000, "f_favail": 0})
    monkeypatch.setattr(disk.os, "statvfs", lambda folder: lacking)
    assert "the disk is full (it takes 0 more files: no inodes are left)" in told(OSError(28, "full"), tmp_path / "x")


def test_a_place_is_tried_without_a_trace(tmp_path):
    try_writing(tmp_path / "a" / "b", OUTPUT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_place_that_takes_nothing_is_refused_before_it_is_needed(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk.os, "write", refuse)
    with pytest.raises(StorageError, match=disk.REASONS[number]) as caught:
        try_writing(tmp_path, CACHE)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file is a file, not a folder"):
        try_writing(tmp_path / "file" / "runs", OUTPUT)


def test_what_is_half_written_is_removed(tmp_path, monkeypatch):
    def half(path, text, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(StorageError, match=f"output: cannot write '{tmp_path / 'x'}'"):
            write_text_whole(tmp_path / "x", "whole")
        with pytest.raises(StorageError, match=r"cache \(CL_MLM_CACHE\): "), building(tmp_path / "entry") as folder:
            (folder / "y").write_text("whole")
    assert list(tmp_path.iterdir()) == []
