"""Whole runs under each mode of fine-tuning: killed, delivered, and what plain transformers and peft make of them."""

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
    "bitfit": {},
    "norm": {},
    "last_k": {"last_blocks": 1},
    "lora": {},
    "dora": {"mode": "lora", "dora": True, "rank": 2},
    "ia3": {},
    "bottleneck": {"width": 8},
}
STRATEGIES = {"replay": {"capacity": 8}, "ewc": {"weight": 10.0}}


@pytest.fixture
def go(fast, tmp_path):
    def go(mode, folder="runs", strategies=STRATEGIES, **given):
        config = fast | {
            "output": str(tmp_path / folder),
            "strategies": strategies,
            "finetuning": {"mode": mode, **MODES.get(mode, {}), **given},
            "checkpoint": {"every_steps": 4, "every_minutes": None, "keep_stages": "all", "reuse_stages": 0},
        }
        config["training"] = {**fast["training"], "epochs": 2}
        return cl_mlm.run(config, progress=False)

    return go


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_run_ends_as_if_it_had_not_been(go, mode):
    whole = go(mode, "whole")
    assert die_at(13, lambda: go(mode, "cut")) == -signal.SIGKILL  # in the second stage
    cut = go(mode, "cut")
    assert repr(whole.summary["accuracy_matrix"]) == repr(cut.summary["accuracy_matrix"])
    kept = {str(path.relative_to(whole.folder)) for path in whole.folder.glob("stages/*/**/*.safetensors")}
    assert len(kept) >= 4
    for name in kept:
        first, second = (load_file(run.folder / name) for run in (whole, cut))
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "bottleneck"])
def test_the_body_that_is_not_trained_stays_as_it_was(go, mode):
    run = go(mode, strategies={"lwf": {}})
    first, last = (load_file(run.folder / f"stages/00{i}/model/model.safetensors") for i in (0, 1))
    changed = {name for name in first if not torch.equal(first[name], last[name][: len(first[name])])}
    part = {
        "bitfit": lambda name: name.endswith(".bias"),
        "norm": lambda name: "LayerNorm" in name,
        "last_k": lambda name: "layer.1." in name or "pooler" in name,
        "lora": lambda name: "query" in name or "value" in name,
        "dora": lambda name: "query" in name or "value" in name,
        "ia3": lambda name: "key" in name or "value" in name or (".output.dense" in name and "attention" not in name),
    }[mode]
    assert changed
    assert [name for name in changed if not name.startswith("classifier") and not part(name)] == []
    assert any(part(name) for name in changed)


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
batch = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
with torch.no_grad():
    found = model(**batch).logits.argmax(-1).tolist()
print(json.dumps([settings.id2label[i] for i in found]))
assert "cl_mlm" not in sys.modules
"""


@pytest.mark.parametrize("mode", ["lora", "ia3"])
def test_transformers_and_peft_alone_give_the_predictions_on_disk(go, mode, data_folder):
    run = go(mode)
    table = pq.read_table(run.folder / "predictions/1.parquet").to_pylist()
    rows = [json.loads(line) for line in (data_folder / "test.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in rows]
    command = [sys.executable, "-c", READS, str(run.model_folder()), json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from_peft = dict(zip(texts, json.loads(done.stdout.splitlines()[-1]), strict=True))
    merged = dict(zip(texts, run.predict(texts), strict=True))
    assert from_peft == merged
    assert sorted(row["prediction"] for row in table) == sorted(from_peft[text] for text in texts)


def test_an_adapter_alone_is_delivered_resumed_and_asked(go):
    whole, merged = go("lora", "whole", export="adapter"), go("lora", "merged")
    assert not (whole.model_folder() / "model.safetensors").exists()
    assert die_at(13, lambda: go("lora", "cut", export="adapter")) == -signal.SIGKILL
    cut = go("lora", "cut", export="adapter")
    name = "stages/001/model/adapter/adapter_model.safetensors"
    first, second, third = (load_file(run.folder / name) for run in (whole, cut, merged))
    assert all(torch.equal(first[key], second[key]) and torch.equal(first[key], third[key]) for key in first)
    texts = ["snow and ice", "a drum"]
    assert whole.predict(texts) == merged.predict(texts)
    assert type(whole.model()).__name__ == "BertForSequenceClassification"
    assert [fault for run in (whole, merged) for found in cl_mlm.verify(run) for fault in found.faults] == []


def test_a_bottleneck_is_asked_and_verified_as_it_was_scored(go, data_folder):
    run = go("bottleneck")
    table = pq.read_table(run.folder / "predictions/1.parquet").to_pylist()
    rows = [json.loads(line) for line in (data_folder / "test.jsonl").read_text().splitlines()]
    assert sorted(row["prediction"] for row in table) == sorted(run.predict([row["text"] for row in rows]))
    names = [name for name, _ in run.model().named_parameters()]
    assert any(".s000.up." in name for name in names)
    assert [fault for found in cl_mlm.verify(run) for fault in found.faults] == []


@pytest.mark.parametrize(("mode", "part"), [("lora", "lora"), ("bottleneck", ".up.")])
def test_several_heads_share_one_set_of_adapters(mixed, tmp_path, mode, part):
    config = mixed | {"finetuning": {"mode": mode}, "output": str(tmp_path / "mixed")}
    run = cl_mlm.run(config, progress=False)
    again = cl_mlm.run(config | {"output": str(tmp_path / "again")}, progress=False)
    assert repr(run.summary["accuracy_matrix"]) == repr(again.summary["accuracy_matrix"])
    folders = sorted(run.folder.glob("stages/*/**/adapter"))
    assert len(folders) >= 2
    kept = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    of_body = [{name for name in tensors if part in name} for tensors in kept]
    assert of_body[0] == of_body[1] != set()
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in of_body[0])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"mode": "lora", "rank": 0}, r"finetuning\.rank: must be at least 1, got 0"),
        ({"mode": "full", "rank": 4}, r"finetuning\.rank: belongs to mode lora, got 4 with mode full"),
        ({"mode": "ia3", "alpha": 4}, r"finetuning\.alpha: belongs to mode lora, got 4.0 with mode ia3"),
        ({"mode": "bottleneck", "width": 0}, r"finetuning\.width: must be at least 1, got 0"),
        (
            {"mode": "bottleneck", "export": "merged"},
            r"finetuning\.export: must be adapter .*bottleneck, .*merged",
        ),
        ({"mode": "bottleneck", "placement": "both"}, r"finetuning\.placement: must be .*houlsby.*, got 'both'"),
        ({"mode": "lora", "width": 8}, r"finetuning\.width: belongs to mode bottleneck, got 8 with mode lora"),
        ({"mode": "lorra"}, r"finetuning\.mode: must be one of full, head, .*lora.*, got 'lorra'.*lora"),
        ({"mode": "lora", "targets": ["qurey"]}, r"finetuning\.targets: must be .*query.*, got .*qurey.*query"),
        ({"mode": "lora", "layers": [7]}, r"finetuning\.layers: must name blocks of the model from 0 to 1 .*got \[7\]"),
        ({"mode": "last_k", "last_blocks": 9}, r"finetuning\.last_blocks: must be at most 2 for this model, got 9"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_a_model_is_loaded(fast, section, said):
    with pytest.raises(cl_mlm.ConfigError, match=said):
        prepare(load_config(fast | {"finetuning": section}))


def test_models_without_biases_refuse_bitfit(fast, model_folder):
    with pytest.raises(cl_mlm.ConfigError, match=r"finetuning\.mode: bitfit trains the body's biases, of which Llama"):
        prepare(load_config(fast | {"model": {"name": model_folder("llama")}, "finetuning": {"mode": "bitfit"}}))


def test_an_export_of_both_is_what_merged_leaves(fast):
    both, merged = (load_config(fast | {"finetuning": {"mode": "lora", "export": e}}) for e in ("both", "merged"))
    assert both.run_name == merged.run_name
    with pytest.raises(cl_mlm.ConfigError, match=r"finetuning\.export: must be adapter in mode bottleneck.*got both"):
        load_config(fast | {"finetuning": {"mode": "bottleneck", "export": "both"}})


def test_options_of_other_modes_change_no_name_of_a_run(fast):
    assert load_config(fast).to_dict()["finetuning"] == {"mode": "full", "cache_features": True}
    resolved = load_config(fast | {"finetuning": {"mode": "lora"}}).to_dict()["finetuning"]
    assert resolved["rank"] == 8
    assert resolved["export"] == "merged"
    assert "last_blocks" not in resolved
