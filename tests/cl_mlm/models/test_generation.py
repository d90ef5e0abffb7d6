"""Our own greedy writing held against `model.generate`, row by row and in batches that rows leave."""

from contextlib import nullcontext
from functools import wraps
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from cl_mlm.models.answer_trie import AnswerTrie
from cl_mlm.models.finetuning import set_trainable
from cl_mlm.models.generation import generate_tokens
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.models.writing import begin

from .test_finetuning import options

DECODERS, PAIRS = ["gpt2", "llama"], ["t5", "bart"]
START = {"gpt2": None, "llama": None, "t5": 0, "bart": 2}
MOST = 12
END = 3
LENGTHS = [3, 9, 5, 1, 12, 7, 2]


@pytest.fixture
def load(model_folder, one_thread):
    def load(kind):
        family = AutoModelForCausalLM if START[kind] is None else AutoModelForSeq2SeqLM
        model = family.from_pretrained(model_folder(kind)).eval()
        return SimpleNamespace(model=model, tokenizer=letter_tokenizer(), autocast=nullcontext)

    return load


def inputs_of(kind, lengths=LENGTHS):
    """Rows of these lengths, padded on the side on which the model is."""
    random = torch.Generator().manual_seed(1)
    ids, mask = torch.zeros(len(lengths), max(lengths)).long(), torch.zeros(len(lengths), max(lengths)).long()
    for row, length in enumerate(lengths):
        place = slice(max(lengths) - length, None) if START[kind] is None else slice(0, length)
        ids[row, place] = torch.randint(10, 600, (length,), generator=random)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def asked_of_generate(run, kind, inputs, end):
    settings = GenerationConfig(
        max_new_tokens=MOST, do_sample=False, eos_token_id=end, pad_token_id=0, decoder_start_token_id=START[kind]
    )
    run.model.generation_config = settings
    first = inputs["input_ids"].shape[1] if START[kind] is None else 1
    rows = run.model.generate(**inputs, generation_config=settings)[:, first:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def end_that_comes(run, kind, inputs):
    """The token that ends most rows at different places, so that rows leave the batch one after the other."""
    rows = generate_tokens(run, inputs, MOST, START[kind])
    counts = {token: len({row.index(token) for row in rows if token in row}) for row in rows for token in row}
    return max(counts, key=counts.get)


@pytest.mark.parametrize("kind", [*DECODERS, *PAIRS])
def test_every_row_is_what_generate_writes_of_it_alone_and_in_the_batch(load, kind):
    run, inputs = load(kind), inputs_of(kind)
    end = end_that_comes(run, kind, inputs)
    run.tokenizer.eos_token = run.tokenizer.convert_ids_to_tokens(end)
    written = generate_tokens(run, inputs, MOST, START[kind])
    assert len({*map(len, written)}) > 1
    assert written == asked_of_generate(run, kind, inputs, end)
    for row in range(len(written)):
        tokens = inputs["attention_mask"][row] == 1
        alone = {name: tensor[row : row + 1, tokens] for name, tensor in inputs.items()}
        assert generate_tokens(run, alone, MOST, START[kind]) == [written[row]]
        assert asked_of_generate(run, kind, alone, end) == [written[row]]


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_rows_that_have_ended_cost_no_further_step(load, kind):
    run, inputs = load(kind), inputs_of(kind)
    end = end_that_comes(run, kind, inputs)
    run.tokenizer.eos_token = run.tokenizer.convert_ids_to_tokens(end)
    sizes = []
    run.model.lm_head.register_forward_hook(lambda module, given, output: sizes.append(output.shape[0]))
    written = generate_tokens(run, inputs, MOST, START[kind])
    assert sizes == [sum(len(row) > step for row in written) for step in range(max(map(len, written)))]


def test_a_model_that_prepares_its_inputs_in_its_own_way_is_asked_through_generate(load, monkeypatch):
    run, inputs = load("gpt2"), inputs_of("gpt2")
    written = generate_tokens(run, inputs, MOST)
    usual = type(run.model).prepare_inputs_for_generation

    @wraps(usual)
    def own(*given, **more):
        return usual(*given, **more)

    monkeypatch.setattr(type(run.model), "prepare_inputs_for_generation", own)
    assert begin(run.model, inputs, None) is None
    assert generate_tokens(run, inputs, MOST) == written
    trie = AnswerTrie([(20, 30, END), (20, END), (40, 50, 60, END)])
    by_generate = generate_tokens(run, inputs, MOST, answers=trie)
    monkeypatch.undo()
    assert generate_tokens(run, inputs, MOST, answers=trie) == by_generate


def test_virtual_tokens_in_front_of_the_prompt_are_seen_by_every_step(load):
    run, inputs = load("gpt2"), inputs_of("gpt2")
    virtual = torch.tensor([[11, 12, 13]]).expand(len(LENGTHS), -1)
    longer = {
        "input_ids": torch.cat([virtual, inputs["input_ids"]], 1),
        "attention_mask": torch.cat([torch.ones_like(virtual), inputs["attention_mask"]], 1),
    }
    expected = generate_tokens(run, longer, MOST)

    def prepend(module, arguments, given):
        if given.get("past_key_values") is not None:
            return None
        mask = torch.cat([torch.ones_like(virtual), given["attention_mask"]], 1)
        ids = torch.cat([virtual, given["input_ids"]], 1)
        return arguments, {**given, "input_ids": ids, "attention_mask": mask, "position_ids": mask.cumsum(1) - 1}

    run.model.register_forward_pre_hook(prepend, with_kwargs=True)
    assert generate_tokens(run, inputs, MOST) == expected


@pytest.mark.parametrize("kind", [*DECODERS, *PAIRS])
def test_of_a_closed_list_the_likeliest_next_token_is_taken_at_every_step(load, kind):
    run, inputs = load(kind), inputs_of(kind)
    answers = [(20, 30, END), (20, END), (20, 30, 40, END), (50, 60, END), (50, 61, END)]
    written = generate_tokens(run, inputs, MOST, START[kind], AnswerTrie(answers))
    assert {*map(tuple, written)} <= {*answers}
    assert kind not in DECODERS or len({*map(tuple, written)}) > 1
    for row, found in enumerate(written):
        tokens = inputs["attention_mask"][row] == 1
        prompt, so_far = inputs["input_ids"][row : row + 1, tokens], []
        while tuple(so_far) not in answers:
            allowed = {a[len(so_far)] for a in answers if [*a[: len(so_far)]] == so_far}
            told = torch.tensor([[START[kind] or 0, *so_far]])
            given = {"input_ids": prompt, "decoder_input_ids": told}
            if START[kind] is None:
                given = {"input_ids": torch.cat([prompt, told[:, 1:]], 1)}
            with torch.no_grad():
                logits = run.model(**given).logits[0, -1]
            so_far.append(max(sorted(allowed), key=lambda token: float(logits[token])))
        assert found == so_far


def test_where_one_answer_is_left_the_model_is_not_asked(load):
    run, inputs = load("gpt2"), inputs_of("gpt2")
    calls = []
    run.model.register_forward_hook(lambda *given: calls.append(1))
    written = generate_tokens(run, inputs, MOST, answers=AnswerTrie([(20, 30, 31, 32, END), (40, 41, 42, END)]))
    assert (len(calls), {*map(len, written)}) == (1, {5, 4})


def test_a_trie_tells_answers_from_their_beginnings():
    trie = AnswerTrie([(5, 6, END), (5, END)])
    assert [trie.place_of(tokens) for tokens in ((5, 6, END), (5, END), (5, 6), (5,), (7, END), ())] == [
        0,
        1,
        None,
        None,
        None,
        None,
    ]
    assert trie.tokens_after([5]) == [END, 6]
    assert trie.tokens_after([5, END]) == trie.tokens_after([9]) == []


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *[("lora", "llama"), ("ia3", "t5"), ("bottleneck", "gpt2"), ("prompt", "gpt2"), ("prompt", "t5")],
        *[("p_tuning", "llama"), ("prefix", "llama"), ("prefix", "bart"), ("prefix", "gpt2")],
    ],
)
def test_rows_of_an_adapted_model_are_what_generate_writes(load, mode, kind):
    run, inputs = load(kind), inputs_of(kind)
    head = run.model.get_output_embeddings()
    more = {"virtual_tokens": 3} if mode in ("prompt", "p_tuning", "prefix") else {}
    set_trainable(run.model, head, "causal" if START[kind] is None else "seq2seq", options(mode=mode, **more), 0)
    plain = generate_tokens(load(kind), inputs, MOST, START[kind])
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in run.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    run.model.eval()
    end = end_that_comes(run, kind, inputs)
    run.tokenizer.eos_token = run.tokenizer.convert_ids_to_tokens(end)
    written = generate_tokens(run, inputs, MOST, START[kind])
    assert begin(run.model, inputs, START[kind]) is not None
    assert written == asked_of_generate(run, kind, inputs, end)
    assert written != plain
