"""Bottleneck adapters: where they stand, what they compute, and what a folder gives back."""

import json
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import RunFolderError
from cl_mlm.mechanisms import SquaredGradients
from cl_mlm.models.adapter_files import read_adapter, with_adapter, write_adapter
from cl_mlm.models.bottleneck import Adapted
from cl_mlm.models.finetuning import set_trainable
from cl_mlm.models.loading import AUTO_CLASSES

from .test_finetuning import FAMILIES, FORMS, KINDS, inputs, logits, made, moved, options

H, D = 16, 4
# Layers behind which a bottleneck stands in the first block, that of the feed-forward part last.
PLACES = {
    "bert": ["attention.output.dense", "output.dense"],
    "roberta": ["attention.output.dense", "output.dense"],
    "distilbert": ["attention.out_lin", "ffn.lin2"],
    "gpt2": ["attn.c_proj", "mlp.c_proj"],
    "llama": ["self_attn.o_proj", "mlp.down_proj"],
    "t5": ["layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"],
    "bart": ["self_attn.out_proj", "fc2"],
}


def adapted(family, kind=None, seed=0, **given):
    kind = kind or KINDS[family][0]
    model, head = made(family, kind)
    set_trainable(model, head, kind, options("bottleneck", **{"width": D, **given}), seed)
    return model.eval()


def places(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapted)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_a_bottleneck_stands_behind_the_output_layers_of_each_block(family, placement):
    names = list(places(adapted(family, placement=placement)))
    blocks = [re.match(r"\D+\.(\d+)\.(.*)", name).groups() for name in names if "decoder" not in name]
    first = [place for block, place in blocks if block == "0"]
    assert first == PLACES[family][1 if placement == "pfeiffer" else 0 :]
    stacks = 2 if family in ("t5", "bart") else 1
    cross = 3 if stacks == 2 and placement == "houlsby" else 0
    assert len(names) == 3 * stacks * (1 if placement == "pfeiffer" else 2) + cross


@pytest.mark.parametrize(("family", "kind"), FORMS)
def test_at_a_start_of_zero_the_model_computes_what_its_base_does(family, kind):
    base, _ = made(family, kind)
    expected = logits(base, kind, family)
    assert torch.equal(logits(adapted(family, kind), kind, family), expected)
    assert not torch.equal(logits(adapted(family, kind, start="normal"), kind, family), expected)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_it_adds_what_the_paper_says(family):
    """h + W_up g(W_down h), with biases (arXiv:1902.00751, section 2.1)."""
    layer = next(iter(places(moved(adapted(family))).values()))
    x = torch.randn(5, 16)
    h = layer.base_layer(x)
    parts = dict(layer.s000.named_parameters())
    inner = nn.functional.gelu(h @ parts["down.weight"].T + parts["down.bias"])
    torch.testing.assert_close(layer(x), h + inner @ parts["up.weight"].T + parts["up.bias"])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_adapters_and_the_head_alone(family):
    kind = KINDS[family][0]
    model = moved(adapted(family))
    found = places(model)
    of_adapters = [p for name, p in model.named_parameters() if ".s000." in name]
    assert sum(p.numel() for p in of_adapters) == len(found) * (2 * H * D + H + D)
    model(**inputs(kind, family)).logits.square().sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert all(p.grad is not None and p.grad.any() for p in of_adapters)
    heads = ("classifier", "pre_classifier", "score", "classification_head")
    assert all(".s000." in name or name.startswith(heads) for name in with_gradient)


def test_squared_gradients_of_rows_come_from_hooks():
    model = moved(adapted("bert"))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    squares = SquaredGradients(model, trained)
    assert squares.add(lambda: model(**inputs("sequence", "bert")).logits.square().sum(-1))
    by_hand = {name: torch.zeros_like(p) for name, p in trained.items()}
    for row in range(2):
        loss = model(**inputs("sequence", "bert")).logits.square().sum(-1)[row]
        for name, gradient in zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True):
            by_hand[name] += gradient.square()
    for name, total in squares.sums.items():
        torch.testing.assert_close(total, by_hand[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_of_an_adapter_gives_the_same_logits(family, tmp_path):
    kind = KINDS[family][0]
    made(family, kind)[0].save_pretrained(tmp_path / "base")
    given = {"placement": "pfeiffer", "layers": [0, 2]}
    model = moved(adapted(family, **given))
    expected = logits(model, kind, family)
    mode = options("bottleneck", width=D, **given)
    write_adapter(tmp_path / "adapter", model, mode, ModelConfig(name=str(tmp_path / "base")))
    told = {"mode": "bottleneck", "width": D, "start": "zero", "export": "adapter", **given}
    assert json.loads((tmp_path / "adapter/finetuning.json").read_text()) == told
    assert not (tmp_path / "adapter/adapter_config.json").exists(), "peft would not know what to make of it"
    plain = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(tmp_path / "base", num_labels=3)
    assert torch.equal(logits(with_adapter(plain, tmp_path / "adapter").eval(), kind, family), expected)
    other = adapted(family, seed=1, **given)
    read_adapter(tmp_path / "adapter", other)
    assert torch.equal(logits(other, kind, family), expected)


def test_an_adapter_of_another_width_is_not_put_in(tmp_path):
    model = adapted("bert")
    made("bert", "sequence")[0].save_pretrained(tmp_path / "base")
    origin = ModelConfig(name=str(tmp_path / "base"))
    write_adapter(tmp_path / "adapter", model, options("bottleneck", width=D), origin)
    kept = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert all("s000" not in name for name in kept)
    with pytest.raises(RunFolderError, match=r"must hold the tensors that are trained, differs in"):
        read_adapter(tmp_path / "adapter", adapted("bert", placement="pfeiffer"))


def test_bottlenecks_are_drawn_from_the_seed_alone_and_stay_fp32_in_a_body_of_16_bits():
    def drawn(seed):
        torch.manual_seed(seed * 7)
        return adapted("bert", seed=seed).get_parameter("bert.encoder.layer.0.output.dense.s000.down.weight")

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    model, head = made("bert", "sequence")
    set_trainable(model.to(torch.bfloat16), head, "sequence", options("bottleneck"), 0)
    assert {p.dtype for name, p in model.named_parameters() if "s000" in name} == {torch.float32}
    layer = next(iter(places(model).values()))
    assert layer(torch.zeros(2, H, dtype=torch.bfloat16)).dtype == torch.bfloat16
