"""A config.yaml that was edited after the run had started is named by its keys, and never used in silence."""

import shutil

import pytest

import cl_mlm
from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.kept_config import kept_config


@pytest.fixture(scope="module")
def finished(make_fast, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    layer = {**make_fast(folder), "output": str(folder / "runs")}
    layer["training"] = {**layer["training"], "steps": 2}
    return cl_mlm.run(layer, progress=False, strategies={"replay": {"capacity": 8}})


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished.folder, tmp_path / "runs" / finished.folder.name)


def edit(folder, old, new):
    path = folder / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


EDITS = [
    ("  steps: 2\n", "  steps: 3\n", "training.steps: 2 at the start, 3 now"),
    ("seed: 0\n", "seed: 1\n", "seed: 0 at the start, 1 now"),
    ("    capacity: 8\n", "    capacity: 9\n", "strategies.replay.capacity: 8 at the start, 9 now"),
    ("  steps: 2\n", "", "training.steps: 2 at the start, None now"),
    ("limit: null\n", "limit: 4\n", "limit: None at the start, 4 now"),
]


@pytest.mark.parametrize("journal", ["there", "missing"])
@pytest.mark.parametrize(("old", "new", "said"), EDITS)
def test_rerun_and_resume_name_the_edited_key_and_train_nothing(copied, cli, old, new, said, journal):
    edit(copied, old, new)
    if journal == "missing":
        (copied / "journal.jsonl").unlink()
    for command in ("rerun", "resume"):
        answer = cli(command, copied)
        assert answer.code == 2
        assert f"{copied}/config.yaml: was edited after the run had started" in answer.err
        assert said in " ".join(answer.err.split())
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("limit: ", "limit: 0.5  #", "config.yaml: limit: must be a whole number or null, got 0.5"),
        ("seed: 0\n", "seed: 0\n\0", "config.yaml"),
        ("seed: 0\n", "seed: [0\n", "config.yaml"),
    ],
)
def test_a_config_that_cannot_be_read_is_named_by_its_file_with_a_way_out(copied, cli, old, new, said):
    edit(copied, old, new)
    answer = cli("resume", copied)
    assert answer.code == 2
    assert f"{copied}/{said}" in answer.err
    assert "`cl-mlm run` with the config that the run was started with" in " ".join(answer.err.split())


def test_a_config_that_is_gone_is_told_with_a_way_out_where_there_was_a_run(copied, cli, tmp_path):
    (copied / "config.yaml").unlink()
    answer = cli("resume", copied)
    assert answer.code == 2
    assert "writes config.yaml again" in answer.err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "writes config.yaml again" not in cli("resume", empty).err


def test_several_edited_keys_are_all_named(copied):
    edit(copied, "seed: 0\n", "seed: 5\n")
    edit(copied, "  steps: 2\n", "  steps: 7\n")
    with pytest.raises(RunFolderError, match=r"(?s)seed: 0 at the start, 5 now.*training.steps: 2 at the start, 7 now"):
        kept_config(copied)


def test_prompt_names_the_edited_key_before_it_reads_data(copied):
    edit(copied, "  steps: 2\n", "  steps: 3\n")
    with pytest.raises(RunFolderError, match=r"training\.steps: 2 at the start, 3 now"):
        cl_mlm.prompt(copied, "template='{{ text }}'")


def test_predict_and_compare_take_the_settings_of_the_run_not_of_an_edited_file(copied, finished):
    before = cl_mlm.load(copied).predict(["a text"], scores=True)
    edit(copied, "  max_length: ", "  max_length: 9")
    loaded = cl_mlm.load(copied)
    assert loaded.predict(["a text"], scores=True) == before
    assert loaded.summary["settings"] == finished.summary["settings"]
    (section,) = cl_mlm.compare(copied).comparison.sections
    assert section.groups[0].runs[0].settings == finished.summary["settings"]


@pytest.mark.parametrize(("old", "new"), [("keep_stages: last", "keep_stages: all"), ("threads: 1", "threads: 2")])
def test_what_changes_no_result_may_be_edited_where_a_run_is_resumed(copied, old, new):
    edit(copied, old, new)
    kept_config(copied, is_place_free=True)


def test_a_moved_and_renamed_folder_is_no_edited_one(copied, tmp_path):
    moved = copied.rename(tmp_path / "elsewhere")
    assert kept_config(moved).training.steps == 2
