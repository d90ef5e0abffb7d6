"""Whole runs with virtual tokens: killed, delivered, asked, and what peft alone makes of them."""

import json
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from killing import die_at
from safetensors.torch import load_file

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.experiment.preparation import prepare

pytestmark = [pytest.mark.usefixtures("fresh_process"), pytest.mark.whole_run]

MODES = {
    "prompt": ("tiny", {"init": "text", "init_text": "is it warm or loud?"}),
    "p_tuning": ("tiny-decoder", {"hidden_size": 8}),
    "prefix": ("tiny-decoder", {}),
}
STRATEGIES = {"replay": {"capacity": 8}, "ewc": {"weight": 10.0, "rows": 4}}
TENSORS = "stages/001/model/adapter/adapter_model.safetensors"


@pytest.fixture
def go(fast, tmp_path):
    def go(mode, folder="runs", strategies=STRATEGIES, **given):
        model, more = MODES[mode]
        config = fast | {
            "output": str(tmp_path / folder),
            "model": {"name": model, "dropout": 0.1},
            "strategies": strategies,
            "finetuning": {"mode": mode, "virtual_tokens": 4, **more, **given},
            "checkpoint": {"every_steps": 4, "every_minutes": None, "keep_stages": "all", "reuse_stages": 0},
        }
        config["training"] = {**fast["training"], "epochs": 2, "learning_rate": 1e-2}
        return cl_mlm.run(config, progress=False)

    return go


READS = """
import json, sys
from pathlib import Path
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

folder, texts = Path(sys.argv[1]), json.loads(sys.argv[2])
settings = AutoConfig.from_pretrained(folder / "adapter")
base = AutoModelForSequenceClassification.from_pretrained(folder / "adapter" / "base", config=settings)
model = PeftModel.from_pretrained(base, folder / "adapter").eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
found = []
for text in texts:  # one by one: peft's wrapper reads the last position of a decoder's row, padding or not
    batch = tokenizer([text], truncation=True, max_length=128, return_tensors="pt")
    with torch.no_grad():
        found.append(int(model(**batch).logits.argmax()))
print(json.dumps([settings.id2label[i] for i in found]))
assert "cl_mlm" not in sys.modules
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_run_ends_as_if_it_had_not_been_and_its_folder_gives_its_predictions(go, mode, data_folder):
    whole = go(mode, "whole")
    assert die_at(13, lambda: go(mode, "cut")) == -signal.SIGKILL  # in the second stage
    cut = go(mode, "cut")
    assert repr(whole.summary["accuracy_matrix"]) == repr(cut.summary["accuracy_matrix"])
    first, second = (load_file(run.folder / TENSORS) for run in (whole, cut))
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert [fault for found in cl_mlm.verify(whole) for fault in found.faults] == []

    rows = [json.loads(line) for line in (data_folder / "test.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in rows]
    on_disk = pq.read_table(whole.folder / "predictions/1.parquet")["prediction"].to_pylist()
    here = whole.predict(texts)
    assert sorted(here) == sorted(on_disk)
    assert type(whole.model()).__name__ in ("BertForSequenceClassification", "GPT2ForSequenceClassification")
    if mode != "prompt":  # tests/cl_mlm/models/test_virtual_tokens.py compares the others with peft
        return
    command = [sys.executable, "-c", READS, str(whole.model_folder()), json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == here


def test_several_heads_read_one_prompt(mixed, tmp_path):
    config = mixed | {"finetuning": {"mode": "prompt", "virtual_tokens": 4}, "output": str(tmp_path / "mixed")}
    config["training"] = {**mixed["training"], "epochs": 1}
    run = cl_mlm.run(config, progress=False)
    kept = [
        load_file(folder / "adapter_model.safetensors") for folder in sorted(run.folder.glob("stages/001/**/adapter"))
    ]
    assert len(kept) == 2
    assert torch.equal(kept[0]["prompt_embeddings"], kept[1]["prompt_embeddings"])
    words = ["a", "big", "drum", "it", "is"]
    assert len(run.predict([{"tokens": words}], task="tagging")[0]) == len(words)
    assert run.predict(["snow and ice"], task="classification")[0] in ("cold", "hot", "loud", "quiet")


@pytest.mark.parametrize("mode", ["prompt", "prefix", "bottleneck"])
def test_a_kept_model_answers_prompts_as_it_did_in_the_run(fast, mode):
    stream = {"name": "files", "path": fast["stream"]["path"], "stages_by": "whole", "objective": "text_to_text"}
    stream |= {"columns": {"source": "text", "target": "label"}, "options": {"max_new_tokens": 4, "metric": "chrf"}}
    config = fast | {"stream": stream, "model": {"name": "tiny-decoder"}, "finetuning": {"mode": mode}}
    config["training"] = {**fast["training"], "epochs": 1, "learning_rate": 1e-2}
    config["prompting"] = {"template": "{{ source }}", "shots": [0, 1], "max_rows": 4}
    run = cl_mlm.run(config, progress=False)
    asked, in_run = cl_mlm.prompt(run.folder).values["shots"], run.summary["prompting"]["shots"]
    assert asked == {shots: rows[-1] for shots, rows in in_run.items()}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"mode": "prompt", "export": "merged"}, r"finetuning\.export: must be adapter in mode prompt, .* got merged"),
        ({"mode": "prompt", "virtual_tokens": 0}, r"finetuning\.virtual_tokens: must be at least 1, got 0"),
        ({"mode": "prompt", "virtual_tokens": 509}, r"finetuning\.virtual_tokens: must be at most 508: .* got 509"),
        ({"mode": "prompt", "init": "text"}, r"finetuning\.init_text: must be a text with init text, got None"),
        ({"mode": "prompt", "init_text": "a"}, r"finetuning\.init_text: belongs to init text, got 'a' with init vocab"),
        ({"mode": "prompt", "hidden_size": 4}, r"finetuning\.hidden_size: belongs to mode p_tuning and prefix, got 4"),
        ({"mode": "lora", "virtual_tokens": 4}, r"finetuning\.virtual_tokens: belongs to mode prompt and p_tuning and"),
        ({"mode": "prefix"}, r"finetuning\.mode: prefix .* an encoder's attention mask leaves out: .* got prefix"),
        ({"mode": "prefix", "hidden_size": 4}, r"finetuning\.hidden_size: belongs to prefix_projection true in mode"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_a_model_is_loaded(fast, section, said):
    with pytest.raises(cl_mlm.ConfigError, match=said):
        prepare(load_config(fast | {"finetuning": section}))


def test_virtual_tokens_take_part_of_what_a_model_can_read(fast, write_rows, tmp_path):
    rows = [{"text": f"{'word ' * 600}{i}", "label": label} for i in range(8) for label in ("cold", "hot")]
    write_rows(tmp_path / "long", train=rows, validation=rows[:2], test=rows[:2])
    long = fast | {"stream": {"name": "files", "path": str(tmp_path / "long"), "labels_per_stage": 2}}
    long["stream"]["overlap"] = "keep"
    with_prompt = long | {"finetuning": {"mode": "prompt"}}
    with_prompt["training"] = {**fast["training"], "max_length": 500}
    said = (
        r"training\.max_length: must be at most 492, the tokens that this model can read beside 20 virtual ones "
        r"\(finetuning\.virtual_tokens\), or null: 20 of 20 rows have more, up to 500; got 500"
    )
    with pytest.raises(cl_mlm.ConfigError, match=said):
        prepare(load_config(with_prompt))
    with_prompt["training"]["max_length"] = None
    assert prepare(load_config(with_prompt)).config.training.max_length == 492


def test_a_run_cannot_begin_from_a_model_with_a_prompt(go, fast):
    folder = go("prompt", strategies={}).model_folder()
    with pytest.raises(cl_mlm.ConfigError, match=r"model\.name: must be a model without adapters, got .*mode prompt"):
        prepare(load_config(fast | {"model": {"name": str(folder)}}))


def test_keys_and_values_are_not_trained_with_gradient_checkpointing(fast):
    training = {**fast["training"], "gradient_checkpointing": True}
    with pytest.raises(cl_mlm.ConfigError, match=r"training\.gradient_checkpointing: must be false in mode prefix"):
        load_config(fast | {"finetuning": {"mode": "prefix"}, "training": training})
