"""Conversations as rows: what is learned, what is scored, and which rows are refused."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from cl_mlm.config.components import make_objective
from cl_mlm.data.conversation_form import as_conversations
from cl_mlm.data.stream_building import build_stream
from cl_mlm.errors import DataError
from cl_mlm.objectives.conversation import Conversation
from cl_mlm.stream import Stage, Stream
from streams.files import files
from tests.word_chat import ids, tokenizer


def talk(*texts, system=None):
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system else []) + turns


TWO = talk("hi", "hello", "how are you ?", " fine ")
TURN = "<|head|> assistant <|/head|>"
FIRST = f"<|begin|> <|head|> user <|/head|> hi <|eot|> {TURN}"


def test_the_loss_is_on_every_turn_of_the_assistant_or_on_the_last():
    for turns, first in (("all", ids("hello <|eot|>")), ("last", [-100, -100])):
        objective = Conversation(turns=turns)
        encoded = objective.encode({"messages": [TWO]}, tokenizer(), {}, 100)
        arrays = {name: [np.array(row) for row in rows] for name, rows in encoded.items()}
        batch = objective.collate(arrays, torch.arange(1), tokenizer())
        middle = "<|head|> user <|/head|> how are you ? <|eot|>"
        assert batch.inputs["input_ids"][0].tolist() == ids(f"{FIRST} hello <|eot|> {middle} {TURN} fine <|eot|>")
        assert batch.targets[0].tolist() == [-100] * 8 + first + [-100] * 11 + ids("fine <|eot|>") + [-100]
        assert batch.count.tolist() == [4.0 if turns == "all" else 2.0]


def test_each_turn_is_scored_from_its_true_history():
    rows = Conversation().scored({"messages": [TWO, talk("a", "b")], "id": [1, 2]})
    assert rows == {"messages": [TWO[:2], TWO, talk("a", "b")], "id": [1, 1, 2]}
    assert Conversation().references(rows) == ["hello", "fine", "b"]
    assert Conversation(turns="last").scored({"messages": [TWO]}) == {"messages": [TWO]}
    history = [{**TWO[0]}, {**TWO[1], "weight": 0}, *TWO[2:]]
    assert Conversation().scored({"messages": [history]}) == {"messages": [history]}


def test_the_question_of_a_turn_is_all_before_it():
    objective = Conversation()
    rows = objective.scored({"messages": [TWO]})
    encoded = objective.encode(rows, tokenizer(), {}, 100)
    assert encoded["input_ids"][0] == ids(FIRST)
    assert [len(row) for row in encoded["input_ids"]] == [9, 22]
    assert encoded["target_ids"] == [ids("hello <|eot|>"), ids("fine <|eot|>")]


def test_old_exchanges_are_cut_and_counted_and_the_system_stays():
    objective = Conversation(system="be kind")
    rows = {"messages": [TWO, talk("a", "b")]}
    found = objective.lengths(rows, tokenizer(), {}, 20)
    assert found["history"].whole.tolist() == [28, 15]
    assert found["history"].cut.tolist() == [10, 0]
    assert found["reply"].whole.tolist() == [2, 2]
    (prompt, _) = objective.encode(rows, tokenizer(), {}, 20)["input_ids"]
    assert prompt == ids(
        f"<|begin|> <|head|> system <|/head|> be kind <|eot|> <|head|> user <|/head|> how are you ? <|eot|> {TURN}"
    )


def test_a_text_of_the_systems_own_is_kept():
    own = talk("hi", "hello", system="kind")
    encoded = Conversation(system="be kind").encode({"messages": [own]}, tokenizer(), {}, 100)
    assert encoded["input_ids"][0][:6] == ids("<|begin|> <|head|> system <|/head|> kind <|eot|>")


def test_a_key_is_the_conversation_without_its_last_turn():
    same, other = Conversation().key({"messages": [TWO, [*TWO[:3], {"role": "assistant", "content": "well"}]]})
    assert same == other == "user: hi\x1fassistant: hello\x1fuser: how are you ?"


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        (TWO[:3], "must end with the assistant, whose turn is learned, got user, assistant, user"),
        (talk("hi", " "), "must have no turn of the assistant without text, got ' ' as turn 1"),
        (talk("", "a"), "must have no turn of the user without text, got '' as turn 0"),
        ([TWO[1]], "must have user and assistant in turns, the user first, got assistant"),
        ([TWO[0], TWO[0], TWO[1]], "must have user and assistant in turns, the user first, got user, user, assistant"),
        (
            [*TWO[:2], {"role": "system", "content": "a"}],
            "must have the role system once, first, got user, assistant, s",
        ),
        ([{"role": "human", "content": "a"}], "must have only the roles system, user, assistant, got 'human'"),
        ([{"role": "user", "content": ["a"]}], "must be a list of {role, content}, both of them texts, got [{'role'"),
        ("hi", "must be a list of {role, content}, both of them texts, got 'hi'"),
        ([], "must be a list of {role, content}, both of them texts, got []"),
        ([TWO[0], {**TWO[1], "weight": 2}], "must have no weight but 0 and 1, got None, 2"),
        ([TWO[0], {**TWO[1], "weight": 0}], "must end with a turn that is learned, not with weight 0"),
        ([{"role": "system", "content": "a"}], "must end with the assistant"),
    ],
)
def test_a_conversation_that_cannot_be_learned_is_refused_with_row_and_rule(messages, says):
    (fault,) = Conversation().validate({"messages": [TWO, messages, messages]}, "stage 's' train")
    assert fault.startswith(f"stage 's' train: messages {says}")
    assert fault.endswith("in row 1 (2 such rows)")


def test_new_rows_end_with_the_user():
    whole = Conversation().unanswered({"messages": [TWO[:3]]}, ())
    assert Conversation().validate(whole, "rows") == []
    assert Conversation().inputs == ("messages",)
    assert Conversation().unanswered({"messages": ["hi"]}, ()) == {"messages": [talk("hi", "-")]}


def test_rows_of_the_hub_have_either_form():
    apart = as_conversations(Dataset.from_list([{"prompt": "a", "completion": "b", "id": 3}]), ("messages",))
    assert apart.column_names == ["id", "messages"]
    assert [message["content"] for message in apart["messages"][0]] == ["a", "b"]
    assert as_conversations(apart, ("messages",)) is apart


def test_what_a_perfect_model_would_write_and_why_not():
    found = Conversation(max_new_tokens=3, metric="exact_match").attainable(
        {"messages": [TWO, talk("hi", "how are you ?")]}, tokenizer(), {}, 100, ()
    )
    assert found.values == ["fine", "how are"]
    assert found.obstacles[0] is None
    assert found.obstacles[1].reason == "a turn is longer than max_new_tokens 3"


def test_faults_of_options_and_tokenizers():
    assert Conversation(max_new_tokens=1, system=" ").faults(9)[0] == "max_new_tokens: must be at least 2, got 1"
    (fault,) = Conversation().tokenizer_faults(tokenizer(None), "causal")
    assert fault.startswith("stream.objective: conversation: needs a tokenizer with a chat template")
    assert make_objective("conversation", {}).options()["turns"] == "all"


@pytest.fixture
def written(tmp_path):
    def write(rows, ending="jsonl"):
        for split in ("train", "validation", "test"):
            path = tmp_path / f"{split}.{ending}"
            told = [{**row, "split": split} for row in rows(split)]
            if ending == "parquet":
                Dataset.from_list(told).to_parquet(path)
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in told))
        return build_stream({"overlap": "error"}, None, files(path=str(tmp_path), stages_by="whole", **CHATS))[0]

    return write


CHATS = {"objective": "conversation"}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_files_hold_messages_and_test_rows_are_asked_turn_by_turn(written, ending):
    stream = written(lambda split: [{"messages": talk(f"{split} {i}", "b", "c", "d")} for i in range(3)], ending)
    assert [len(stream.stages[0].split(split)) for split in ("train", "validation", "test")] == [3, 6, 6]
    assert stream.stages[0].test["messages"][0] == talk("test 0", "b")
    assert "conversations: 6 validation and test rows are scored turn by turn, 12 turns" in stream.notes


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("{} a", "b"),
        (talk("{} a"), [{"role": "assistant", "content": "b"}]),
        (talk("c", "d", "{} a"), talk("x", "b")[1:]),
    ],
)
def test_prompt_and_completion_are_a_conversation_of_which_the_completion_is_learned(written, prompt, completion):
    def rows(split):
        return [json.loads(json.dumps({"prompt": prompt, "completion": completion}).replace("{}", split))]

    stream = written(rows)
    (messages,) = stream.stages[0].test["messages"]
    assert [message["content"] for message in messages][-2:] == ["test a", "b"]
    assert [message["weight"] for message in messages if message["role"] == "assistant"] == [0] * (
        len(messages) > 2
    ) + [1]


def test_a_file_with_a_faulty_conversation_is_refused(written):
    with pytest.raises(DataError, match=r"train: messages must end with the assistant.* in row 1 \(1 such rows\)"):
        written(lambda split: [{"messages": talk(f"{split} 1", "b")}, {"messages": talk(f"{split} 2")}])


def test_the_same_history_in_two_splits_is_an_overlap():
    rows = Dataset.from_list([{"messages": talk("a", "b")}])
    other = Dataset.from_list([{"messages": talk("c", "b")}])
    stream = Stream("s", (Stage("s", rows, other, rows, (), objective="conversation"),), "domain_incremental")
    with pytest.raises(DataError, match="no input may occur in a validation or test split too, got 1 such: 'user: a'"):
        build_stream({"overlap": "error"}, None, stream)
