"""Gram matrices of layers' inputs, by hand and against the inputs of small models."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from cl_mlm.mechanisms import InputGrams


def test_the_gram_matrix_of_two_rows_by_hand():
    model = nn.Sequential(nn.Linear(2, 3))
    grams = InputGrams(model, ["0"])
    with grams.recording(torch.tensor([[1, 1], [1, 0]])):
        model(torch.tensor([[[1.0, 2.0], [0.0, 1.0]], [[3.0, -1.0], [100.0, 100.0]]]))
    assert grams.grams["0"].tolist() == [[1 + 0 + 9, 2 + 0 - 3], [2 + 0 - 3, 4 + 1 + 1]]
    assert grams.tokens == {"0": 3}
    with grams.recording(torch.ones(1, 1)):
        model(torch.tensor([[[1.0, 0.0]]]))
    assert grams.grams["0"][0, 0] == 11
    model(torch.ones(1, 1, 2))  # outside the block nothing is added
    assert grams.tokens == {"0": 4}


def test_one_vector_an_input_needs_no_mask_of_its_own():
    model = nn.Sequential(nn.Linear(2, 2))
    grams = InputGrams(model, ["0"])
    with grams.recording(torch.tensor([[1, 1, 1], [1, 0, 0]])):
        model(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert grams.grams["0"].tolist() == [[10, 14], [14, 20]]


def test_sums_are_in_double_precision_whatever_the_model():
    model = nn.Sequential(nn.Linear(1, 1))
    grams = InputGrams(model, ["0"])
    with grams.recording(torch.ones(1, 2)):
        model(torch.tensor([[[4096.0], [1e-3]]]))
    assert grams.grams["0"].dtype == torch.float64
    assert float(grams.grams["0"]) == 4096.0**2 + float(torch.tensor(1e-3)) ** 2


def test_padding_has_no_part_in_a_decoder(padded_batch):
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=12)
    model, (ids, mask, _) = AutoModelForCausalLM.from_config(config).eval(), padded_batch()
    names = ["transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_proj"]
    together, alone = InputGrams(model, names), InputGrams(model, names)
    with together.recording(mask):
        model(input_ids=ids, attention_mask=mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        with alone.recording(mask[row : row + 1, :length]):
            model(input_ids=ids[row : row + 1, :length])
    assert together.tokens == alone.tokens == dict.fromkeys(names, int(mask.sum()))
    for name in names:
        torch.testing.assert_close(together.grams[name], alone.grams[name], rtol=1e-5, atol=1e-5)
    assert together.grams[names[1]].shape == (64, 64)


def test_encoder_and_decoder_have_masks_of_their_own(padded_batch):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", vocab_size=40, **sizes)).eval()
    ids, mask, _ = padded_batch()
    inner = "decoder.block.0.layer.1.EncDecAttention"
    masks = {f"{inner}.q": torch.ones(4, 2), f"{inner}.k": mask}
    grams = InputGrams(model, list(masks))
    with grams.recording(masks):
        model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :2])
    assert grams.tokens == {f"{inner}.q": 8, f"{inner}.k": int(mask.sum())}
    with grams.recording(mask), pytest.raises(ValueError, match=r"EncDecAttention\.q reads \(4, 2, 16\), which a mask"):
        model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :2])


@pytest.mark.parametrize(("names", "wrong"), [(["1", "2"], "2"), (["norm"], "norm"), (["0"], "0")])
def test_names_that_are_not_linear_layers_are_refused(names, wrong):
    model = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=f"must be linear layers of the model, got {wrong}"):
        InputGrams(model, names)


def test_a_layer_without_a_mask_is_named():
    grams = InputGrams(nn.Sequential(nn.Linear(2, 2)), ["0"])
    with pytest.raises(ValueError, match="0 are missing"), grams.recording({}):
        pass
