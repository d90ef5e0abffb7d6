"""Whole runs through a chat template: trained, killed, prompted and asked for new rows."""

import json
import signal

import pyarrow.parquet as pq
import pytest
import torch
from killing import die_at
from safetensors.torch import load_file

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.experiment.preparation import prepare

pytestmark = [pytest.mark.usefixtures("fresh_process"), pytest.mark.whole_run]

# As the tiny tokenizer, which has none, would be given one.
TEMPLATE = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{{ 'assistant: ' if add_generation_prompt }}"
)
CHAT = {"chat": True, "chat_template": TEMPLATE, "system": "be kind", "max_new_tokens": 8}
PROMPTING = {"template": "{{ source }}?", "chat": True, "chat_template": TEMPLATE, "shots": [0, 1], "max_rows": 3}


@pytest.fixture
def go(fast, tmp_path):
    def go(folder="runs", epochs=2, prompting=None, **section):
        config = fast | {
            "stream": {**fast["stream"], "as_text": True, "text_options": CHAT, **section},
            "model": {"name": "tiny-decoder", "dropout": 0.0},
            "output": str(tmp_path / folder),
            "strategies": {"replay": {"capacity": 8}},
            "checkpoint": {"every_steps": 4, "every_minutes": None, "keep_stages": "all", "reuse_stages": 0},
            "training": {**fast["training"], "epochs": epochs, "learning_rate": 3e-3},
        }
        return config | ({"prompting": prompting} if prompting else {})

    return go


def run(config):
    return cl_mlm.run(config, progress=False)


def test_a_model_learns_to_answer_in_its_turn_and_is_asked_in_that_form(go):
    done = run(go(epochs=12, first_stages=1, prompting=PROMPTING))
    assert done.summary["accuracy_matrix"][0][0] > 0.9
    assert done.summary["prompting"]["chat"] is True
    assert [len(rows) for rows in done.summary["prompting"]["shots"].values()] == [2, 2]
    assert {*done.predict(["sun sun sun 0 third", "snow snow snow 0 third"])} == {"hot", "cold"}


def test_a_killed_run_ends_as_if_it_had_not_been(go):
    whole = run(go("whole"))
    assert die_at(13, lambda: run(go("cut"))) == -signal.SIGKILL
    cut = run(go("cut"))
    assert repr(whole.summary["accuracy_matrix"]) == repr(cut.summary["accuracy_matrix"])
    for name in (f"stages/00{i}/model/model.safetensors" for i in (0, 1)):
        first, second = (load_file(each.folder / name) for each in (whole, cut))
        assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.fixture
def talks(tmp_path):
    """A folder of two stages of conversations of two exchanges, which name a thing and then its kind."""
    kinds = {"one": {"sun": "hot", "snow": "cold"}, "two": {"bell": "loud", "moon": "quiet"}}
    for stage, words in kinds.items():
        for split, copies in (("train", 6), ("validation", 1), ("test", 1)):
            path = tmp_path / "talks" / stage / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            texts = [
                (f"{split} {i} {word}", "yes", f"what is {word}", kind)
                for i in range(copies)
                for word, kind in words.items()
            ]
            turns = [
                [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(row)] for row in texts
            ]
            path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in turns))
    options = {"chat_template": TEMPLATE, "max_new_tokens": 6, "metric": "exact_match"}
    section = {"objective": "conversation", "options": options, "stages_by": "files", "order": ["one", "two"]}
    return {"name": "files", "path": str(tmp_path / "talks"), **section}


def test_conversations_are_learned_scored_killed_and_asked(go, talks):
    def config(folder):
        made = go(folder, epochs=5)
        return {**made, "stream": talks, "training": {**made["training"], "max_length": 64}}

    whole = run(config("whole"))
    matrix = whole.summary["accuracy_matrix"]
    assert matrix[0][0] >= 0.5
    assert matrix[1][1] >= 0.5
    assert die_at(13, lambda: run(config("cut"))) == -signal.SIGKILL
    assert repr(run(config("cut")).summary["accuracy_matrix"]) == repr(matrix)
    asked = [{"role": "user", "content": "test 0 bell"}, {"role": "assistant", "content": "yes"}]
    asked.append({"role": "user", "content": "what is bell"})
    assert [isinstance(text, str) for text in whole.predict([{"messages": asked}])] == [True]
    predictions = pq.read_table(next(whole.folder.glob("predictions/**/*.parquet")))
    assert {"yes", "hot", "cold"} & {*predictions.column("prediction").to_pylist()}


def test_prompts_are_turns_with_demonstrations_before_the_question(go):
    found = prepare(load_config(go(prompting={**PROMPTING, "system": "be brief"}))).prompting
    column = found.columns[0]
    (zero,) = found.prompts(column, 0, ["hot"], found.positions(column)[:1])
    source = column.table("test")["source"][found.positions(column)[0]]
    assert zero == f"system: be brief[SEP]user: {source}?[SEP]assistant: "
    (one,) = found.prompts(column, 1, ["hot"], found.positions(column)[:1])
    assert one.startswith("system: be brief[SEP]user: ")
    assert one.endswith(f"[SEP]user: {source}?[SEP]assistant: ")
    assert one.count("[SEP]assistant: ") == 2
    assert found.example() == one


def test_settings_of_prompts_without_chat_keep_their_name(go):
    plain = {"template": "{{ source }}", "chat": False, "system": None}
    assert load_config(go(prompting=plain)).run_name == load_config(go(prompting={"template": "{{ source }}"})).run_name
