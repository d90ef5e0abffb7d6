"""The shipped wordings: every stage of a published sequence has one, in the words of its paper."""

import pytest
from datasets import Dataset

from cl_mlm.cli.listing import listing
from cl_mlm.data.stream_building import build_stream
from cl_mlm.stream import Stage, Stream
from streams._instructions import WORDING_SETS
from streams._sequences import SEQUENCES


@pytest.mark.parametrize(("sets", "name"), [("standard4", "o_lora"), ("long15", "o_lora"), ("trace", "trace")])
def test_every_stage_of_a_published_sequence_has_a_wording(sets, name):
    sequence = SEQUENCES[sets]
    for stage in {stage for order in sequence.orders.values() for stage in order}:
        assert WORDING_SETS[name].source(stage) is not None
        assert WORDING_SETS[name].source(sequence.prefix + stage) == WORDING_SETS[name].source(stage)
    assert WORDING_SETS[name].source("other") is None


def filled(stage, name, labels=(), **row):
    rows = Dataset.from_dict({column: [value] for column, value in row.items()})
    objective = "classification" if "label" in row else "text_to_text"
    stream = Stream("s", (Stage(stage, rows, rows, rows, labels, objective=objective),))
    made = build_stream({"template": name, "overlap": "keep"}, None, stream)[0].stages[0]
    return made.train[0]["source"], made.options


def test_o_lora_asks_with_instruction_options_and_answer():
    source, options = filled("yelp", "o_lora", ("negative", "positive"), text="Fine food.", label="positive")
    assert source == (
        "What is the sentiment of the following paragraph? Choose one from the option.\n"
        "Option: negative, positive \nFine food.\nAnswer:"
    )
    assert options == {"answers": ["negative", "positive"], "separator": " "}
    source, _ = filled("cl15_cb", "o_lora", ("entailment", "neutral"), text="A.", text_pair="B.", label="neutral")
    assert source == (
        'What is the logical relationship between the "sentence 1" and the "sentence 2"? Choose one from the option.\n'
        "Option: entailment, neutral \nsentence 1: A.\nsentence 2: B.\nAnswer:"
    )


def test_a_prompt_of_trace_gets_its_instruction_once():
    prompt = "Solve the following math problem.\nQuestion:\n1 + 1"
    assert filled("numglue-cm", "trace", source=prompt, target="2")[0] == prompt
    assert filled("trace_numglue-cm", "trace", source="Question:\n1 + 1", target="2")[0] == prompt


def test_the_listing_shows_words_and_stages():
    lines = listing("templates", "o_lora")
    assert lines[0].startswith("o_lora: O-LoRA (Wang et al. 2023, arXiv:2310.14152)")
    assert any(line.startswith("    yelp, amazon, imdb, sst2: 'What is") or "yelp, amazon" in line for line in lines)
