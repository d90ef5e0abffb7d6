"""The digest of the source that guards `resume`: it changes with every file of every room."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cl_mlm.storage import versions

ROOT = Path(__file__).parents[3]
PLACES = sorted({path.parent.relative_to(ROOT) for p in versions.SOURCE_PACKAGES for path in (ROOT / p).rglob("*.py")})


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    for package in versions.SOURCE_PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture
def digest(copied, monkeypatch):
    monkeypatch.setattr(versions, "_root", lambda: copied)
    return versions.source.__wrapped__


def test_the_copy_has_the_digest_of_the_source(digest):
    assert digest() == versions.source()


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_the_digest_changes_when_a_file_in_any_room_changes(copied, digest, place):
    path = sorted((copied / place).glob("*.py"))[-1]
    before, content = digest(), path.read_bytes()
    path.write_bytes(content + b"\n")
    changed = digest()
    path.write_bytes(content)
    assert changed != before
    assert digest() == before


def test_every_room_is_tried():
    assert {"cl_mlm", "cl_mlm/training", "cl_mlm/data", "streams", "strategies"} <= {str(place) for place in PLACES}


def test_the_commit_tells_whether_files_differ_from_it(tmp_path, monkeypatch):
    def git(*arguments):
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *settings, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    monkeypatch.setattr(versions, "_root", lambda: tmp_path)
    git("init", "-q")
    (tmp_path / "a.py").write_text("1\n")
    git("add", "a.py")
    git("commit", "-qm", "a")
    head = git("rev-parse", "HEAD")
    assert versions.commit.__wrapped__() == head
    (tmp_path / "a.py").write_text("2\n")
    assert versions.commit.__wrapped__() == f"{head}+"
