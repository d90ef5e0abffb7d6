"""A model folder brings weights and settings, never code: promises of docs/security.md."""

import json

import pytest
import torch

from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.models.file_safety import check_model
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification


@pytest.fixture
def model_folder(tmp_path):
    """A folder with a small sound model, free to change."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = letter_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder):
    return load_backbone(ModelConfig(str(folder)), ["a", "b"], 0, 16, Classification())


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_sound_model_folder_is_loaded(model_folder):
    assert load(model_folder).head.out_features == 2


def test_a_model_folder_with_weights_only_as_a_pickle_is_refused_and_not_read(model_folder, tmp_path, trap):

    (model_folder / "model.safetensors").unlink()
    torch.save(trap(tmp_path / "sprung"), model_folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"weights must be safetensors, .* has only pytorch_model\.bin"):
        check_model(ModelConfig(str(model_folder)))
    with pytest.raises(ConfigError):
        load(model_folder)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_beside_safetensors_is_not_read(model_folder, tmp_path, trap):

    torch.save(trap(tmp_path / "sprung"), model_folder / "pytorch_model.bin")
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
    monkeypatch.setattr("cl_mlm.models.loading.check_model", lambda config: None)
    with pytest.raises(ConfigError, match="brings code of its own"):
        load(model_folder)


@pytest.mark.parametrize(("name", "state"), [("./missing", "does not exist"), ("{folder}", "has no config.json")])
def test_a_path_that_is_no_model_is_refused(tmp_path, name, state):
    name = name.format(folder=tmp_path)
    with pytest.raises(
        ConfigError,
        match=rf"^model.name: must be tiny, .* a hub id or a folder .*{state}$",
    ):
        check_model(ModelConfig(name))
