"""A decoder of a billion parameters, its body frozen, takes a step in 24 GiB."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ALLOWED = 24 << 30
LEAST = 10**9
# hidden, layers and heads as in published models of this size
SIZES = {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "intermediate_size": 5632}
SIZES |= {"num_key_value_heads": 4, "tie_word_embeddings": False, "max_position_embeddings": 256}
MEASURE = """
import json, sys, time
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from cl_mlm.training.hardware import peak_memory_bytes
from cl_mlm.models.tiny import letter_tokenizer

sizes, folder, config = json.loads(sys.argv[1])
if config is None:
    tokenizer = letter_tokenizer("tiny-decoder")
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    settings = LlamaConfig(vocab_size=32000, dtype="bfloat16", **tokens, **sizes)
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(settings, dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    noise = 0.02 * torch.randn(1 << 20, dtype=torch.bfloat16)  # a billion draws would take most of the time
    with torch.no_grad():
        for parameter in model.parameters():
            for part in parameter.flatten().split(len(noise)) if parameter.dim() > 1 else []:
                part.copy_(noise[: len(part)])
            if parameter.dim() == 1:
                parameter.fill_(1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(sum(p.numel() for p in model.parameters()))
else:
    import cl_mlm
    started = time.perf_counter()
    result = cl_mlm.run(config, progress=False)
    found = {"peak": peak_memory_bytes(), "seconds": time.perf_counter() - started, "cost": result.summary["cost"]}
    print(json.dumps({**found, "matrix": result.summary["accuracy_matrix"]}))
"""


def child(*arguments):
    command = [sys.executable, "-c", MEASURE, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def free_bytes():
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="memory is read from /proc")
def test_a_billion_parameters_take_a_step_with_a_frozen_body(tmp_path, own_store):
    if free_bytes() < 8 << 30 or shutil.disk_usage(tmp_path).free < 12 << 30:
        pytest.skip("needs 8 GiB of memory and 12 GiB of disk")
    model, data = tmp_path / "model", tmp_path / "data"
    try:
        assert child(SIZES, str(model), None) > LEAST
        for split in ("train", "validation", "test"):
            (data / "stage").mkdir(parents=True, exist_ok=True)
            (data / "stage" / f"{split}.txt").write_text("".join(f"{split} number {i}\n" for i in range(4)))
        stream = {"name": "files", "path": str(data), "stages_by": "files", "objective": "language_modelling"}
        config = {
            "experiment": "billion",
            "stream": stream,
            "model": {"name": str(model), "dtype": "bfloat16"},
            "finetuning": {"mode": "head"},
            "training": {"steps": 1, "batch_size": 1, "max_length": 16, "precision": "bf16", "device": "cpu"},
            "evaluation": {"batch_size": 1, "splits": ["test"]},
            "checkpoint": {"every_steps": 1, "keep_stages": "none"},
            "tracking": {"uri": own_store},
            "limit": 2,
            "output": str(tmp_path / "runs"),
        }
        found = child(SIZES, str(model), config)
        print(found)
        assert found["peak"] < ALLOWED
        assert found["cost"]["trainable_parameters"] == 32000 * SIZES["hidden_size"]
        assert 0 < found["matrix"][0][0] < 1
        assert not list((tmp_path / "runs").rglob("*.safetensors"))
    finally:
        shutil.rmtree(model, ignore_errors=True)
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
