"""Prompts to models with virtual tokens: as likely as one text at a time says, whatever is cached or padded."""

from contextlib import nullcontext

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from cl_mlm.config.schema import FinetuningConfig
from cl_mlm.data.templates import SLOT
from cl_mlm.models.backbone import PlainBackbone
from cl_mlm.models.tiny import letter_tokenizer, tiny_config
from cl_mlm.prompting import likelihood
from cl_mlm.prompting.cloze import cloze_likelihoods
from cl_mlm.prompting.likelihood import likelihoods
from cl_mlm.prompting.reader import Reader

from .test_likelihood import ANSWERS, PROMPTS, by_hand

NUM = 3
FORMS = {
    "causal": (AutoModelForCausalLM, "tiny-decoder"),
    "seq2seq": (AutoModelForSeq2SeqLM, "tiny-encoder-decoder"),
    "masked": (AutoModelForMaskedLM, "tiny"),
}
MODES = {
    "prompt": FinetuningConfig(mode="prompt", virtual_tokens=NUM, init="random"),
    "prefix": FinetuningConfig(mode="prefix", virtual_tokens=NUM),
}


def reader(kind, mode):
    auto, name = FORMS[kind]
    torch.manual_seed(0)
    backbone = PlainBackbone(auto.from_config(tiny_config(name, 0.1, 64)), letter_tokenizer(name), kind)
    plain = Reader(backbone.model, backbone.tokenizer, kind, nullcontext, 5).max_length
    backbone.set_trainable(MODES[mode], 0)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    made = Reader(backbone.model, backbone.tokenizer, kind, nullcontext, 5)
    assert plain - made.max_length == (0 if kind == "seq2seq" else NUM)
    return made


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("can_repeat", [True, False])
def test_a_decoders_answers_are_as_likely_as_computed_by_hand(mode, can_repeat, monkeypatch):
    own = reader("causal", mode)
    if not can_repeat:
        monkeypatch.setattr(likelihood, "_can_repeat", lambda cache: False)
    found = likelihoods(own, PROMPTS, ANSWERS)
    wanted = [[by_hand(own, prompt, answer)[0] for answer in ANSWERS] for prompt in PROMPTS]
    assert found.total.tolist() == [pytest.approx(row, abs=2e-4) for row in wanted]


@pytest.mark.parametrize("mode", MODES)
def test_an_encoder_decoders_answers_are_as_likely_as_computed_by_hand(mode):
    own = reader("seq2seq", mode)
    answers = ["bad", "good indeed"]
    found = likelihoods(own, PROMPTS, answers)
    for i, prompt in enumerate(PROMPTS):
        for j, answer in enumerate(answers):
            target = own.tokens([answer])[0]
            with torch.no_grad():
                logits = own.model.eval()(
                    input_ids=torch.tensor([own.tokenizer(prompt)["input_ids"]]),
                    decoder_input_ids=torch.tensor([[own.decoder_start, *target[:-1]]]),
                ).logits[0]
            total = sum(row.log_softmax(-1)[token].item() for row, token in zip(logits, target, strict=True))
            assert found.total[i, j] == pytest.approx(total, abs=2e-4)


def test_words_in_a_gap_have_the_masks_log_probability():
    own = reader("masked", "prompt")
    prompts = [f"it was {SLOT} .", f"{SLOT} is what it was, and long"]
    found = cloze_likelihoods(own, prompts, ["hot", "wet"])
    for i, prompt in enumerate(prompts):
        ids = own.tokenizer(prompt.replace(SLOT, "[MASK]"))["input_ids"]
        with torch.no_grad():
            logits = own.model.eval()(input_ids=torch.tensor([ids])).logits[0]
        at = logits[ids.index(own.tokenizer.mask_token_id)].log_softmax(-1)
        for j, word in enumerate(["hot", "wet"]):
            assert found.total[i, j] == pytest.approx(at[own.tokens([word])[0][0]].item(), abs=1e-4)
