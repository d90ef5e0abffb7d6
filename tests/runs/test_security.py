"""The promises of docs/security.md, each held against an attempt to break it."""

import ast
import json
import os
import re
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import ConfigError, DataError, RunFolderError
from cl_mlm.models.file_safety import check_model
from cl_mlm.models.loading import load_backbone
from cl_mlm.storage.checkpoint import last_good
from cl_mlm.storage.run_lookup import run_folder
from cl_mlm.storage.state_files import MANIFEST, damage, read_entry, write_entry
from cl_mlm.tokens.encoding import EncodedRows
from cl_mlm.tracking.journal import without_credentials
from cl_mlm.tracking.slugs import slug, slugs

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("cl_mlm", "streams", "strategies") for path in (ROOT / package).rglob("*.py"))
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


# --- no pickle, no code from data: what the source may not contain


def faults_of_source(text):
    """Returns what a source file does that could run data as code."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [m for m in modules if m.partition(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            found += faults_of_call(node)
    return found


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "load", "unsafe_load"),
}


def faults_of_call(call):
    name = ast.unparse(call.func)
    given_ = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    found = [name] if name in FORBIDDEN_CALLS else []
    for key, allowed in (("shell", "False"), ("allow_pickle", "False"), ("trust_remote_code", "False")):
        if given_.get(key, allowed) != allowed:
            found.append(f"{name}({key}={given_[key]})")
    if re.fullmatch(r"(np|numpy)\.load", name) and "allow_pickle" not in given_:
        found.append(f"{name} without allow_pickle=False")
    is_auto = re.fullmatch(r"Auto\w+\.from_(pretrained|config)", name)
    if is_auto and "trust_remote_code" not in given_:
        found.append(f"{name} without trust_remote_code=False")
    if is_auto and name.startswith("AutoModel") and name.endswith("pretrained") and "use_safetensors" not in given_:
        found.append(f"{name} without use_safetensors=True")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_file_runs_data_as_code(path):
    assert faults_of_source(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "yaml.load(text, Loader=Loader)",
        "AutoConfig.from_pretrained(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
        "AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        "load_dataset(name, trust_remote_code=flag)",
    ],
)
def test_what_would_run_data_as_code_is_seen(text):
    assert faults_of_source(text)


def test_calls_that_are_safe_are_not_taken_for_others():
    assert faults_of_source("model.eval()\nnp.load(path, allow_pickle=False)\nre.compile(text)\njson.load(file)") == []


class Trap:
    """A pickle that, when it is read, writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.fixture
def model_folder(tmp_path):
    """A folder with a small sound model, free to change."""
    from transformers import BertConfig, BertForSequenceClassification

    from cl_mlm.models.tiny import letter_tokenizer

    tokenizer = letter_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder):
    return load_backbone(ModelConfig(str(folder)), ["a", "b"], 0, 16)


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_sound_model_folder_is_loaded(model_folder):
    assert load(model_folder).head.out_features == 2


def test_a_model_folder_with_weights_only_as_a_pickle_is_refused_and_not_read(model_folder, tmp_path):
    import torch

    (model_folder / "model.safetensors").unlink()
    torch.save(Trap(str(tmp_path / "sprung")), model_folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"weights must be safetensors, .* has only pytorch_model\.bin"):
        check_model(ModelConfig(str(model_folder)))
    with pytest.raises(ConfigError):
        load(model_folder)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_beside_safetensors_is_not_read(model_folder, tmp_path):
    import torch

    torch.save(Trap(str(tmp_path / "sprung")), model_folder / "pytorch_model.bin")
    assert load(model_folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_model_folder_with_code_of_its_own_is_refused_and_the_code_not_run(model_folder, tmp_path, file):
    (model_folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n")
    change_json(model_folder / file, auto_map={"AutoConfig": "own.C", "AutoTokenizer": ["own.T", None]})
    with pytest.raises(ConfigError, match=r"^model\.name: .* brings code of its own \(auto_map\), which is not run$"):
        load(model_folder)
    assert not (tmp_path / "sprung").exists()


def test_a_model_of_the_hub_with_code_of_its_own_is_refused(model_folder, monkeypatch):
    """What is not a local folder is seen when its config has been loaded."""
    change_json(model_folder / "config.json", auto_map={"AutoConfig": "own.C"})
    monkeypatch.setattr("cl_mlm.models.backbone.check_model", lambda config: None)
    with pytest.raises(ConfigError, match="brings code of its own"):
        load(model_folder)


# --- names stay inside the run folder

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


# --- what is read of a run folder, a cache or a checkpoint stays inside it


@pytest.mark.parametrize("name", ["../secret", "{absolute}", "nul\0", "x/../../secret", "a" * 5000])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path, name):
    import hashlib

    secret = tmp_path / "secret"
    secret.write_text("x")
    entry = tmp_path / "000"
    write_entry(entry, {"a": 1})
    name = name.format(absolute=secret)
    manifest = json.loads((entry / MANIFEST).read_text())
    (entry / MANIFEST).write_text(json.dumps({name: hashlib.sha256(b"x").hexdigest(), **manifest}))
    assert damage(entry) == f"{entry / name}: is missing"
    assert last_good(tmp_path)[0] is None


def test_a_checkpoint_with_a_link_to_elsewhere_is_refused(tmp_path):
    entry = tmp_path / "000"
    write_entry(entry, {"a": 1})
    moved = shutil.move(entry / "state.json", tmp_path / "elsewhere.json")
    (entry / "state.json").symlink_to(moved)
    assert damage(entry) == f"{entry / 'state.json'}: is missing"


@pytest.mark.parametrize("manifest", ["[]", '"x"', "null", "3"])
def test_a_manifest_that_is_no_mapping_is_damage(tmp_path, manifest):
    entry = tmp_path / "000"
    write_entry(entry, {"a": 1})
    (entry / MANIFEST).write_text(manifest)
    assert "must map names to checksums" in (damage(entry) or "")


def test_a_state_refers_to_tensors_of_its_own_file_only(tmp_path):
    entry = tmp_path / "000"
    write_entry(entry, {"a": np.zeros(2)})
    (entry / "state.json").write_text('{"a": {"$tensor": "../../secret"}}')
    with pytest.raises(KeyError, match=r"\.\./\.\./secret"):
        read_entry(entry)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/b", "", "nul\0"])
def test_a_cache_entry_whose_columns_lead_elsewhere_is_refused(tmp_path, name):
    for folder in (tmp_path, tmp_path / "entry"):
        folder.mkdir(exist_ok=True)
        for file in ("outside", "input_ids"):
            np.save(folder / f"{file}.values.npy", np.zeros(1, dtype=np.int32))
            np.save(folder / f"{file}.offsets.npy", np.zeros(2, dtype=np.int64))
    layout = {"columns": {"input_ids": True, name: False}}
    (tmp_path / "entry" / "layout.json").write_text(json.dumps(layout))
    with pytest.raises(DataError, match=r"layout\.json: columns must have plain names, got \["):
        EncodedRows(tmp_path / "entry")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"columns": 3}', '{"columns": ["a"]}'])
def test_a_damaged_cache_entry_is_named(tmp_path, text):
    (tmp_path / "layout.json").write_text(text)
    with pytest.raises(DataError, match=r"layout\.json: cannot be read: .*; remove .*, it is made anew"):
        EncodedRows(tmp_path)


def test_a_cache_array_that_is_a_pickle_is_refused_and_not_read(tmp_path):
    array = np.empty(1, dtype=object)
    array[0] = Trap(str(tmp_path / "sprung"))
    np.save(tmp_path / "input_ids.values.npy", array, allow_pickle=True)
    (tmp_path / "layout.json").write_text('{"columns": {"input_ids": true}}')
    with pytest.raises(ValueError, match="Python objects"):
        EncodedRows(tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("path", ["../secret", "{absolute}"])
def test_a_journal_that_names_a_file_elsewhere_sends_nothing_of_it(tmp_path, own_store, path):
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.tracking.mlflow_sender import sync

    secret, folder = tmp_path / "secret", tmp_path / "run"
    secret.write_text(CANARY)
    folder.mkdir()
    with Journal(folder / "journal.jsonl") as journal:
        journal.start("experiment", "run")
    line = {"time": 1, "kind": "artifact", "stage": None, "path": path.format(absolute=secret)}
    with (folder / "journal.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(RunFolderError, match="artifacts must lie in the run folder, got"):
        sync(folder)
    assert not holders(tmp_path, but=secret)


# --- YAML and interpolations


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


# --- secrets of the environment


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
