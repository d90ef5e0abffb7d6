"""Rules of standard output and error: what cannot be shown is degraded, and the exit code is that of the command."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cl_mlm.cli.app import main

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "cl_mlm"]


def ended(*arguments, **streams):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*COMMAND, *arguments], env=environment, check=False, **streams)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_characters_gets_escapes(encoding, fast, write_config, tmp_path, monkeypatch, one_thread):
    fast["experiment"] = "Größe ☃"
    shown, faults = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", faults)
    monkeypatch.setenv("COLUMNS", "20")
    for arguments, code in [
        (["check", str(write_config(tmp_path / "ö\udcff.yaml", fast))], 0),
        (["check", str(tmp_path / "ö☃\udcff")], 2),
        (["list", "keys", "☃"], 2),
    ]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == code
    shown.flush()
    assert b"\\u2603" in shown.buffer.getvalue()
    assert b"Traceback" not in faults.buffer.getvalue()
    assert b"\\udcff" in faults.buffer.getvalue()


def test_a_reader_that_leaves_ends_a_command_as_the_signal_would():
    reading, writing = os.pipe()
    os.close(reading)
    done = ended("list", "keys", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_below_standard_output_is_told():
    with Path("/dev/full").open("wb") as full:
        done = ended("list", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"error: standard output: No space left on device\n")


def test_closed_streams_are_no_fault():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m cl_mlm list >&- 2>&- <&-"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0


def test_a_broken_standard_error_does_not_end_a_command():
    with Path("/dev/full").open("wb") as full:
        assert ended("list", "kyes", stdout=subprocess.DEVNULL, stderr=full).returncode == 2
