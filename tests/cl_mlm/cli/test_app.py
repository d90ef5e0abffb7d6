"""Rules of the command line: whatever a user can get wrong is said in words, with exit code 2, before a model loads."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture
def refused(cli, fast, write_config, tmp_path, monkeypatch):
    """Runs a config that must be refused; returns the error text, white space folded."""

    def fail(*arguments, **named):
        raise AssertionError("a model was loaded")

    def call(*arguments, config=None):
        path = config or write_config(tmp_path / "experiment.yaml", fast)
        said = cli("run", path, *arguments)
        assert said.code == 2
        assert "Traceback" not in said.err
        assert not (tmp_path / "runs").exists()
        return re.sub(r"\s+", " ", said.err)

    for module in ("models.loading", "models.shared_body", "experiment.assembly"):
        monkeypatch.setattr(f"cl_mlm.{module}.load_backbone", fail)
    return call


@pytest.fixture
def own_rows(fast, write_rows, tmp_path):
    """Lets `fast` read rows of this test's own: `own_rows(train=[...])`; returns their folder."""

    def write(**splits):
        folder = write_rows(tmp_path / "rows", **splits)
        fast["stream"]["path"] = str(folder)
        return folder

    return write


@pytest.fixture
def default_rows(data_folder):
    """The sound rows of a split, as dicts."""
    import json

    return lambda split: [json.loads(line) for line in (data_folder / f"{split}.jsonl").read_text().splitlines()]


def test_an_unknown_key_is_refused_with_the_nearest(refused, fast):
    fast["trainning"] = {}
    assert "error: trainning: unknown key (did you mean 'training'?); allowed: experiment, seed," in refused()


def test_a_wrong_type_is_refused(refused):
    assert "error: training.epochs: must be a whole number, got 'three'" in refused("training.epochs=three")


def test_negative_epochs_are_refused(refused):
    assert "error: training.epochs: must be at least 1, got -3" in refused("training.epochs=-3")


def test_an_unknown_strategy_is_refused_with_the_nearest(refused):
    text = refused("strategies=[repley]")
    assert "strategies.repley: no strategy is called 'repley' (did you mean 'replay'?); allowed: agem, cumul" in text


def test_an_unknown_stream_is_refused_with_the_nearest(refused):
    text = refused("stream=phrasebok")
    assert (
        "stream.name: no stream is called 'phrasebok' (did you mean 'phrasebook'?); allowed: avalanche, clinc150, files"
        in text
    )


def test_several_faults_are_counted_and_listed(refused):
    assert " 2 errors: seed: must be a whole number, got 'x' training." in refused("seed=x", "training.epochs=0")


def test_a_missing_config_file_is_refused(refused, tmp_path):
    assert f"error: config: no such file: {tmp_path / 'no.yaml'}" in refused(config=tmp_path / "no.yaml")


def test_broken_yaml_is_refused_with_its_line(refused, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("seed: 0\ntraining: {epochs: 3\nmodel: tiny\n")
    assert re.search(r"error: \S+broken.yaml:3: not valid YAML: ", refused(config=path))


def test_a_missing_data_folder_is_refused(refused, fast, tmp_path):
    fast["stream"]["path"] = str(tmp_path / "nowhere")
    assert f"error: stream.path: must be a folder or file, got '{tmp_path / 'nowhere'}'" in refused()


def test_a_missing_data_file_is_refused(refused, own_rows):
    folder = own_rows()
    (folder / "test.jsonl").unlink()
    assert f"error: {folder}: must have a test file" in refused()


def test_an_empty_data_file_is_refused(refused, own_rows):
    folder = own_rows(train=[])
    assert f"error: {folder / 'train.jsonl'}: no rows" in refused()


def test_a_row_without_label_is_refused_with_file_and_line(refused, own_rows, default_rows):
    folder = own_rows(train=[*default_rows("train"), {"text": "no label here"}])
    assert f"error: {folder / 'train.jsonl'}:33: no label" in refused()


def test_a_broken_json_line_is_refused_with_file_and_line(refused, own_rows):
    path = own_rows() / "validation.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], lines[4][:-3], *lines[5:]]) + "\n")
    assert f"error: {path}:5: not valid JSON: " in refused()


def test_a_test_row_in_train_is_refused_with_the_row_and_the_way_out(refused, own_rows, default_rows):
    own_rows(train=[*default_rows("train"), default_rows("test")[0]])
    text = refused()
    assert "error: stage 'labels-01' train: no input may occur in a validation or test split too, got 1 such: " in text
    assert "'snow snow snow 0 third'; stream.overlap=drop removes them" in text


def test_labels_per_stage_must_divide_the_labels(refused):
    assert "error: stream.labels_per_stage: must divide 4, got 3" in refused("stream.labels_per_stage=3")


def test_a_test_label_that_train_lacks_is_refused(refused, own_rows, default_rows):
    own_rows(train=[row for row in default_rows("train") if row["label"] != "quiet"])
    assert "stage 'labels-02' test: train has no row of 'quiet', test has 6" in refused()


def test_a_first_stage_with_one_label_is_refused(refused, fast):
    fast["stream"] |= {"labels_per_stage": None, "groups": [["cold"], ["hot", "loud", "quiet"]]}
    assert (
        "error: stage 'labels-01': the first stage must have at least 2 labels for objective classification"
        in refused()
    )


def test_a_model_path_that_does_not_exist_is_refused(refused):
    assert "error: model.name: must be tiny, tiny-decoder, tiny-encoder-decoder," in (
        text := refused("model=./no/model")
    )
    assert "'./no/model' does not exist" in text


def test_a_model_folder_without_model_is_refused(refused, tmp_path):
    assert "has no config.json" in refused(f"model={tmp_path}")


def test_fp16_on_a_cpu_is_refused(refused):
    text = refused("training.precision=fp16")
    assert "error: training.precision: fp16 needs an accelerator; on a CPU it must be fp32 or bf16, got fp16" in text


def test_a_device_that_is_not_there_is_refused(refused):
    text = refused("training.device=toaster")
    assert "error: training.device: must be cpu, cuda, cuda:<n> or mps, got 'toaster'" in text


def test_an_output_below_a_file_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("")
    text = refused(f"output={tmp_path / 'file' / 'runs'}")
    assert "error: output: must be a folder, got " in text
    assert f"({tmp_path / 'file'} is a file)" in text


def test_an_output_that_may_not_be_written_is_refused(refused, tmp_path, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and allowed(path, mode))
    assert f"({tmp_path} is not writable)" in refused()


def test_joint_with_replay_is_refused_by_name(refused):
    text = refused("strategies=[joint,replay]")
    assert "error: strategies: joint trains on all rows of earlier stages and stands alone, got it with re" in text


def test_an_unknown_arm_is_refused_with_the_nearest(refused, fast):
    fast["arms"] = {"replay": {}, "ewc": {}}
    text = refused("--arm", "repley")
    assert "has no arm 'repley' (did you mean 'replay'?); allowed: replay, ewc, all" in text


def test_all_arms_of_a_file_without_arms_are_refused(refused):
    assert "experiment.yaml declares no arms" in refused("--arm", "all")


def test_a_limit_of_zero_is_refused(refused):
    assert re.search(r"Invalid value for '--limit': .*\b1\b", refused("--limit", "0"))


def test_a_limit_of_zero_among_the_settings_is_refused(refused):
    assert "error: limit: must be at least 1, got 0" in refused("limit=0")


def test_mlflows_folder_store_is_refused(refused):
    assert "error: tracking.uri: must be a server" in refused("tracking.uri=mlruns")


def test_a_fault_in_the_last_arm_is_found_before_the_first_trains(refused, fast):
    fast["arms"] = {"sound": {}, "faulty": {"strategies": {"joint": {}, "ewc": {}}}}
    assert "error: strategies: joint trains on all rows" in refused("--arm", "all")


def test_faults_of_config_and_data_are_told_together(refused, own_rows):
    folder = own_rows(train=[])
    text = refused("training.precision=fp16", "model=./nope")
    assert " 3 errors: " in text
    assert f"{folder / 'train.jsonl'}: no rows" in text


def test_check_says_what_would_run_and_writes_nothing(cli, fast, write_config, tmp_path):
    fast["experiment"] = "Big Test"
    said = cli("check", write_config(tmp_path / "a.yaml", fast))
    assert said.code == 0
    assert "weather: 2 stages, 4 labels, class_incremental" in said.out
    assert re.search(r"run folder: \S+/runs/big-test/naive-seed0-[0-9a-f]{8}$", said.out, re.MULTILINE)
    assert "good to run" in said.out
    assert not (tmp_path / "runs").exists()


def test_check_refuses_what_run_refuses(cli, fast, write_config, tmp_path):
    said = cli("check", write_config(tmp_path / "a.yaml", fast), "stream.labels_per_stage=3")
    assert said.code == 2
    assert said.err.startswith("error: stream.labels_per_stage: must divide 4, got 3; allowed: 1, 2, 4; uneven: true")


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("strategies", r"^replay: Experience replay: .* \(capacity=200, weight=1\.0, rows=None\)$"),
        ("streams", r"^files: Your own files as a stream: .* \(path, "),
        ("objectives", r"^classification: "),
        ("configs", r"^quickstart: Five stages"),
        ("keys", r"^training\.epochs: 3$"),
    ],
)
def test_list_gives_a_line_for_each(cli, monkeypatch, tmp_path, what, line):
    monkeypatch.chdir(tmp_path)
    said = cli("list", what)
    assert said.code == 0
    assert re.search(line, said.out, re.MULTILINE)


def test_list_of_something_else_is_refused(cli):
    said = cli("list", "strategy")
    assert (said.code, said.err.count("did you mean 'strategies'?")) == (2, 1)


@pytest.mark.parametrize("command", ["resume", "rerun", "verify", "compare", "sync"])
def test_a_folder_without_run_is_refused(cli, tmp_path, command):
    said = cli(command, tmp_path)
    assert said.code == 2
    assert str(tmp_path) in said.err
    assert "Traceback" not in said.err


def test_resume_refuses_a_folder_whose_config_was_changed(cli, fast, write_config, tmp_path):
    folder = tmp_path / "runs" / "fast" / "naive-seed0-00000000"
    folder.mkdir(parents=True)
    write_config(folder / "config.yaml", fast)
    said = cli("resume", folder)
    assert said.code == 2
    assert "its config now leads to naive-seed0-" in said.err


def test_every_command_has_help(cli):
    said = cli("--help")
    assert said.code == 0
    for command in ("run", "resume", "rerun", "verify", "compare", "check", "list", "sync", "ui"):
        assert re.search(rf"\b{command}\b +[A-Z]", said.out)


def test_ui_of_a_server_that_is_away_says_so(cli):
    said = cli("ui", "--uri", "http://127.0.0.1:1")
    assert said.code == 2
    assert said.err.startswith("error: tracking server http://127.0.0.1:1 not reachable: ")


def test_the_command_is_installed_under_its_name():
    assert shutil.which("cl-mlm", path=str(Path(sys.executable).parent))
