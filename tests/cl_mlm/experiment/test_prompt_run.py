"""`cl-mlm prompt` and `check`: what they print, what they refuse."""

import json
import shutil

import pytest

import cl_mlm
from cl_mlm.cli.listing import describe
from cl_mlm.config.loading import load_config
from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.preparation import prepare
from cl_mlm.tracking.journal import read_lines

SECTION = {"template": "{{ source }}\nOutput:", "shots": [0]}


@pytest.fixture(scope="module")
def finished(make_fast, tmp_path_factory):
    """A run that was not prompted, of which the last stage is kept."""
    config = make_fast(tmp_path_factory.mktemp("later"))
    config |= {
        "model": "tiny-decoder",
        "stream": {**config["stream"], "as_text": True},
        "training": {"steps": 1, "threads": 1},
    }
    return cl_mlm.run(config, progress=False)


def test_the_command_line_prints_a_table_and_writes_a_file(finished, tmp_path, cli):
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps({"prompting": SECTION}))
    said = cli("prompt", str(finished.folder), "max_rows=4", "--config", str(path), "--shots", "0", "--shots", "1")
    assert said.code == 0, said.err
    assert "labels-01" in said.out
    (written,) = (finished.folder / "prompting").glob("*.json")
    values = json.loads(written.read_text())
    assert list(values["shots"]) == ["0", "1"]
    assert values["num_rows"] == [4, 4]
    assert str(written) in said.out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "has no such section; --config FILE or template=... gives one"),
        (["template=x", "--stage", "7"], "--stage: must be untrained, last, or a stage from 0 to 1, got '7'"),
        (["template=x", "--stage", "first"], "--stage: must be untrained, last, or a stage from 0 to 1, got 'first'"),
        (["template=x", "--stage", "0"], "not kept; run with checkpoint.keep_stages=all"),
        (
            ["template='{{ sauce }}'"],
            "prompting.template: sauce: no such field in column 'labels-01' (did you mean 'source'?)",
        ),
        (["template=x", "shotz=1"], "prompting.shotz: unknown key (did you mean 'shots'?)"),
    ],
)
def test_what_cannot_be_asked_is_told(finished, arguments, message, cli):
    said = cli("prompt", str(finished.folder), *arguments)
    assert said.code == 2
    assert message in said.err


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"holds no run"):
        cl_mlm.prompt(tmp_path)


def test_the_same_question_overwrites_its_answer(finished):
    first, second = (finished.prompt(config=SECTION) for _ in range(2))
    assert first == second
    assert finished.prompt("seed=1", config=SECTION).path != first.path


def test_check_shows_the_first_prompt(fast):
    config = {**fast, "model": "tiny-decoder", "stream": {**fast["stream"], "as_text": True}}
    lines = describe(prepare(load_config({**config, "prompting": {**SECTION, "shots": [0, 1]}})))
    at = lines.index(
        "prompting: 0, 1 shots, 2 columns of "
        + fast["stream"]["path"].rpartition("/")[2]
        + ", before and after every stage"
    )
    assert lines[at + 1] == "  the first prompt:"
    assert [line for line in lines[at + 2 :] if line.startswith("  | ")][-1] == "  | Output:"


def test_rows_that_are_not_those_of_the_run_are_noted(finished, tmp_path, caplog):
    folder = shutil.copytree(finished.folder, tmp_path / finished.folder.name)
    journal, rows = folder / "journal.jsonl", finished.summary["stream"]["fingerprint"]
    lines = [json.dumps(line).replace(rows, "0" * 64) + "\n" for line, _ in read_lines(journal)]
    journal.write_text("".join(lines))
    note = f"not what the run was made of: rows of the stream: fingerprint {'0' * 64} at the start, {rows} now"
    assert note in cl_mlm.prompt(folder, "template=x", "max_rows=2").values["notes"]
    assert f"{folder}: {note}" in caplog.messages
    assert cl_mlm.prompt(finished.folder, "template=x", "max_rows=2").values["notes"] == []


@pytest.mark.parametrize("name", ["__main__.Mine", "nowhere.Mine"])
def test_a_finished_run_is_prompted_without_the_code_of_its_strategies(name, finished, tmp_path):
    folder = tmp_path / finished.folder.name
    shutil.copytree(finished.folder, folder)
    config = (folder / "config.yaml").read_text()
    assert "strategies: {}" in config
    (folder / "config.yaml").write_text(config.replace("strategies: {}", f"strategies: {{{name}: {{}}}}"))
    prompted = cl_mlm.prompt(folder, config={"prompting": SECTION | {"max_rows": 2}})
    assert len(prompted.values["shots"]["0"]) == 2
    assert not [note for note in prompted.values["notes"] if "Mine" in note or "strateg" in note]
