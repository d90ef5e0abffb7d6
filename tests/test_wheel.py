"""What is installed holds the shipped configs, so that `cl-mlm run quickstart` works without a clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "from setuptools import build_meta; import sys; print(build_meta.{kind}(sys.argv[1]))"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what a build reads: setuptools writes beside it."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("cl_mlm", "streams", "strategies", "configs"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def build(kind, source, target):
    command = [sys.executable, "-W", "ignore", "-c", BUILD.format(kind=kind), str(target)]
    said = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
    return target / said.stdout.splitlines()[-1]


def names_of_configs():
    return {f"cl_mlm/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}


def test_a_wheel_holds_the_configs_and_finds_them_by_name(source, tmp_path):
    wheel = build("build_wheel", source, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        assert names_of_configs() <= {*archive.namelist()}
        archive.extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    program = "import sys; from cl_mlm.cli.app import main; main(['init', 'quickstart'])"
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    said = subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    copy = (tmp_path / "empty" / "quickstart.yaml").read_text()
    assert copy.splitlines()[0] == (ROOT / "configs" / "quickstart.yaml").read_text().splitlines()[0]


def test_a_source_archive_holds_the_configs_as_files(source, tmp_path):
    archive = build("build_sdist", source, tmp_path)
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (folder,) = (tmp_path / "unpacked").iterdir()
    for name in names_of_configs():
        assert (folder / name).read_text().startswith("# ")
