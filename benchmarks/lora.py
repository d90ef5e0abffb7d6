"""Measures LoRA on a decoder: against a loop written by hand with peft, and against full fine-tuning.

    python -m benchmarks.lora --smollm2 FOLDER [--rows 64] [--quads 3] [--only hand,time] [--json FILE]

Three rows, each with its target on SmolLM2-135M. Without `--smollm2` the model is a small GPT-2 with random weights,
too small for the targets, which are then not asked for:

- `hand`: throughput of a LoRA step, ours over a loop with peft's `get_peft_model` on the same batches: at least 0.97
- `time`: of a step, LoRA over full fine-tuning: at most 0.85
- `memory`: peak of a process of its own, LoRA over full fine-tuning: at most 0.6

Exits 1 where a target is missed. Memory is that of the machine; a GPU is not used.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.fisher import Writer, Written, tiny_model, written_stream
from benchmarks.speed.arm_hand import groups, linear
from benchmarks.speed.child import peak_bytes
from benchmarks.speed.intervals import Effort, compare
from benchmarks.speed.measuring import Measured, measured
from benchmarks.speed.stepper import Stepper, Tick
from benchmarks.speed.workload import CLIP, LEARNING_RATE, ROOT, STEPS

BATCH = 8
LORA = {"mode": "lora", "targets": "all-linear", "dropout": 0.0}
AT_LEAST, AT_MOST_TIME, AT_MOST_MEMORY = 0.97, 0.85, 0.6


def workload(folder: Path, model: str, rows: int, threads: int) -> Written:
    """Returns texts to be predicted token by token."""
    from cl_mlm.objectives.language_modelling import LanguageModelling

    work = Written("short", folder, model, threads)
    work.stream, work.objective = written_stream("language_modelling", rows), LanguageModelling()
    return work


def train_ours(work: Written, mode: str, tick: Tick) -> None:
    """Trains this platform's stage for ever."""
    sections = {"finetuning": LORA} if mode == "lora" else {}
    with closing(Writer(work, {}, **sections)) as ours:
        ours.train(tick)


def train_by_hand(work: Written, tick: Tick) -> None:
    """Trains peft's LoRA for ever, over the very batches that `train_ours` trains on."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM

    from cl_mlm.models.targets import lora_targets
    from cl_mlm.tokens.batching import training_batches

    torch.set_num_threads(work.threads)
    with closing(Writer(work, {})) as ours:  # its rows alone: what it encodes is what both train on
        ids = ours.run.data.ids(0)
        tokens = [ours.run.data.rows(ids[i : i + 1]).inputs["input_ids"][0].tolist() for i in range(len(ids))]
    base: Any = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    prefix = f"{base.base_model_prefix}."
    names = [prefix + name for name in lora_targets(base, "all-linear", None)]
    is_transposed = base.config.model_type == "gpt2"
    model: Any = get_peft_model(
        base, LoraConfig(r=8, lora_alpha=16, target_modules=names, fan_in_fan_out=is_transposed)
    )
    model.train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(groups(parameters), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, linear(STEPS))
    lengths, padding = np.fromiter(map(len, tokens), dtype=np.int32), base.config.pad_token_id or 0
    for epoch in count():
        for positions in training_batches(lengths, BATCH, 0, 0, epoch):
            longest = int(lengths[positions].max())
            batch = torch.full((len(positions), longest), padding)
            for row, position in enumerate(positions.tolist()):
                batch[row, : lengths[position]] = torch.tensor(tokens[position])
            mask = torch.from_numpy(np.arange(longest)[None] < lengths[positions][:, None])
            logits = model(input_ids=batch, attention_mask=mask.long(), use_cache=False).logits
            targets = batch.masked_fill(~mask, -100)[:, 1:]
            cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP, foreach=True)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            tick(len(positions))


def compared(work: Written, arms: tuple[Any, Any], options: argparse.Namespace) -> Measured:
    """Returns the throughput of the first arm over the second's, in blocks of whole epochs."""
    effort = Effort(max_quads=options.quads, min_quads=min(2, options.quads), max_seconds=options.max_seconds)
    steps = math.ceil(options.rows / BATCH)
    first, second = (Stepper(arm) for arm in arms)
    with closing(first), closing(second):
        return measured(compare(first, second, effort, (steps,), steps, lambda block: block.rows))


def peak_of(mode: str, options: argparse.Namespace, model: str) -> int:
    """Returns the most bytes that a process holds that trains one epoch."""
    command = [sys.executable, "-m", "benchmarks.lora", "--one-arm", mode, "--smollm2", model]
    command += ["--rows", str(options.rows), "--threads", str(options.threads)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def show(name: str, found: Measured, target: str) -> None:
    """Prints one row."""
    print(f"{name:8} {found.value:.3f} ({found.low:.3f} to {found.high:.3f}), target {target}", flush=True)


def main() -> int:
    """Measures the chosen rows and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", help="folder of SmolLM2-135M, or of another decoder")
    parser.add_argument("--only", default="hand,time,memory")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--quads", type=int, default=3)
    parser.add_argument("--max-seconds", type=float, default=300.0, help="of a row")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one-arm", choices=("full", "lora"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.smollm2 or tiny_model("gpt2", Path(folder))
        work = workload(Path(folder), model, options.rows, options.threads)
        if options.one_arm:
            arm = Stepper(lambda tick: train_ours(work, options.one_arm, tick))
            with closing(arm):
                arm.block(math.ceil(options.rows / BATCH))
            print(peak_bytes("cpu"))
            return 0
        found = rows(work, model, options)
    if options.json:
        values = {name: {"value": f.value, "low": f.low, "high": f.high, **f.details} for name, (f, _) in found.items()}
        options.json.write_text(json.dumps(values, indent=1) + "\n")
    return int(options.smollm2 is not None and not all(is_met for _, is_met in found.values()))


def rows(work: Written, model: str, options: argparse.Namespace) -> dict[str, tuple[Measured, bool]]:
    """Measures the chosen rows; returns each with whether its target is met."""

    def ours(mode: str) -> Any:
        return lambda tick: train_ours(work, mode, tick)

    wanted, found = options.only.split(","), {}
    if "hand" in wanted:
        row = compared(work, (ours("lora"), lambda tick: train_by_hand(work, tick)), options)
        show("hand", row, f"at least {AT_LEAST}")
        found["hand"] = (row, row.value >= AT_LEAST)
    if "time" in wanted:  # the throughput of full over that of LoRA is LoRA's time over full's
        row = compared(work, (ours("full"), ours("lora")), options)
        show("time", row, f"at most {AT_MOST_TIME}")
        found["time"] = (row, row.value <= AT_MOST_TIME)
    if "memory" in wanted:
        lora, full = (peak_of(mode, options, model) for mode in ("lora", "full"))
        row = Measured(lora / full, lora / full, lora / full, details={"lora": lora, "full": full})
        show("memory", row, f"at most {AT_MOST_MEMORY}")
        found["memory"] = (row, row.value <= AT_MOST_MEMORY)
    return found


if __name__ == "__main__":
    sys.exit(main())
