"""A file is hashed once, and again whenever it may have changed."""

import errno
import hashlib
import os
import time

import pytest

from cl_mlm.data import file_digest as module
from cl_mlm.data.file_digest import file_digest
from cl_mlm.data.files import read_table


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """The files that are really read; the clock is an hour ahead, so that every file is old."""
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module.time, "time_ns", lambda now=time.time_ns: now() + 3600 * 10**9)
    found, read = [], module._hash
    monkeypatch.setattr(module, "_hash", lambda path: [found.append(path.name), read(path)][1])
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\na,b\n")
    return path


def test_the_digest_is_that_of_the_content(file, reads):
    assert file_digest(file) == hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


def test_an_unchanged_file_is_read_once(file, reads):
    assert len({file_digest(file) for _ in range(3)}) == 1
    assert reads == ["train.csv"]


@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_file_edited_in_place_is_read_again_even_if_size_and_time_are_kept(file, reads, keeps_time):
    before, times = file_digest(file), file.stat()
    file.write_text("text,label\na,c\n")
    if keeps_time:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_digest(file) != before


def test_a_file_that_another_took_the_place_of_is_read_again(file, reads, tmp_path):
    before, other = file_digest(file), tmp_path / "other"
    other.write_text("text,label\na,c\n")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    assert file_digest(file) != before


def test_a_link_that_leads_elsewhere_is_read_again(file, reads, tmp_path):
    (tmp_path / "other.csv").write_text("text,label\na,c\n")
    link = tmp_path / "link.csv"
    link.symlink_to(file)
    before = file_digest(link)
    link.unlink()
    link.symlink_to(tmp_path / "other.csv")
    assert file_digest(link) != before


def test_a_file_hashed_within_the_tick_of_its_change_is_read_again(file, monkeypatch):
    monkeypatch.setattr(module, "TICK_NS", 3600 * 10**9)
    monkeypatch.setenv("CL_MLM_CACHE", str(file.parent / "cache"))
    before, state = file_digest(file), module._state(file)
    file.write_text("text,label\na,c\n")
    monkeypatch.setattr(module, "_state", lambda path: state)  # the clock has not moved
    assert file_digest(file) != before


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"digest": "ab"}', b"\xff"])
def test_a_damaged_note_is_made_anew(file, reads, tmp_path, content):
    before = file_digest(file)
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    note.write_bytes(content)
    assert [file_digest(file), file_digest(file)] == [before] * 2
    assert reads == ["train.csv"] * 2


def test_a_file_that_changes_while_it_is_read_is_not_noted(file, reads, monkeypatch, tmp_path):
    read = module._hash

    def read_and_edit(path):
        digest = read(path)
        path.write_text("text,label\nlonger,c\n")
        return digest

    monkeypatch.setattr(module, "_hash", read_and_edit)
    file_digest(file)
    assert list((tmp_path / "cache" / "digests").iterdir()) == []


def test_the_file_of_a_table_is_not_hashed_again(file, reads):
    for _ in range(2):
        assert read_table(file)[0] == {"text": "a", "label": "b"}
    assert reads == ["train.csv"]


def test_a_full_disk_keeps_no_half_of_a_note(file, reads, monkeypatch, tmp_path):
    def refuse(_known):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.json, "dumps", refuse)
    assert file_digest(file) == hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    assert list((tmp_path / "cache" / "digests").iterdir()) == []
