"""log p(words | prompt), held against sums of log_softmax over one text at a time."""

from contextlib import nullcontext
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from cl_mlm.errors import ConfigError
from cl_mlm.models.tiny import letter_tokenizer, tiny_config
from cl_mlm.prompting import likelihood
from cl_mlm.prompting.likelihood import likelihoods
from cl_mlm.prompting.reader import Reader
from cl_mlm.prompting.scoring import normalised

PROMPTS = ["the film was long.\nIt was", "good", "a very very very long one, which nobody has seen. It was "]
ANSWERS = [" terrible", " ok", " good indeed", " x"]


@pytest.fixture(scope="module")
def made(model_folder):
    @cache  # the head of a language model is drawn anew in every loading
    def make(kind, family):
        auto = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
        torch.manual_seed(0)
        if family.startswith("tiny"):
            return auto.from_config(tiny_config(family, 0.1, 64)), letter_tokenizer(family)
        folder = model_folder(family)
        return auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    return make


@pytest.fixture
def reader(made):
    def make(kind, family, batch_size=8, **more):
        return Reader(*made(kind, family), kind, nullcontext, batch_size, **more)

    return make


def by_hand(reader, prompt, answer):
    """The sum of log_softmax over the answer's tokens, one text at a time, written from the definition alone."""
    model, tokenizer = reader.model.eval(), reader.tokenizer
    context = prompt.rstrip()
    whole = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    begin = len(tokenizer(context, add_special_tokens=False)["input_ids"])
    ids = [tokenizer.cls_token_id, *whole]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    total = 0.0
    for place in range(begin + 1, len(ids)):
        total += logits[place - 1].log_softmax(-1)[ids[place]].item()
    return total, len(whole) - begin


@pytest.mark.parametrize("family", ["gpt2", "llama", "tiny-decoder"])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_a_decoders_answers_are_as_likely_as_computed_by_hand(reader, family, batch_size):
    own = reader("causal", family, batch_size)
    found = likelihoods(own, PROMPTS, ANSWERS)
    for i, prompt in enumerate(PROMPTS):
        for j, answer in enumerate(ANSWERS):
            total, num_tokens = by_hand(own, prompt, answer)
            assert found.total[i, j] == pytest.approx(total, abs=2e-4)
            assert found.num_tokens[i, j] == num_tokens
    assert found.num_cut == 0


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_answers_of_one_token_need_no_second_pass(reader, family, monkeypatch):
    monkeypatch.setattr(likelihood, "_go_on", None)
    one = [" a", " b", " c"]
    found = likelihoods(reader("causal", family), PROMPTS[:2], one)
    assert (found.num_tokens == 1).all()
    for i, prompt in enumerate(PROMPTS[:2]):
        for j, answer in enumerate(one):
            assert found.total[i, j] == pytest.approx(by_hand(reader("causal", family), prompt, answer)[0], abs=2e-4)


def test_a_model_that_cannot_share_a_prompt_gives_the_same(reader, monkeypatch):
    shared = likelihoods(reader("causal", "gpt2"), PROMPTS, ANSWERS)
    monkeypatch.setattr(likelihood, "_can_repeat", lambda cache: False)
    apart = likelihoods(reader("causal", "gpt2", 3), PROMPTS, ANSWERS)
    assert abs(shared.total - apart.total).max() < 2e-4


@pytest.mark.parametrize("family", ["t5", "tiny-encoder-decoder"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_an_encoder_decoders_answers_are_as_likely_as_computed_by_hand(reader, family, batch_size):
    own = reader("seq2seq", family, batch_size)
    found = likelihoods(own, PROMPTS, ["bad", "good indeed"])
    model, tokenizer = own.model.eval(), own.tokenizer
    for i, prompt in enumerate(PROMPTS):
        for j, answer in enumerate(["bad", "good indeed"]):
            target = tokenizer(answer, add_special_tokens=False)["input_ids"]
            begin = model.config.decoder_start_token_id
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor([tokenizer(prompt)["input_ids"]]),
                    decoder_input_ids=torch.tensor([[begin, *target[:-1]]]),
                ).logits[0]
            total = sum(row.log_softmax(-1)[token].item() for row, token in zip(logits, target, strict=True))
            assert found.total[i, j] == pytest.approx(total, abs=2e-4)
            assert found.num_tokens[i, j] == len(target)


@pytest.mark.parametrize(("kind", "family"), [("causal", "tiny-decoder"), ("seq2seq", "tiny-encoder-decoder")])
def test_a_long_prompt_loses_its_beginning_and_says_so(reader, kind, family):
    short, answers = reader(kind, family, wanted_length=16), ["qq", "zz"]
    end = " then the very same end of it"
    found = likelihoods(short, ["a b c d e f g h" + end, "x" + end, end[-8:]], answers)
    assert found.num_cut == 2
    assert found.total[0] == pytest.approx(found.total[1], abs=1e-4)
    assert abs(found.total[0] - found.total[2]).max() > 1e-3


def test_no_room_for_the_answers_is_refused(reader):
    with pytest.raises(ConfigError, match=r"prompting.max_length: must leave room for the answers, got 8"):
        likelihoods(reader("causal", "tiny-decoder", wanted_length=8), ["a"], ["a b c d e f g h i j k l m"])


def test_more_tokens_than_the_model_has_are_refused(reader):
    with pytest.raises(ConfigError, match=r"prompting.max_length: must be at most the model's 1024, got 5000"):
        likelihoods(reader("causal", "tiny-decoder", wanted_length=5000), ["a"], ["b"])


def test_an_empty_prompt_is_the_token_that_begins_a_text(reader):
    own = reader("causal", "tiny-decoder")
    found = likelihoods(own, [""], ["xyz"])
    ids = own.tokenizer("xyz", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = own.model.eval()(input_ids=torch.tensor([[own.tokenizer.bos_token_id, *ids]])).logits[0]
    total = sum(row.log_softmax(-1)[token].item() for row, token in zip(logits, ids, strict=False))
    assert found.total[0, 0] == pytest.approx(total, abs=1e-4)


def test_the_models_mode_is_put_back(reader):
    own = reader("causal", "gpt2")
    own.model.train()
    likelihoods(own, ["a"], ["b"])
    assert all(module.training for module in own.model.modules())


def test_scores_are_divided_by_tokens_or_bytes(reader):
    found = likelihoods(reader("causal", "gpt2"), PROMPTS[:1], [" good indeed", " né"])
    words = ["good indeed", "né"]
    assert (normalised(found, words, "none") == found.total).all()
    assert (normalised(found, words, "tokens") == found.total / found.num_tokens).all()
    assert normalised(found, words, "bytes")[0].tolist() == [found.total[0, 0] / 11, found.total[0, 1] / 3]
