"""Loading a model: its dropout, its fresh head, and what is refused."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.models.loading import load_backbone
from cl_mlm.objectives.classification import Classification

FAMILIES = ["bert", "roberta", "distilbert", "gpt2", "llama", "t5", "bart"]
LABELS = ("red", "green", "blue")
GROWN = (*LABELS, "black", "white")
MAX_LENGTH = 32


def dropout_rates(model):
    """Every dropout probability that a module holds, as a Dropout module or as a number for a functional call."""
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    for module in model.modules():
        rates += [value for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)]
    return rates


@pytest.mark.parametrize("kind", FAMILIES)
def test_dropout_reaches_every_module(load, kind):
    rates = dropout_rates(load(kind, dropout=0.3).model)
    assert rates
    assert set(rates) == {0.3}


@pytest.mark.parametrize("kind", FAMILIES)
def test_dropout_null_keeps_the_models_own(load, folder_of, kind):
    own = AutoModelForSequenceClassification.from_pretrained(folder_of(kind))
    assert dropout_rates(load(kind).model) == dropout_rates(own)


def test_a_classifier_of_other_labels_gets_a_head_that_follows_from_the_seed(folder_of):
    config = ModelConfig(folder_of("bert"))
    heads = [load_backbone(config, GROWN, seed, MAX_LENGTH, Classification()).head.weight for seed in (4, 4, 5)]
    assert heads[0].shape[0] == len(GROWN)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_classifier_of_other_labels_keeps_its_body(load, folder_of):
    body = load_backbone(ModelConfig(folder_of("bert")), GROWN, 4, MAX_LENGTH, Classification()).model.base_model
    for first, second in zip(body.parameters(), load("bert").model.base_model.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_damaged_model_folder_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no such model"}')
    with pytest.raises(ConfigError, match=r"^model.name: cannot load"):
        load_backbone(ModelConfig(str(tmp_path)), LABELS, 0, MAX_LENGTH, Classification())
