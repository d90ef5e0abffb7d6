"""The promises of docs/security.md on names, configs and secrets, each held against an attempt to break it.

What the source may not contain is in `tests/test_source_safety.py`; what files may not do stands with the modules that
read them (`file_safety`, `state_files`, `encoding`).
"""

import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.storage.run_lookup import run_folder
from cl_mlm.tracking.credentials import without_credentials
from cl_mlm.tracking.slugs import slug, slugs

CANARY = "canary8b1f"
SECRETS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "WANDB_API_KEY",
    "OPENAI_API_KEY",
)
HOSTILE = (
    "../../escape",
    "/absolute/escape",
    "..",
    ".",
    "-rf",
    "nul\0byte",
    "line\nbreak",
    "a" * 5000,
    'CON<>:"|?*\\',
    "‥／escape",  # look-alikes of two dots and a slash
    "$\\frac{",
    "\u202egnp.exe",
)


NAMES = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="./\\-~ab\0:*?<>|\"'$\n ‥／．", max_size=20),
    st.sampled_from(HOSTILE),
)
SAFE = set(string.ascii_lowercase + string.digits + "_.-")


@given(NAMES)
@settings(deadline=None)
def test_a_slug_is_one_plain_part_of_a_path(name):
    found = slug(name)
    assert set(found) <= SAFE
    assert 1 <= len(found) <= 100
    assert found[0] not in ".-"
    assert (Path("/run") / found).resolve().parent == Path("/run")


@given(st.lists(NAMES, max_size=12))
@settings(deadline=None)
def test_slugs_are_as_many_as_the_names_and_no_two_equal(names):
    found = slugs(names)
    assert (len(found), len(set(found))) == (len(names), len(names))
    assert all(slug(one) == one or len(one) > 100 for one in found)


@given(NAMES)
@settings(deadline=None, max_examples=50)
def test_a_run_folder_lies_two_levels_below_the_output_whatever_the_experiment_is_called(name):
    from dataclasses import replace

    config = replace(load_config({"stream": "phrasebook"}), experiment=name, output="/data/runs")
    assert run_folder(config).resolve().parents[1] == Path("/data/runs")


@pytest.mark.parametrize("name", ["x.../../up", "x./tmp/up", "x.nul\0"])
def test_a_class_whose_name_leads_out_of_the_output_is_refused(name):
    from dataclasses import replace

    config = replace(load_config({"stream": "phrasebook"}), strategies={name: {}})
    with pytest.raises(ConfigError, match="strategies: their names must make a file's name"):
        run_folder(config)


@pytest.fixture(scope="module")
def hostile_stream():
    """A stream whose stages are called what nobody should call them; one label is hostile too."""
    from datasets import Dataset

    from cl_mlm.stream import Stage, Stream

    labels = ("cold", "../../hot\0")

    def rows(stage, split, count):
        texts = [f"{word} {split} {stage} {i}" for i in range(count) for word in ("snow", "sun")]
        return Dataset.from_dict({"text": texts, "label": [labels[i % 2] for i in range(len(texts))]})

    stages = [
        Stage(name=name, labels=labels, **{split: rows(i, split, 2) for split in ("train", "validation", "test")})
        for i, name in enumerate(HOSTILE)
    ]
    return Stream("../../" + "s" * 300, tuple(stages), "domain_incremental")


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
def test_no_stage_name_leads_out_of_the_run_folder(hostile_stream, fast, own_store, tmp_path):
    fast["experiment"] = "../../escape"
    fast["tracking"] = {}
    fast["training"] |= {"steps": 1}
    result = cl_mlm.run(fast, stream=hostile_stream, progress=False)
    assert list(result.summary["columns"]) == list(HOSTILE)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "mlflow.db", "mlruns"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"escape", ".shared-stages"}
    assert [path.name for path in (tmp_path / "runs" / "escape").iterdir()] == [result.folder.name]
    assert not Path("/absolute").exists()


@pytest.mark.parametrize("path", ["../secret", "{absolute}"])
def test_a_journal_that_names_a_file_elsewhere_sends_nothing_of_it(tmp_path, own_store, path):
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.tracking.mlflow_sender import sync

    secret, folder = tmp_path / "secret", tmp_path / "run"
    secret.write_text(CANARY)
    folder.mkdir()
    with Journal(folder / "journal.jsonl") as journal:
        journal.start("experiment", "run")
        # As whoever made the folder would write it: with its number and checksum.
        journal._write({"kind": "artifact", "stage": None, "path": path.format(absolute=secret)})
    with pytest.raises(RunFolderError, match="artifacts must lie in the run folder, got"):
        sync(folder)
    assert not holders(tmp_path, but=secret)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir ['{path}']", "!!python/name:os.system ''", "!!python/object:os.x {{}}"]
)
def test_a_config_with_python_tags_is_refused_and_nothing_is_run(tmp_path, tag):
    path = tmp_path / "config.yaml"
    path.write_text(f"stream: phrasebook\nexperiment: {tag.format(path=tmp_path / 'sprung')}\n")
    with pytest.raises(ConfigError, match="could not determine a constructor for the tag"):
        load_config(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:CL_MLM_SECRET}",
        "a${ oc.env : CL_MLM_SECRET }",
        "${oc.${x}:CL_MLM_SECRET}",
        "${oc.decode:${oc.env:CL_MLM_SECRET}}",
        r"\\${oc.env:CL_MLM_SECRET}",
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        lambda text: {"experiment": text},
        lambda text: {"stream": {"name": "files", "path": "x", "columns": {"text": text}}},
        lambda text: {"evaluation": {"splits": [text]}},
    ],
    ids=["top", "deep", "list"],
)
def test_a_config_cannot_read_the_environment(monkeypatch, text, place):
    monkeypatch.setenv("CL_MLM_SECRET", CANARY)
    with pytest.raises(ConfigError, match="an interpolation may name another setting only") as refused:
        load_config({"stream": "phrasebook", **place(text)})
    assert CANARY not in str(refused.value)


def test_an_override_cannot_read_the_environment(monkeypatch):
    monkeypatch.setenv("CL_MLM_SECRET", CANARY)
    with pytest.raises(ConfigError, match=r"^experiment: an interpolation may name another setting only"):
        load_config({"stream": "phrasebook"}, ["experiment=${oc.env:CL_MLM_SECRET}"])


def test_a_colon_beside_an_interpolation_is_no_call():
    assert load_config({"stream": "phrasebook", "experiment": "seed: ${seed}"}).experiment == "seed: 0"


def holders(folder, but=None):
    """Returns every file below `folder` that holds the canary."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != but]
    return [str(path) for path in files if CANARY.encode() in path.read_bytes()]


@pytest.fixture
def secret_environment(monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, f"{CANARY}{name}")


@pytest.fixture
def short(fast):
    fast["training"] |= {"steps": 2}
    fast["strategies"] = {"replay": {}}
    return fast


def test_the_canary_is_found_where_it_is(tmp_path):
    (tmp_path / "file").write_text(f"a {CANARY} b")
    assert holders(tmp_path) == [str(tmp_path / "file")]


def test_no_secret_of_the_environment_is_written_sent_or_said(
    secret_environment, short, own_store, cli, write_config, tmp_path, caplog
):
    short["tracking"] = {}
    said = cli("run", write_config(tmp_path / "experiment.yaml", short))
    assert said.code == 0
    assert list(tmp_path.glob("mlruns/**/summary.json"))
    assert CANARY not in said.out + said.err + caplog.text
    assert holders(tmp_path) == []


@pytest.mark.parametrize("place", ["environment", "config"])
def test_no_password_of_a_tracking_address_is_written_or_said(
    short, cli, write_config, tmp_path, caplog, monkeypatch, place
):
    address = f"http://{CANARY}user:{CANARY}pw@127.0.0.1:9/?token={CANARY}"
    monkeypatch.setattr("cl_mlm.experiment.session.SENDING_SECONDS", 0.5)
    short["tracking"] = {"uri": address} if place == "config" else {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    path = write_config(tmp_path / "experiment.yaml", short)
    said = cli("run", path)
    assert said.code == 0
    assert "127.0.0.1:9" in said.out
    assert CANARY not in said.out + said.err + caplog.text
    assert holders(tmp_path, but=path) == []


@pytest.mark.parametrize(
    "override",
    [
        "tracking.uri=[postgresql://user:{canary}@host/db]",
        "training.epochs=postgresql://user:{canary}@host/db",
        "tracking.uri=file://user:{canary}@host/db",
        "tracking.uri=http://user:{canary}/x@host",
        "tracking.uri='http://user:{canary}#x@host'",
        "tracking.uri='postgresql://user:x {canary}@y@host/db'",
        "model.name=https://user:{canary}@host/db",
    ],
)
def test_no_password_of_a_setting_is_said_in_an_error(short, cli, write_config, tmp_path, override):
    said = cli("run", write_config(tmp_path / "experiment.yaml", short), override.format(canary=CANARY))
    assert said.code == 2
    assert CANARY not in said.out + said.err


def test_a_password_among_the_arguments_of_a_component_is_not_written(short, tmp_path):
    short["model"]["name"] = "tiny"
    short["strategies"] = {}
    result = cl_mlm.run(short, strategies=[With(f"postgresql://user:{CANARY}/x@host/db")], progress=False)
    assert result.folder.is_dir()
    assert holders(tmp_path) == []


class With(cl_mlm.Strategy):
    def __init__(self, address: str) -> None:
        self.address = address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://user:a/b@host:5/db", "postgresql://host:5/db"),
        ("postgresql://user:a@b/c@host/db", "postgresql://host/db"),
        ("https://user:a@host/x", "https://host/x"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////folder/a@b.db", "sqlite:////folder/a@b.db"),
        ('{"a": "x://b:c", "d": "e@f"}', '{"a": "x://b:c", "d": "e@f"}'),
    ],
)
def test_credentials_are_taken_out_of_addresses_and_nothing_else(text, shown):
    assert without_credentials(text) == shown
