"""Measures what a pass for ewc's Fisher information costs, over an epoch of training on the same rows.

The models write: texts of CLINC150, or of the embedded stream where it is not at hand, are the sources, their labels
the targets; `causal` predicts every token instead. Both run on the platform's own path, A B B A in one process.

    python -m benchmarks.fisher --smollm2 FOLDER [--only smollm2-lora,tiny-t5] [--rows 64] [--quads 3] [--json FILE]

Exits 1 where a ratio is above the target.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed.arm_ours import Ours
from benchmarks.speed.intervals import Effort
from benchmarks.speed.measuring import Measured, alternate
from benchmarks.speed.stepper import Jobs
from benchmarks.speed.workload import Workload, cut, short_stream

TARGET = 2.5
LORA = {"mode": "lora", "targets": "all-linear", "dropout": 0.0}
# Name, model, objective, finetuning.
CASES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("smollm2-full", "smollm2", "text_to_text", {}),
    ("smollm2-lora", "smollm2", "text_to_text", LORA),
    ("smollm2-full-causal", "smollm2", "language_modelling", {}),
    ("smollm2-lora-causal", "smollm2", "language_modelling", LORA),
    ("tiny-t5", "t5", "text_to_text", {}),
    ("tiny-bart", "bart", "text_to_text", {}),
    ("tiny-gpt2-dora", "gpt2", "text_to_text", {**LORA, "dora": True}),
    ("tiny-gpt2-ia3", "gpt2", "text_to_text", {"mode": "ia3"}),
)
SIZES: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "bart": {
        **{"d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256},
        **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 0},
    },
    "gpt2": {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_inner": 256, "n_positions": 512},
}


class Written(Workload):
    """A workload of one stage whose rows are written: sources and targets, or texts."""

    objective: Any = None

    @property
    def last(self) -> int:
        """The only stage."""
        return 0

    def settings(self, **sections: Any) -> dict[str, Any]:
        """Returns a config; a writer's head is its output embedding, which has no stages."""
        settings = super().settings(**sections)  # a dictionary of its own
        settings["training"] |= {"batch_size": 8, "max_length": 64} | sections.get("training", {})
        return settings


class Writer(Ours):
    """A run of this platform with the objective of a `Written` workload."""

    def objective(self, work: Workload) -> Any:
        """Returns the workload's."""
        assert isinstance(work, Written)
        return work.objective


def written_stream(objective: str, rows: int) -> Any:
    """Returns a stream of one stage: `rows` texts with the label as the target, or as texts."""
    from datasets import Dataset

    stage = cut(short_stream(), dict.fromkeys(("train", "validation", "test"), rows)).stages[-1]
    splits = {}
    for split in ("train", "validation", "test"):
        given = stage.split(split)
        columns = {"source": [f"{text} Intent:" for text in given["text"]], "target": list(given["label"])}
        splits[split] = Dataset.from_dict(columns if objective == "text_to_text" else {"text": list(given["text"])})
    from cl_mlm.stream import Stream

    return Stream("written", (replace(stage, labels=(), objective=objective, **splits),))


def tiny_model(kind: str, folder: Path) -> str:
    """Writes a small model with random weights and the letters' tokenizer; returns its folder."""
    import torch
    from transformers import AutoConfig, AutoModel

    from cl_mlm.models.tiny import letter_tokenizer

    path, tokenizer = folder / kind, letter_tokenizer("tiny-decoder")
    if not path.exists():
        torch.manual_seed(0)
        ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 2, "eos_token_id": tokenizer.sep_token_id}
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **SIZES[kind])
        AutoModel.from_config(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
    return str(path)


def measure(case: tuple[str, str, str, dict[str, Any]], options: argparse.Namespace, folder: Path) -> Measured:
    """Returns the cost of a Fisher pass over that of an epoch of training."""
    from cl_mlm.objectives.language_modelling import LanguageModelling
    from cl_mlm.objectives.text_to_text import TextToText

    name, kind, objective, finetuning = case
    model = options.smollm2 if kind == "smollm2" else tiny_model(kind, folder)
    (folder / name).mkdir()
    work = Written("short", folder / name, model, options.threads)
    work.stream = written_stream(objective, options.rows)
    work.objective = LanguageModelling() if objective == "language_modelling" else TextToText()
    sections: Mapping[str, Any] = {"finetuning": finetuning} if finetuning else {}
    made: list[Writer] = []

    def end() -> None:
        while made:
            made.pop().close()

    def start() -> None:
        end()
        made.append(Writer(work, {}, **sections, training={"steps": None, "epochs": 1}))

    def one_epoch() -> int:
        return made[0].train()

    ewc = Writer(work, {"ewc": {"weight": 1.0}}, **sections)
    ewc.run.place.training_ids = ewc.run.data.ids(0)
    (strategy,) = ewc.run.strategies

    def one_pass() -> int:
        strategy.after_stage(ewc.run.view(strategy, "after_stage"), ewc.run.stage)
        return len(ewc.run.place.training_ids)

    effort = Effort(max_quads=options.quads, min_quads=min(2, options.quads), max_seconds=options.max_seconds)
    with closing(ewc):
        found = alternate(Jobs(one_epoch, start), Jobs(one_pass), work, effort)
        end()
    return found


def main() -> int:
    """Measures the chosen cases and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", help="folder of SmolLM2-135M; its rows are left out without it")
    parser.add_argument("--only", default="", help=f"with commas between: {', '.join(case[0] for case in CASES)}")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--quads", type=int, default=3)
    parser.add_argument("--max-seconds", type=float, default=300.0, help="of a case")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [case[0] for case in CASES]
    missed, found = False, {}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if case[0] not in wanted or (case[1] == "smollm2" and not options.smollm2):
                continue
            result = measure(case, options, Path(folder))
            missed |= result.value > TARGET
            found[case[0]] = {"value": result.value, "low": result.low, "high": result.high, **result.details}
            print(
                f"{case[0]:24} {result.value:.2f} ({result.low:.2f} to {result.high:.2f}), target {TARGET}", flush=True
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
