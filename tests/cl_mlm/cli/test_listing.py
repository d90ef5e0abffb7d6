"""Rules of what is shown before anything is run: version, lists, copies of configs, completion, narrow terminals."""

import os
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from cl_mlm.config.key_reference import keys
from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import Config
from cl_mlm.config.shipped import shipped_configs
from cl_mlm.config.stream_keys import SECTION_KEYS

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_version_is_that_of_the_package(cli):
    from importlib.metadata import version

    said = cli("--version")
    assert (said.code, said.out) == (0, f"cl-mlm {version('cl-mlm')}\n")


def test_list_alone_says_what_there_is_to_list(cli):
    said = cli("list")
    assert said.code == 0
    for what in ("strategies", "streams", "objectives", "configs", "keys"):
        assert f"cl-mlm list {what} " in said.out
    assert f" {len(shipped_configs())}  shipped experiments" in said.out


def test_every_key_of_the_schema_is_listed():
    paths = [key.path for key in keys()]
    for field in fields(Config):
        value = getattr(Config(), field.name)
        inner = [f"{field.name}.{each.name}" for each in fields(value)] if is_dataclass(value) else []
        assert {*inner} <= {*paths}
        assert inner or field.name in paths or any(path.startswith(f"{field.name}.") for path in paths)


def test_every_key_that_any_stream_section_may_have_is_listed():
    assert {f"stream.{name}" for name in SECTION_KEYS} <= {key.path for key in keys()}


def test_a_key_is_shown_with_default_range_and_help(cli):
    said = cli("list", "keys", "model.dropout")
    assert said.out == (
        "model.dropout: null\n    every dropout probability of the model; null: the model's own "
        "(a number or null, at least 0 and at most 0.95)\n"
    )


def test_a_section_of_the_keys_is_listed_alone(cli):
    lines = [line for line in cli("list", "keys", "checkpoint").out.splitlines() if not line.startswith(" ")]
    assert len(lines) == len(fields(Config().checkpoint))
    assert all(line.startswith("checkpoint.") for line in lines)


def test_a_key_is_found_by_its_last_name(cli):
    assert "training.learning_rate: 5e-05" in cli("list", "keys", "learning_rate").out


def test_init_copies_a_config_whose_head_names_the_copy(cli, tmp_path):
    said = cli("init", "quickstart")
    assert (said.code, said.out) == (0, "written: quickstart.yaml\nnext: cl-mlm check quickstart.yaml\n")
    text = (tmp_path / "quickstart.yaml").read_text()
    assert "#   cl-mlm run quickstart.yaml --arm all\n" in text
    assert load_config("quickstart.yaml") == load_config(shipped_configs()["quickstart"])


@pytest.mark.parametrize(
    ("target", "file"), [("my.yaml", "my.yaml"), ("new", "new/clinc150.yaml"), (".", "clinc150.yaml")]
)
def test_init_takes_a_file_or_a_folder(cli, tmp_path, target, file):
    assert cli("init", "clinc150", target).code == 0
    assert (tmp_path / file).is_file()


def test_the_head_of_a_copy_under_another_name_names_that(cli, tmp_path):
    assert cli("init", "own_data", "mine.yaml").code == 0
    text = (tmp_path / "mine.yaml").read_text()
    assert "#   cl-mlm check mine.yaml\n#   cl-mlm run mine.yaml --arm all\n" in text
    assert "own_data.yaml" not in text


def test_init_alone_lists_what_can_be_copied(cli, tmp_path):
    said = cli("init")
    assert said.code == 0
    assert all(f"{name}: " in said.out for name in shipped_configs())
    assert not [*tmp_path.iterdir()]


def test_a_copy_with_a_blank_in_its_name_gives_commands_that_a_shell_reads(cli):
    assert cli("init", "quickstart", "my own.yaml").out.endswith("next: cl-mlm check 'my own.yaml'\n")


def offers(words, monkeypatch):
    """Returns what the shell offers after the words of a command line, the last of which is being typed."""
    environment = {**os.environ, "_CL_MLM_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words)}
    environment |= {"COMP_CWORD": str(len(words) - 1), "PYTHONPATH": str(ROOT)}
    program = "import sys; sys.argv[0] = 'cl-mlm'; from cl_mlm.cli.app import main; main()"
    asked = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert asked.stderr == ""
    return asked.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["cl-mlm", "ru"], ["run"]),
        (["cl-mlm", "run", "quick"], ["quickstart"]),
        (["cl-mlm", "run", "sub/"], ["sub/mine.yaml"]),
        (["cl-mlm", "run", "quickstart", "--arm", "n"], ["naive"]),
        (["cl-mlm", "check", "quickstart", "training.ep"], ["training.epochs="]),
        (["cl-mlm", "list", "k"], ["keys"]),
        (["cl-mlm", "list", "keys", "tr"], ["training", "tracking"]),
        (["cl-mlm", "list", "keys", "fil"], ["files"]),
        (["cl-mlm", "list", "configs", "fil"], []),
        (["cl-mlm", "run", "no-such", "--arm", ""], []),
    ],
)
def test_the_shell_completes_commands_configs_arms_and_keys(tmp_path, monkeypatch, words, offered):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.yaml").write_text("seed: 1\n")
    assert offers(words, monkeypatch) == offered


def too_wide(text, width):
    """Returns the lines that are wider, except for one word that cannot be broken, such as a path."""
    return [line for line in text.splitlines() if len(line) > width and " " in line.strip()]


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("list", "strategies"),
        ("list", "streams"),
        ("list", "objectives"),
        ("list", "configs"),
        ("list", "keys"),
        ("init",),
        ("check", "quickstart"),
        ("check", "pipeline"),
        ("check", "quickstart", "stream.scenario=online", "stream.chunk_rows=5", "training.epochs=1"),
    ],
)
@pytest.mark.parametrize("width", [60, 43])
def test_what_is_shown_fits_a_narrow_terminal(cli, monkeypatch, command, width):
    monkeypatch.setenv("COLUMNS", str(width))
    said = cli(*command)
    assert said.code == 0
    assert too_wide(said.out, width) == []
    assert "…" not in said.out


def test_a_narrow_table_holds_every_number_of_the_wide_one(cli, monkeypatch):
    wide = cli("check", "quickstart").out
    monkeypatch.setenv("COLUMNS", "60")
    narrow = cli("check", "quickstart").out
    assert {*wide.split()} - {"text:"} <= {*narrow.split()}


def test_what_goes_into_a_pipe_is_not_wrapped(cli, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert max(map(len, cli("list", "streams").out.splitlines())) > 200
