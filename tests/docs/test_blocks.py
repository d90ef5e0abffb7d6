"""Every command line and every Python block of README.md and docs/ runs as it stands there, or says why it does not.

A block that is not run has a mark in the line before it: `<!-- test: slow -->`. A block whose first line is a comment
with a file name (`# my_strategies.py`) is that file: the blocks after it on the page may use it.
"""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MARKS = {
    "slow": "trains for minutes: `make slow-test` runs it",
    "long": "takes many minutes to hours: run by hand when its figures are measured",
    "setup": "makes an environment, or runs the test suite itself",
    "server": "does not end by itself",
    "data": "needs data sets or models that are not in the repository",
    "fragment": "a part of a file, which another test holds",
}
RUN = ("python", "sh")
SHOWN = ("yaml", "text", "json")
FENCE = re.compile(r"^```(.*)$")
MARK = re.compile(r"^<!-- test: (.*) -->$")
FILE_NAME = re.compile(r"^# ([\w-]+\.(?:py|yaml))\n")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|(?:^|\s)#.*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: relative to the repository.
        line: of its first line of text, from 1.
        mark: why it is not run by default; empty: it is.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def file_name(self):
        """The file that the block is, named in its first line; empty: none."""
        named = FILE_NAME.match(self.text)
        return named[1] if named else ""

    @property
    def is_run(self):
        return self.language in RUN and not self.file_name

    def commands(self):
        """Returns the command lines of a shell block; continued lines are joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(path):
    """Returns the fenced blocks of a page, in order."""
    blocks, page, lines = [], str(path.relative_to(ROOT)), path.read_text(encoding="utf-8").splitlines()
    start = 0
    for number, line in enumerate(lines, start=1):
        if start and line == "```":
            text = "".join(f"{each}\n" for each in lines[start - 1 : number - 1])
            mark = MARK.match(lines[start - 3]) if start > 2 else None
            blocks.append(Block(page, start, FENCE.match(lines[start - 2])[1], text, mark[1] if mark else ""))
            start = 0
        elif not start and FENCE.match(line):
            start = number + 1
    assert not start, f"{page}:{start}: the block is not closed"
    return blocks


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def pages_with(marks):
    return sorted({block.page for block in BLOCKS if block.is_run and block.mark in marks})


def _files(word):
    """Returns the files that a word of a command line stands for where it has a `*`, as a shell would find them."""
    return sorted(map(str, Path().glob(word))) if "*" in word else []


def run_command(command, where):
    """Runs a command line; `cl-mlm` in this process, for starting Python and torch takes longer than its work."""
    words = shlex.split(command, comments=True)
    for start in (["cl-mlm"], ["python", "-m", "cl_mlm"]):
        if words[: len(start)] == start:
            from cl_mlm.cli.app import main

            arguments = [each for word in words[len(start) :] for each in (_files(word) or [word])]
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            assert ended.value.code in (0, None), f"{where}: {command}: exit code {ended.value.code}"
            return
    subprocess.run(["bash", "-ec", command], check=True)


@pytest.fixture
def run_page(tmp_path, empty_store, monkeypatch, one_thread):
    """Runs the blocks of a page, in order, in an empty folder with `configs/` and an MLflow store of its own."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(page, marks):
        names = {"__name__": "__main__"}
        for block in (block for block in BLOCKS if block.page == page):
            if block.file_name:
                (tmp_path / block.file_name).write_text(block.text, encoding="utf-8")
            elif block.is_run and block.mark in marks:
                if block.language == "python":
                    # Empty lines before it, so that a traceback names the line of the page.
                    exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)
                else:
                    for command in block.commands():
                        run_command(command, block)

    yield run
    for name in [name for name in sys.modules if (tmp_path / f"{name}.py").exists()]:
        del sys.modules[name]


def test_the_pages_are_found():
    assert {"README.md", "docs/start.md", "docs/how-to/own_strategy.md"} <= {*pages_with([""])}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_run_or_shown_and_a_mark_is_a_known_one(block):
    assert block.language in (*RUN, *SHOWN), "a fence says which language: python and sh are run, others are shown"
    assert block.mark in ("", *MARKS)
    assert block.is_run or not block.mark, "only what would be run needs a mark"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_mark_stands_right_before_its_block(page):
    lines = [*page.read_text(encoding="utf-8").splitlines(), ""]
    assert not [line for line, after in pairwise(lines) if MARK.match(line) and not FENCE.match(after)]


@pytest.mark.parametrize("page", pages_with([""]))
def test_the_blocks_of_a_page_run(page, run_page):
    run_page(page, [""])


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with(["slow"]))
def test_the_slow_blocks_of_a_page_run(page, run_page):
    run_page(page, ["", "slow"])


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_what_zsh_would_expand_is_quoted(block):
    bare = [command for command in block.commands() if set("[]{}?()") & set(QUOTED.sub("", command))]
    assert not bare


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_a_python_block_is_python(block):
    text = block.text if block.mark != "fragment" else f"{{{block.text}}}"
    compile(text, str(block), "exec")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_the_settings_shown_are_settings(block, tmp_path):
    from cl_mlm.config import load_config

    # A block may show one key several times: each time it is a config of its own.
    for text in re.split(r"^(?=stream:)", block.text, flags=re.MULTILINE):
        if yaml.safe_load(text):
            (tmp_path / "config.yaml").write_text(text)
            load_config(tmp_path / "config.yaml", needs_stream=False)
