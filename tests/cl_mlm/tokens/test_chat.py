"""Conversations as tokens: every id and every counted token by hand, and what cannot be told is refused."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from cl_mlm.errors import ConfigError, DataError
from cl_mlm.objectives.text_to_text import TextToText
from cl_mlm.tokens.chat import PROBE, Chat, exchange, fitted, with_system
from cl_mlm.tokens.chat_rows import encode_conversations
from tests.word_chat import LLAMA, ids, tokenizer

SMOLLM2 = Path(__file__).parents[5] / "models" / "smollm2"
TWO = [*exchange("hi", "hello"), *exchange("how are you ?", "fine")]
TURN = "<|head|> assistant <|/head|>"


def test_every_turn_of_the_assistant_is_found_in_a_template_like_llamas():
    (found,) = Chat(tokenizer()).turns([TWO])
    assert found.ids == ids(
        f"<|begin|> <|head|> user <|/head|> hi <|eot|> {TURN} hello <|eot|> "
        f"<|head|> user <|/head|> how are you ? <|eot|> {TURN} fine <|eot|>"
    )
    assert found.spans == [(9, 11), (22, 24)]
    assert Chat(tokenizer()).end == ids("<|eot|>")[0]


def test_source_and_target_are_a_question_and_its_answer_with_the_text_of_the_system():
    objective = TextToText(chat=True, system="be kind", prefix="hi ")
    rows = {"source": ["how are you ?"], "target": [" fine\n"]}
    encoded = objective.encode(rows, tokenizer(), {}, 100)
    begin = "<|begin|> <|head|> system <|/head|> be kind <|eot|> <|head|> user <|/head|> hi how are you ? <|eot|>"
    assert encoded == {"input_ids": [ids(f"{begin} {TURN}")], "target_ids": [ids("fine <|eot|>")]}
    assert objective.extra_length(tokenizer(), "causal") == 64
    assert objective.attainable(rows, tokenizer(), {}, 100, ()).values == ["fine"]


def test_a_batch_counts_the_assistants_tokens_alone():
    import numpy as np
    import torch

    objective = TextToText(chat=True)
    encoded = objective.encode({"source": ["hi", "you"], "target": ["hello you", "a"]}, tokenizer(), {}, 100)
    arrays = {name: [np.array(row) for row in rows] for name, rows in encoded.items()}
    batch = objective.collate(arrays, torch.arange(2), tokenizer())
    text = ids(f"<|begin|> <|head|> user <|/head|> hi <|eot|> {TURN} hello you <|eot|>")
    assert batch.inputs["input_ids"][0].tolist() == text
    assert batch.targets[0].tolist() == [-100] * 8 + ids("hello you <|eot|>") + [-100]
    assert batch.count.tolist() == [3, 2]


def test_earlier_turns_count_where_all_turns_do():
    weighted = [TWO[0], {**TWO[1], "weight": 0}, *TWO[2:]]
    found = encode_conversations(Chat(tokenizer()), [TWO, weighted], 100, 64, all_turns=True)
    assert found["counted"] == [[0] * 9 + [1, 1] + [0] * 11, [0] * 22]
    assert found["target_ids"] == [ids("fine <|eot|>")] * 2


def test_a_long_conversation_loses_its_oldest_exchanges_and_keeps_the_system():
    chat = Chat(tokenizer())
    whole = with_system("be kind", [*TWO, *exchange("you ?", "hello")])
    assert fitted(chat, whole, 39) == whole
    assert fitted(chat, whole, 38) == with_system("be kind", [*TWO[2:], *exchange("you ?", "hello")])
    assert fitted(chat, whole, 20) == with_system("be kind", exchange("you ?", "hello"))
    assert fitted(chat, whole, 15)[1]["content"] == "you"
    assert [len(row) for row in encode_conversations(chat, [whole], 15, 64)["input_ids"]] == [15]
    with pytest.raises(
        ConfigError, match=r"^training.max_length: must leave room for the chat template .* take 14 tok"
    ):
        fitted(chat, whole, 13)


def test_a_long_answer_keeps_its_end():
    found = encode_conversations(Chat(tokenizer()), [exchange("hi", "how are you ?")], 100, 3)
    assert found["target_ids"] == [ids("how are <|eot|>")]


def test_marks_of_generation_tell_the_turns_where_histories_do_not():
    marked = (
        "{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|> ' }}{% if m.role == 'assistant' %}"
        "{% if loop.last %}{{ 'kind ' }}{% endif %}{% generation %}{{ m.content + ' <|eot|>' }}{% endgeneration %}"
        "{% else %}{{ m.content + ' <|eot|>' }}{% endif %}{% endfor %}"
    )
    (found,) = Chat(tokenizer(marked)).turns([TWO])
    assert found.spans == [(8, 10), (22, 24)]
    assert found.ids[21:] == ids("kind fine <|eot|>")
    without = marked.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    with pytest.raises(DataError, match="the chat template writes a history otherwise once the conversation goes on"):
        Chat(tokenizer(without)).turns([TWO])


NO_END = (
    "{% for m in messages %}{{ m.role + ' ' + m.content + ' ' }}{% endfor %}{{ 'assistant ' * add_generation_prompt }}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + LLAMA
FORGETS = LLAMA.replace("for m in messages", "for m in messages if m.role != 'system'")
OPEN_END = LLAMA.replace("m.content | trim + ' <|eot|>'", "m.content + ('' if m.role == 'assistant' else ' <|eot|>')")


@pytest.mark.parametrize(
    ("template", "system", "says"),
    [
        (None, None, "k: needs a tokenizer with a chat template (chat_template), which this model's has not"),
        (NO_END, None, "k: the chat template must end a turn of the assistant with a special token"),
        (OPEN_END, None, "k: the chat template must end a turn of the assistant with a special token"),
        (NO_SYSTEM, "be kind", "s.system: the model's chat template refuses it: no system here"),
        (FORGETS, "be kind", "s.system: the model's chat template leaves a system text out, got 'be kind'"),
        ("{{ nothing.at.all }}", None, "k: the chat template fails on 'user: a'"),
        ("{% if %}", None, "k: the chat template fails on 'user: a'"),
    ],
)
def test_a_template_that_will_not_do_is_refused_with_the_reason(template, system, says):
    (fault,) = Chat(tokenizer(template)).faults("k", "s", system)
    assert fault.startswith(says)


def test_a_template_of_ones_own_stands_in_for_the_tokenizers():
    assert Chat(tokenizer(None), LLAMA).turns([TWO]) == Chat(tokenizer()).turns([TWO])
    assert Chat(tokenizer(None), LLAMA).faults("k", "s", "be kind") == []


def test_a_template_tells_no_date_of_today():
    dated = LLAMA.replace("{{ '<|begin|>' }}", "{{ strftime_now('%d %b %Y') }}")
    assert "26 Jul 2024" in Chat(tokenizer(dated)).text(PROBE, asks=False)


@pytest.mark.real_model
@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="SmolLM2 is not here")
def test_smollm2_by_hand():
    smol = AutoTokenizer.from_pretrained(str(SMOLLM2))
    user, asked = [1, 4093, 198, 26843, 2, 198], [1, 520, 9531, 198]  # <|im_start|>user\nHi<|im_end|>\n ... assistant\n
    encoded = TextToText(chat=True, system="Be brief.").encode({"source": ["Hi"], "target": ["Hello."]}, smol, {}, 99)
    assert encoded["input_ids"] == [[1, 9690, 198, 6077, 5453, 30, 2, 198, *user, *asked]]
    assert encoded["target_ids"] == [[19556, 30, 2]]
    # Without a text of ours the template puts its own there.
    assert len(TextToText(chat=True).encode({"source": ["Hi"], "target": ["a"]}, smol, {}, 99)["input_ids"][0]) == 31
    second = [*user, *asked, 82, 2, 198]
    (found,) = Chat(smol).turns([[*exchange("Hi", "b"), *exchange("Hi", "b")]])
    assert found.ids[21:] == [*second, *second[:-1]]
    assert [found.ids[slice(*span)] for span in found.spans] == [[82, 2]] * 2
