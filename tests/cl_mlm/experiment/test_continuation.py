"""Rules of going on: what must be as it was at the start, what may differ when asked, what may differ at any time."""

import json
import re
import shutil

import pytest
import yaml

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.errors import RunFolderError
from cl_mlm.experiment import continuation as sameness
from cl_mlm.experiment.continuation import check_continuation, flat
from cl_mlm.experiment.preparation import prepare
from cl_mlm.experiment.resuming import resume_run
from cl_mlm.experiment.session import run_in
from cl_mlm.tracking.journal import read_lines
from cl_mlm.whole_files import digest_of, extent_of

LATER = 7  # the step, two after the last checkpoint, at which the run is interrupted


class PowerCutError(Exception):
    pass


@pytest.fixture(scope="module")
def interrupted(make_fast, tmp_path_factory):
    """The folder of a run that ended in its first stage, after a checkpoint."""
    from cl_mlm.training.loop import StageTraining

    output, take_step = tmp_path_factory.mktemp("interrupted"), StageTraining.take_step

    def take_some(self, micro_batches):
        if self.run.place.step == LATER:
            raise PowerCutError
        take_step(self, micro_batches)

    config = make_fast(output)
    config["checkpoint"] = {"every_steps": 5, "every_minutes": None}
    config["training"] |= {"steps": 10}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageTraining, "take_step", take_some)
        with pytest.raises(PowerCutError):
            cl_mlm.run(config, progress=False)
    (folder,) = output.glob("fast/*")
    return folder


@pytest.fixture
def folder(interrupted, tmp_path, one_thread):
    """A copy of the interrupted run, free to change."""
    return shutil.copytree(interrupted, tmp_path / "runs" / "fast" / interrupted.name)


@pytest.fixture
def prepared(interrupted):
    return prepare(load_config(interrupted / "config.yaml"))


def set_in_config(folder, **changes):
    """Changes the kept config as an editor would: `training__epochs=2`."""
    path = folder / "config.yaml"
    values = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        *sections, key = name.split("__")
        place = values
        for section in sections:
            place = place[section]
        place[key] = value
    path.write_text(yaml.safe_dump(values))


def rewrite(folder, kind, change):
    """Lets `change` edit the values of every journal line of a kind, as if they had been written so from the start."""
    path = folder / "journal.jsonl"
    lines = [line for line, _ in read_lines(path)]
    for line in lines:
        if line["kind"] == kind:
            change(line["values"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for checkpoint in folder.glob("st*s/[0-9]*"):
        (checkpoint / "journal.json").write_text(json.dumps(extent_of(path)))
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        manifest["journal.json"] = digest_of(checkpoint / "journal.json")
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def refusal(folder, prepared, **options):
    with pytest.raises(RunFolderError) as refused:
        check_continuation(folder, prepared, options.get("allow_inexact", False))
    return str(refused.value)


def test_a_run_under_the_same_conditions_goes_on_exactly(folder, prepared):
    found = check_continuation(folder, prepared, allow_inexact=False)
    assert (found.notes, found.is_exact) == ([], True)


def test_a_run_that_never_began_is_started(tmp_path, prepared):
    assert check_continuation(tmp_path, prepared, allow_inexact=False).is_exact


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"training__steps": 12}, "training.steps: 10 at the start, 12 now"),
        ({"training__optimizer": "sgd"}, "training.optimizer: 'adamw' at the start, 'sgd' now"),
        ({"training__learning_rate": 2e-3}, "training.learning_rate: 0.001 at the start, 0.002 now"),
        ({"seed": 4}, "seed: 0 at the start, 4 now"),
        ({"stream__order_seed": 3}, "stream.order_seed: None at the start, 3 now"),
        ({"strategies": {"replay": {}}}, "strategies.replay.capacity: not set at the start, 200 now"),
        ({"evaluation__splits": ["test"]}, "evaluation.splits: ['validation', 'test'] at the start, ['test'] now"),
        ({"limit": 5}, "limit: None at the start, 5 now"),
    ],
)
@pytest.mark.parametrize("allow_inexact", [False, True])
def test_a_changed_setting_is_refused_key_by_key(folder, change, line, allow_inexact):
    set_in_config(folder, **change)
    with pytest.raises(RunFolderError) as refused:
        resume_run(folder, allow_inexact=allow_inexact)
    assert line in [found.strip() for found in str(refused.value).splitlines()]


def test_every_changed_setting_is_told(folder):
    set_in_config(folder, training__steps=12, training__batch_size=8)
    with pytest.raises(
        RunFolderError, match=r"steps: 10 at the start, 12 now\n  training.batch_size: 4 at the start, 8"
    ):
        resume_run(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"output": "elsewhere"},
        {"tracking__uri": "sqlite:///elsewhere.db"},
        {"checkpoint__keep_stages": "all"},
    ],
)
def test_where_results_are_written_and_kept_may_change(folder, change):
    set_in_config(folder, **change)
    changed = prepare(load_config(folder / "config.yaml"))
    assert check_continuation(folder, changed, allow_inexact=False).is_exact


@pytest.mark.parametrize("allow_inexact", [False, True])
def test_other_rows_are_refused(folder, prepared, allow_inexact):
    rewrite(folder, "tags", lambda tags: tags.update({"stream/fingerprint": "0" * 64}))
    text = refusal(folder, prepared, allow_inexact=allow_inexact)
    assert f"rows of the stream: fingerprint {'0' * 64} at the start, {prepared.stream.fingerprint} now" in text


@pytest.mark.parametrize("name", ["torch", "transformers", "numpy", "python", "cl-mlm", "source"])
def test_another_version_is_refused(folder, prepared, name):
    rewrite(folder, "tags", lambda tags: tags.update({f"version/{name}": "0.1"}))
    found = sameness.versions()[name]
    text = refusal(folder, prepared)
    assert text.splitlines()[1:] == [
        f"  {name} 0.1 then, {found} now",
        "--allow-inexact (in Python: allow_inexact=True) goes on all the same, and the run is flagged",
        "`run --again` (in Python: again=True) makes a new run beside it; or delete the folder",
    ]


@pytest.mark.parametrize("name", ["processor", "cpu_capability"])
def test_another_processor_is_refused(folder, prepared, name):
    rewrite(folder, "tags", lambda tags: tags.update({f"hardware/{name}": "abacus"}))
    assert f"\n  {name} abacus then, " in refusal(folder, prepared)


def test_another_accelerator_is_refused_where_the_run_is_computed_on_it(folder, prepared, monkeypatch):
    from dataclasses import replace

    config = replace(prepared.config, training=replace(prepared.config.training, device="cuda"))
    rewrite(folder, "params", lambda params: params.update({"training.device": "cuda"}))
    rewrite(folder, "tags", lambda tags: tags.update({"hardware/accelerator": "A100"}))
    assert "\n  accelerator A100 then, " in refusal(folder, replace(prepared, config=config))


@pytest.mark.parametrize("tag", ["hardware/accelerator", "hardware/cores", "git_commit"])
def test_what_changes_no_bit_may_differ(folder, prepared, tag):
    rewrite(folder, "tags", lambda tags: tags.update({tag: "another"}))
    assert check_continuation(folder, prepared, allow_inexact=False).is_exact


def test_a_setting_that_the_source_of_the_start_did_not_know_is_a_matter_of_versions(folder, prepared):
    rewrite(folder, "params", lambda params: params.pop("training.halve_on_oom", None))
    assert "\n  training.halve_on_oom not set then, False now" in refusal(folder, prepared)
    (note,) = check_continuation(folder, prepared, allow_inexact=True).notes
    assert note == "resumed under other versions: training.halve_on_oom not set then, False now"


@pytest.mark.parametrize(("key", "value"), [("threads", 2), ("device", "mps")])
def test_another_device_or_number_of_threads_is_refused(folder, prepared, key, value):
    rewrite(folder, "params", lambda params: params.update({f"training.{key}": value}))
    now = getattr(prepared.config.training, key)
    assert f"\n  training.{key} {value!r} then, {now!r} now" in refusal(folder, prepared)
    (note,) = check_continuation(folder, prepared, allow_inexact=True).notes
    assert note == f"resumed on other hardware: training.{key} {value!r} then, {now!r} now"


def test_without_a_checkpoint_other_versions_are_no_matter(folder, prepared):
    shutil.rmtree(folder / "steps")
    rewrite(folder, "tags", lambda tags: tags.update({"version/torch": "0.1"}))
    found = check_continuation(folder, prepared, allow_inexact=False)
    assert (found.notes, found.is_exact) == ([], False)


def test_what_was_once_allowed_stays_noted_when_the_versions_are_equal_again(folder, prepared):
    rewrite(folder, "tags", lambda tags: tags.update({sameness.INEXACT_TAG: "first; second"}))
    found = check_continuation(folder, prepared, allow_inexact=False)
    assert (found.notes, found.is_exact) == (["first", "second"], False)


def test_nothing_is_written_by_a_refusal(folder):
    rewrite(folder, "tags", lambda tags: tags.update({"version/torch": "0.1"}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match=r"torch 0\.1 then"):
        resume_run(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def other_past(folder):
    """Makes the start one under another torch, whose last steps gave other values."""
    rewrite(folder, "tags", lambda tags: tags.update({"version/torch": "0.1"}))

    def shift(values):
        values.update({key: value + 0.5 for key, value in values.items() if key == "train/loss/stage"})

    rewrite(folder, "metrics", shift)


def test_the_same_command_is_refused_under_other_versions(cli, folder, write_config, make_fast, tmp_path):
    other_past(folder)
    config = make_fast(tmp_path / "runs")
    config["training"] |= {"steps": 10}
    path = write_config(tmp_path / "experiment.yaml", config)
    said = cli("run", path)
    assert said.code == 2
    refusal = r"^error: \S+: going on would not .*\n  torch 0\.1 then, \S+ now\n--allow-inexact"
    assert re.search(refusal, said.err, re.MULTILINE)


def test_resume_goes_on_when_allowed_and_flags_the_run(cli, folder):
    other_past(folder)
    assert cli("resume", folder).code == 2
    said = cli("resume", folder, "--allow-inexact")
    assert said.code == 0
    note = f"resumed under other versions: torch 0.1 then, {sameness.versions()['torch']} now"
    assert f"flag: {note}" in said.out
    summary = json.loads((folder / "summary.json").read_text())
    assert note in summary["flags"]
    tags = [line["values"] for line, _ in read_lines(folder / "journal.jsonl") if line["kind"] == "tags"]
    assert [values[sameness.INEXACT_TAG] for values in tags if sameness.INEXACT_TAG in values] == [note]


def test_a_point_computed_again_inexactly_is_written_again(folder, prepared):
    other_past(folder)
    run_in(prepared, folder, allow_inexact=True, progress=False)
    lines = [line for line, _ in read_lines(folder / "journal.jsonl") if line["kind"] == "metrics"]
    found = [line["values"].get("train/loss/stage") for line in lines if line["step"] == LATER and line["stage"] == 0]
    losses = [loss for loss in found if loss is not None]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(losses[1] + 0.5, abs=0.01)


def test_a_device_that_is_not_there_any_more_is_given_up_when_allowed(folder, monkeypatch):
    set_in_config(folder, training__device="cuda")
    rewrite(folder, "params", lambda params: params.update({"training.device": "cuda"}))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(
        "cl_mlm.experiment.session._execute", lambda prepared, folder, continuation, progress: continuation
    )
    found = resume_run(folder, allow_inexact=True)
    assert found.notes == ["resumed on other hardware: training.device 'cuda' then, 'cpu' now"]


def test_a_renamed_folder_is_refused(folder):
    moved = folder.rename(folder.with_name("naive-seed0-00000000"))
    with pytest.raises(RunFolderError, match="its config now leads to naive-seed0-"):
        resume_run(moved)


def test_nested_settings_get_key_paths():
    assert flat({"a": 1, "b": {"c": {"d": [2]}, "e": {}}}) == {"a": 1, "b.c.d": [2], "b.e": "{}"}
