"""Rows in one sequence: each as if it were alone, in loss, gradient and features, whatever the family's attention."""

from dataclasses import replace

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from cl_mlm.config.schema import ModelConfig
from cl_mlm.models.backbone import PlainBackbone
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.packed_rows import FAMILIES, PackedRows, balanced, layout
from cl_mlm.models.packed_rows import forward_packed as forward_predicted
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.language_modelling import LanguageModelling
from cl_mlm.objectives.text_to_text import TextToText
from cl_mlm.tokens.logits import NO_TARGET

TEXTS = ["ice", "the long way round the hill and back again", "one", "how cold is it", "two and three", "snow falls"]
ROWS = {"text": TEXTS, "source": TEXTS, "target": ["yes", "no", "ice and snow", "hill", "one", "three of them"]}
OBJECTIVES = {"text_to_text": TextToText, "language_modelling": LanguageModelling}
# Small sizes under the names that one family or another has for them.
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 96),
    **{"num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 4},
    **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
}
SLIDING = ("gemma2", "gemma3_text", "mistral", "phi3", "qwen2", "qwen3", "starcoder2")
BY_DEFAULT = ("gpt2", "llama", "mistral")
CASES = [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.conformance) for name in FAMILIES]
IN_LAYERS = ("gemma2", "gemma3_text", "qwen2", "qwen3")


def backbone_of(family):
    """Returns a random model of a family without dropout; where it has sliding windows, they are shorter than rows."""
    sizes = dict(SIZES)
    if family in SLIDING:
        sizes["sliding_window"] = 4
    if family in IN_LAYERS:
        sizes |= {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
    tokenizer = letter_tokenizer("tiny-decoder")
    config = CONFIG_MAPPING[family](vocab_size=len(tokenizer), initializer_range=0.2, **sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    return PlainBackbone(model, tokenizer, "causal")


def forward_packed(backbone, batch):
    return forward_predicted(backbone, batch, batch.targets != NO_TARGET)


def batch_of(objective, backbone):
    objective.bind(backbone.model, "causal")
    encoded = objective.encode(ROWS, backbone.tokenizer, {}, 32)
    columns = {name: [torch.tensor(value).numpy() for value in column] for name, column in encoded.items()}
    batch = objective.collate(columns, torch.arange(len(TEXTS)), backbone.tokenizer)
    return replace(batch, row_weight=torch.linspace(0.5, 2, len(TEXTS)))


def gradients(backbone, loss):
    backbone.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in backbone.model.named_parameters() if p.grad is not None}


def assert_as_padded(backbone, objective):
    batch = batch_of(objective, backbone)
    padded, packed = backbone.forward(batch), forward_packed(backbone, batch)
    losses = [objective.loss(outputs, batch) for outputs in (padded, packed)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    sites = [objective.sites(outputs, batch) for outputs in (padded, packed)]
    torch.testing.assert_close(sites[1].logits, sites[0].logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(sites[0].row, sites[1].row)
    assert torch.equal(sites[0].target, sites[1].target)
    mask = batch.inputs["attention_mask"][..., None].bool()
    torch.testing.assert_close(packed.features, padded.features * mask, rtol=1e-4, atol=1e-4)
    first, second = (gradients(backbone, (loss * batch.row_weight).sum() / batch.count.sum()) for loss in losses)
    assert first.keys() == second.keys()
    largest = max(float(gradient.abs().max()) for gradient in first.values())
    for name, gradient in first.items():
        assert float((second[name] - gradient).abs().max()) <= 1e-5 * max(1.0, largest), name


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("family", CASES)
def test_packed_rows_have_the_loss_and_the_gradient_of_padded_ones(family, objective, one_thread):
    assert_as_padded(backbone_of(family), OBJECTIVES[objective]())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_eager_attention_packs_too(family, one_thread):
    backbone = backbone_of(family)
    backbone.model.set_attn_implementation("eager")
    assert_as_padded(backbone, TextToText())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_one_sequence_of_all_rows_as_flash_attention_needs_it_is_exact_too(family, one_thread):
    backbone, objective = backbone_of(family), TextToText()
    batch = batch_of(objective, backbone)
    rows = PackedRows(batch.inputs["attention_mask"], None)
    assert rows.shape[0] == 1
    logits = backbone.model(**rows.inputs(batch.inputs["input_ids"]), use_cache=False).logits
    mask = batch.inputs["attention_mask"][..., None].bool()
    torch.testing.assert_close(rows.unpacked(logits), backbone.forward(batch).logits * mask, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_the_others_of_its_sequence(one_thread):
    backbone, objective = backbone_of("llama"), LanguageModelling()
    batch = batch_of(objective, backbone)
    rows = PackedRows(batch.inputs["attention_mask"], 32)
    assert rows.shape[0] < len(batch)  # several share one
    before = objective.loss(forward_packed(backbone, batch), batch)
    other = batch.inputs["input_ids"].clone()
    other[1] = other[1].flip(0)  # the longest, with none beside it, and then one that has neighbours
    other[0, 0] += 1
    changed = replace(batch, inputs={**batch.inputs, "input_ids": other})
    after = objective.loss(forward_packed(backbone, changed), changed)
    assert (before != after).tolist() == [True, True, False, False, False, False]


def test_rows_without_a_predicted_token_cost_nothing(one_thread):
    backbone, objective = backbone_of("gpt2"), LanguageModelling()
    batch = batch_of(objective, backbone)
    none = replace(batch, targets=torch.full_like(batch.targets, NO_TARGET))
    assert objective.loss(forward_packed(backbone, none), none).tolist() == [0.0] * len(batch)


def test_the_longest_rows_are_dealt_out_first():
    assert balanced([3, 9, 5, 4, 6, 1], 3) == [[1, 5], [4, 0], [2, 3]]


def test_rows_are_packed_where_that_is_less_work():
    assert layout([10] * 4, 576) == [[0], [1], [2], [3]]  # nothing is padded anyway
    assert layout([10, 9, 8, 7], 576) == [[0, 3], [1, 2]]
    assert layout([600, 300, 300, 20], 10**6) == [[0, 1, 2, 3]]  # no token too many
    assert layout([600, 300, 300, 20], 576) == [[0, 3], [1, 2]]  # a few, and far less attention


def test_the_head_keeps_nothing_of_a_packed_pass(one_thread):
    backbone = backbone_of("gpt2")
    forward_packed(backbone, batch_of(TextToText(), backbone))
    assert backbone._head_input is None
    assert len(backbone.head._forward_pre_hooks) == 1


def test_tiny_decoders_pack(one_thread):
    objective = TextToText()
    backbone = load_backbone(ModelConfig("tiny-decoder"), (), 0, 32, objective)
    backbone.model.eval()
    assert_as_padded(backbone, objective)
