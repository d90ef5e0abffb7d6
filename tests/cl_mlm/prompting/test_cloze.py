"""log p(words) in the gap of a prompt, held against log_softmax at the mask."""

from contextlib import nullcontext

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from cl_mlm.data.templates import SLOT
from cl_mlm.errors import DataError
from cl_mlm.prompting.cloze import cloze_likelihoods
from cl_mlm.prompting.reader import Reader

PROMPTS = [f"snow and ice . it was {SLOT} .", f"{SLOT} is what it was", f"so much sun on the beach, so it was {SLOT}"]


@pytest.fixture
def reader(model_folder):
    def make(batch_size=8, **more):
        folder = model_folder("bert")
        model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        return Reader(model, tokenizer, "masked", nullcontext, batch_size, **more)

    torch.manual_seed(0)
    made = make()

    def again(batch_size=8, **more):  # the language-model head is drawn anew in every loading
        return Reader(made.model, made.tokenizer, "masked", nullcontext, batch_size, **more)

    return again


def logits_of(reader, text):
    with torch.no_grad():
        ids = torch.tensor([reader.tokenizer(text)["input_ids"]])
        return ids[0].tolist(), reader.model.eval()(input_ids=ids).logits[0]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_words_of_one_token_have_the_masks_log_probability(reader, batch_size):
    own = reader(batch_size)
    found = cloze_likelihoods(own, PROMPTS, ["hot", "wet"])
    for i, prompt in enumerate(PROMPTS):
        ids, logits = logits_of(own, prompt.replace(SLOT, "[MASK]"))
        at = logits[ids.index(own.tokenizer.mask_token_id)].log_softmax(-1)
        for j, word in enumerate(["hot", "wet"]):
            assert found.total[i, j] == pytest.approx(at[own.tokens([word])[0][0]].item(), abs=1e-4)
    assert (found.num_tokens == 1).all()


def test_words_of_two_tokens_are_filled_in_the_likelier_first(reader):
    own = reader()
    word = "winter"
    first, second = own.tokens([word])[0]
    mask = own.tokenizer.mask_token_id
    for prompt in PROMPTS:
        ids, logits = logits_of(own, prompt.replace(SLOT, "[MASK][MASK]"))
        place = ids.index(mask)
        at = [logits[place].log_softmax(-1)[first].item(), logits[place + 1].log_softmax(-1)[second].item()]
        best = 0 if at[0] >= at[1] else 1
        ids[place + best] = (first, second)[best]
        with torch.no_grad():
            then = own.model.eval()(input_ids=torch.tensor([ids])).logits[0]
        rest = then[place + 1 - best].log_softmax(-1)[(first, second)[1 - best]].item()
        found = cloze_likelihoods(own, [prompt], ["hot", word])
        assert found.total[0, 1] == pytest.approx(at[best] + rest, abs=1e-4)
        assert found.num_tokens.tolist() == [[1, 2]]


def test_a_long_prompt_keeps_its_end_and_its_gap(reader):
    own = reader(wanted_length=16)
    before = cloze_likelihoods(own, ["word " * 30 + f"and then it was {SLOT} ."], ["hot"])
    behind = cloze_likelihoods(own, [f"{SLOT} it was " + "word " * 30], ["hot"])
    assert before.num_cut == behind.num_cut == 1
    again = cloze_likelihoods(own, ["other text " + "word " * 30 + f"and then it was {SLOT} ."], ["hot"])
    assert before.total == pytest.approx(again.total, abs=1e-5)


def test_a_prompt_with_two_gaps_is_refused(reader):
    with pytest.raises(DataError, match=r"must have one gap, got 2 in 'a \[mask\] b \[mask\]'"):
        cloze_likelihoods(reader(), [f"a {SLOT} b {SLOT}"], ["x"])
