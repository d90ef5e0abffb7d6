"""Every shell line of README.md, CONTRIBUTING.md, docs/ and configs/ means the same in bash and zsh, as it is typed.

zsh expands `[`, `{`, `?`, `(`, `~`, `=` and `^` where bash leaves them, refuses a pattern without match, and at its
prompt reads no comments: `# it's` would open a quotation there.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:\S+=\S+ )*(?:\S*/)?(?:cl-mlm|python|pip|make) [^`\n]*)`")
IN_CONFIG = re.compile(r"^#   (\S.*)$", re.MULTILINE)
QUOTED = re.compile(r"'[^']*'|\"[^\"`\\!]*\"")
SPECIAL = re.compile(r"[\[\]{}()?<^~!`*]|(?:^|\s)=")  # not `;`, `&&`, `|`, `>`, `$`: they are the same in both
# A run's folder, or the files of a loop: here the shell shall look for what is there.
MEANT_PATTERN = re.compile(r"(?<=\s)runs/[\w./*-]+|^for \w+ in [\w./*-]+")
USAGE = re.compile(r"\[[A-Z=]+\]|\.\.\.")  # `cl-mlm run CONFIG [KEY=VALUE]...` says what may be typed


def shell_lines(path):
    """Returns the lines of a page or a config that are meant for a shell, comments of blocks among them."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        return IN_CONFIG.findall(text)
    blocks = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    inline = [line for line in INLINE.findall(FENCED.sub("", text)) if not USAGE.search(line)]
    return [line.strip() for line in [*blocks, *inline] if line.strip()]


def fault(line):
    """Returns what a shell would not take as it is meant; empty: nothing."""
    if line.startswith("#"):
        return "a quotation mark in a comment" if re.search(r"['\"`!]", line) else ""
    bare = MEANT_PATTERN.sub("", QUOTED.sub("Q", line))
    if "#" in bare:
        return "a comment behind a command"
    found = SPECIAL.search(bare)
    return f"{found[0]} outside quotes" if found else ""


@pytest.mark.parametrize("path", [*PAGES, *CONFIGS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shell_line_works_as_typed(path):
    assert {line: fault(line) for line in shell_lines(path) if fault(line)} == {}


@pytest.mark.parametrize("shell", [name for name in ("bash", "zsh") if shutil.which(name)])
def test_every_shell_line_can_be_parsed(shell, tmp_path):
    lines = [line for path in [*PAGES, *CONFIGS] for line in shell_lines(path)]
    assert len(lines) > 100
    (tmp_path / "lines.sh").write_text("\n".join(lines) + "\n")
    parsed = subprocess.run([shell, "-n", tmp_path / "lines.sh"], capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_line_in_the_head_of_a_config_is_a_command_and_nothing_else(path):
    from cl_mlm.config.schema import Config

    for line in shell_lines(path):
        command, name, file, *words = shlex.split(line)
        assert (command, name in ("run", "check", "compare", "init")) == ("cl-mlm", True), line
        assert file in (f"configs/{path.name}", path.name, path.stem, f"runs/{path.stem}")
        settings = [word for word in words if "=" in word]
        options = [word for word in words if "=" not in word]
        assert {word.partition(".")[0].partition("=")[0] for word in settings} <= {*Config.__dataclass_fields__}
        assert all(word.startswith("--") or options[k - 1].startswith("--") for k, word in enumerate(options)), line


@pytest.mark.parametrize(
    "line",
    [
        "cl-mlm run a.yaml strategies=[replay]",
        "cl-mlm run a.yaml stream={name: files}",
        "cl-mlm run a.yaml stream.path=<folder>",
        "cl-mlm run a.yaml model.name=~/model",
        "cl-mlm run a.yaml  # it runs",
        "cl-mlm compare run?/a",
        "cl-mlm run conf*.yaml",
        "# what `check` tells",
        "# it's good",
        "make CHECKS=(a b)",
    ],
)
def test_a_line_that_a_shell_reads_otherwise_is_found(line):
    assert fault(line)
