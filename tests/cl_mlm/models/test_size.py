"""The numbers of a model, known from its config, held against models that are made."""

from dataclasses import replace

import pytest

from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import Config, ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.models.size import model_size
from cl_mlm.objectives.classification import Classification


def test_the_size_of_a_model_is_that_of_one_with_weights(tiny_size):
    from cl_mlm.models.loading import load_backbone

    model = load_backbone(ModelConfig(), list("abcd"), 0, 128, Classification()).model
    numbers = sum(p.numel() for p in model.parameters())
    assert (tiny_size.whole, tiny_size.changing, tiny_size.trained) == (4 * numbers,) * 3
    assert (tiny_size.trainable, tiny_size.number_bytes) == (numbers, 4)


def test_no_weights_are_made(monkeypatch):
    import torch

    made = []
    register = torch.nn.Module.register_parameter

    def watch(self, name, parameter):
        made.append(parameter.device.type if parameter is not None else "meta")
        register(self, name, parameter)

    monkeypatch.setattr(torch.nn.Module, "register_parameter", watch)
    model_size(Config(), list("abcd"), Classification())
    assert set(made) == {"meta"}


def test_of_a_frozen_body_nothing_is_trained(tiny_size):
    config = load_config({"stream": "phrasebook", "finetuning": {"mode": "head"}})
    head = model_size(config, list("abcd"), Classification())
    assert (head.whole, head.trainable) == (tiny_size.whole, 4 * 128 + 4)


def test_a_folder_is_measured_by_its_config_alone(tmp_path):
    from transformers import BertConfig

    BertConfig(
        vocab_size=10, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    ).save_pretrained(tmp_path)
    config = replace(Config(), model=ModelConfig(str(tmp_path)))
    small, large = (model_size(config, list(labels), Classification()) for labels in ("ab", "abc"))
    assert large.whole - small.whole == 4 * 5


def test_a_model_whose_config_cannot_be_had_is_an_error_to_who_asks_for_its_size():
    with pytest.raises(ConfigError, match="cannot load"):
        model_size(replace(Config(), model=ModelConfig("no-such/model")), list("ab"), Classification())
