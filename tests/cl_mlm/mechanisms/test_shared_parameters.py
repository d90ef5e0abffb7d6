"""Gradients by row of models that share tables, and of what peft adds, against autograd one row at a time."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from cl_mlm.config.schema import FinetuningConfig
from cl_mlm.mechanisms import SquaredGradients
from cl_mlm.models.finetuning import set_trainable

VOCABULARY, PAD, EOS = 40, 1, 2
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
ATTENTION = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
CONFIGS = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 12},
    "llama": TINY | {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "gemma3_text": TINY | {"num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True},
    "bert": TINY | {"max_position_embeddings": 12},
    "mpnet": TINY | {"max_position_embeddings": 14},
    "t5": T5,
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "scale_embedding": True} | ATTENTION,
}
CLASSES = {"bert": AutoModelForMaskedLM, "mpnet": AutoModelForMaskedLM}
CLASSES |= {"t5": AutoModelForSeq2SeqLM, "bart": AutoModelForSeq2SeqLM}


def tiny_model(kind, dtype=torch.float64, **finetuning):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, pad_token_id=PAD, eos_token_id=EOS, **CONFIGS[kind])
    model = CLASSES.get(kind, AutoModelForCausalLM).from_config(config).to(dtype).eval()
    if finetuning:
        options = ({"rank": 2, "alpha": 4.0, "dropout": 0.0} if finetuning["mode"] == "lora" else {}) | finetuning
        form = "seq2seq" if kind in ("t5", "bart") else "causal"
        set_trainable(model, model.get_output_embeddings(), form, FinetuningConfig(**options), 0)
        model.to(dtype)
    with torch.no_grad():  # larger than the usual initialisation, so that no gradient drowns in rounding
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def losses_of(model, batch):
    """The summed cross-entropy of each row's tokens; the first token of a row is not predicted."""
    ids, mask, _ = batch
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.flip(1)[:, :5]  # of another length than the text
    logits = model(**inputs, use_cache=False).logits if "use_cache" in model.config else model(**inputs).logits
    targets = ids[:, : logits.shape[1]].masked_fill(mask[:, : logits.shape[1]] == 0, -100).clone()
    targets[:, 0] = -100
    return cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(1)


def found_and_expected(model, batch, power=2):
    """Sums by taps, which must serve all of the model, and sums from one row at a time."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = SquaredGradients(model, parameters, power=power)
    assert found.add(lambda: losses_of(model, batch)), found.slow_modules
    totals = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for row in range(len(batch[0])):
        loss = losses_of(model, tuple(tensor[row : row + 1] for tensor in batch)).sum()
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for name, gradient in zip(totals, gradients, strict=True):
            totals[name] += gradient.abs() ** power
    return found.sums, totals


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", CONFIGS)
def test_language_models_that_share_tables_have_exact_sums(kind, power, padded_batch, assert_same):
    found, expected = found_and_expected(tiny_model(kind), padded_batch(), power)
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("bert", {"mode": "lora", "targets": "all-linear"}),
        ("bert", {"mode": "lora", "dora": True}),
        ("bert", {"mode": "ia3"}),
        ("gpt2", {"mode": "lora", "dora": True, "targets": "all-linear"}),
        ("gpt2", {"mode": "ia3"}),
        ("llama", {"mode": "lora", "dora": True}),
        ("t5", {"mode": "ia3"}),
        ("bart", {"mode": "lora"}),
        ("bert", {"mode": "bottleneck", "width": 4, "start": "normal"}),
        ("gpt2", {"mode": "prompt", "virtual_tokens": 3, "init": "vocab"}),
        ("bert", {"mode": "p_tuning", "virtual_tokens": 3, "hidden_size": 8}),
        ("llama", {"mode": "prefix", "virtual_tokens": 3}),
        ("t5", {"mode": "prefix", "virtual_tokens": 3, "prefix_projection": True, "hidden_size": 8}),
        ("bert", {"mode": "bitfit"}),
        ("t5", {"mode": "norm"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("power", [1, 2])
def test_what_peft_adds_has_exact_sums(kind, mode, power, padded_batch, assert_same):
    found, expected = found_and_expected(tiny_model(kind, **mode), padded_batch(), power)
    assert_same(found, expected)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5", "bart"])
def test_in_single_precision_sums_differ_by_rounding_alone(kind, padded_batch):
    found, expected = found_and_expected(tiny_model(kind, torch.float32), padded_batch())
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= 1e-5 * float(value.norm()), name
