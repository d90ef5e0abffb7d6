"""Rules of lines to copy: a shell reads from them the very words that were meant."""

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cl_mlm.tracking.shell import shell_line

ODD = [
    "a b",
    "ö",
    "it's",
    'say "x"',
    "$HOME `id`",
    "two\nlines",
    "tab\there",
    "\udcff",
    "fö ö\udcff'\"x\\",
    "=x",
    "~",
    "",
]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_shell_reads_the_words_that_were_meant(shell, encoding, monkeypatch):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    line = shell_line("printf", "%s\\0", *ODD)
    line.encode(encoding)
    assert "\n" not in line
    read = subprocess.run([shell, "-c", line], stdout=subprocess.PIPE, check=True).stdout
    assert read.split(b"\0")[:-1] == [os.fsencode(word) for word in ODD]


def test_plain_words_stay_as_they_are():
    assert (
        shell_line("cl-mlm", "resume", Path("runs/a/naive-seed0-0123abcd"))
        == "cl-mlm resume runs/a/naive-seed0-0123abcd"
    )


def test_a_path_with_a_leading_dash_is_no_option():
    assert shell_line("cl-mlm", "run", Path("-x.yaml"), "--arm", "all") == "cl-mlm run ./-x.yaml --arm all"
