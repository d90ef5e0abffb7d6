"""Text to text that chooses among its answers: always one of them, and what is written freely is scored beside."""

import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from cl_mlm.config.schema import ModelConfig
from cl_mlm.models.answer_trie import AnswerTrie
from cl_mlm.models.generation import generate_tokens
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.text_to_text import TextToText
from cl_mlm.tokens.target_batches import left_padded_prompts

ANSWERS = ["ice", "ice cream", "two and three", "hill"]
ROWS = {"source": ["how cold is it", "one", "the long way round", "x y z"], "target": [*ANSWERS]}


@pytest.fixture
def ask(model_folder, one_thread):
    def ask(kind, **options):
        objective = TextToText(answers=ANSWERS, **options)
        backbone = load_backbone(ModelConfig(model_folder(kind)), (), 0, 64, objective)
        backbone.model.eval()
        objective.bind(backbone.model, backbone.kind)
        encoded = objective.encode(ROWS, backbone.tokenizer, {}, 64)
        columns = {name: [torch.tensor(tokens).int().numpy() for tokens in column] for name, column in encoded.items()}
        batch = objective.collate(columns, torch.arange(4), backbone.tokenizer)
        run = SimpleNamespace(model=backbone.model, tokenizer=backbone.tokenizer, autocast=nullcontext)
        return objective.predict(run, batch), run, batch

    return ask


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5", "bart"])
def test_every_row_gets_an_answer_and_what_is_written_freely_is_kept(ask, kind):
    found, _, _ = ask(kind, decode="constrained")
    assert {*found.values} <= {*ANSWERS}
    plain, _, _ = ask(kind, decode="free")
    assert (found.free, plain.free) == (plain.values, None)


def test_an_answer_that_is_written_freely_is_the_one_that_is_chosen(ask, monkeypatch):
    found, run, batch = ask("gpt2", decode="constrained")
    inputs = left_padded_prompts(batch, 0)
    tokens = [[*ids, 3] for ids in run.tokenizer(ANSWERS, add_special_tokens=False)["input_ids"]]
    chosen = generate_tokens(run, inputs, 64, answers=AnswerTrie(tokens))
    assert found.values == [ANSWERS[tokens.index(row)] for row in chosen]
    asked = []

    def written(run, inputs, most, start=None, answers=None, end=None):
        asked.append(len(inputs["input_ids"]))
        return [tokens[1], [9, 3], tokens[0], tokens[3]] if answers is None else [tokens[2]]

    monkeypatch.setattr("cl_mlm.tokens.closed_answers.generate_tokens", written)
    objective = TextToText(answers=ANSWERS, decode="constrained")
    assert objective.predict(run, batch).values == ["ice cream", "two and three", "ice", "hill"]
    assert asked == [4, 1]


def test_a_perfect_model_can_choose_every_answer():
    objective = TextToText(answers=ANSWERS, decode="constrained")
    found = objective.attainable(ROWS, letter_tokenizer("tiny-decoder"), {}, 64, ())
    assert found.values == ANSWERS
    assert found.obstacles == [None] * 4


@pytest.mark.parametrize(
    ("answers", "options", "said"),
    [
        (["a", "A"], {}, "'a' and 'A' have the same tokens"),
        (["an answer that is long", "b"], {"max_new_tokens": 3}, "max_new_tokens: 'an answer that is long' has"),
        (["a [SEP] b", "b"], {}, "'a .SEP. b' holds the token that ends a text"),
    ],
)
def test_answers_that_cannot_be_told_apart_or_written_are_refused(answers, options, said):
    objective = TextToText(answers=answers, decode="constrained", **options)
    tokenizer = letter_tokenizer()  # folds capitals
    faults = objective.tokenizer_faults(tokenizer, "causal")
    assert len(faults) == 1
    assert re.search(said, faults[0])
    assert "decode: constrained" in faults[0]
    assert TextToText(answers=answers, **options).tokenizer_faults(tokenizer, "causal") == []


def test_there_must_be_answers_to_choose_from():
    (fault,) = TextToText(decode="constrained").faults(64)
    assert fault == "decode: must be free where there are no answers to choose from, got constrained"
