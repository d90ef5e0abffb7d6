"""Measures what short answers cost, against `generate` of transformers on batches of the same size.

    python -m benchmarks.generation --model FOLDER [--rows 200] [--batch-size 32] [--quads 3] [--json FILE]

Two comparisons, each A B B A in one process, by processor seconds:

- `generation`: `generate` on the rows as they come / ours, whose rows are sorted and leave the batch when they have
  ended. Answers are the same texts. Target: at least 1.5.
- `scores`, `prompts`: what a stage's evaluation, and its prompts, take per written answer / `generate` on the same
  sorted batches. Target: at most 1.1.

The model is an untrained decoder; its answers end at the first full stop, or after 32 tokens. Exits 1 where a target is
missed, or a text differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

FASTER, DEARER = 1.5, 1.1
MOST, END, TEMPLATE = 32, ".", "Say in one sentence what this asks for: {{ source }}\nAnswer:"


def rows_of(count: int) -> Any:
    """Returns so many texts of the speed comparison, each as a source that is asked about, in no order of length."""
    from datasets import Dataset, concatenate_datasets

    from benchmarks.speed.workload import short_stream

    stages = [stage.train.with_format(None).select_columns(["text"]) for stage in short_stream().stages]
    texts = concatenate_datasets(stages).shuffle(seed=0)["text"]
    sources = [f"Say in one sentence what this asks for: {text}" for text in list(dict.fromkeys(texts))[:count]]
    if len(sources) < count:
        sys.exit(f"--rows: must be at most {len(sources)}, got {count}")
    return Dataset.from_dict({"source": sources, "target": ["-"] * count})


def made_run(model: str, rows: Any, batch_size: int, folder: Path) -> Any:
    """Returns a run at its first stage, whose answers end at a full stop, and what is prompted."""
    from dataclasses import replace

    from datasets import Dataset

    from cl_mlm.config.loading import load_config
    from cl_mlm.experiment.assembly import assemble
    from cl_mlm.experiment.preparation import prepare, with_objects
    from cl_mlm.stream import Stage, Stream

    options = {"max_new_tokens": MOST, "separator": "\nAnswer:"}
    train, validation = (Dataset.from_dict({"source": [word], "target": ["-"]}) for word in ("one", "two"))
    stage = Stage("answers", train, validation, rows, (), "answers", "text_to_text", options)
    stream = Stream("answers", (stage,), "domain_incremental")
    config = load_config(
        {
            "model": model,
            "evaluation": {"batch_size": batch_size, "splits": ["test"]},
            "training": {"device": "cpu", "max_length": 128},
            "prompting": {"template": TEMPLATE, "separator": "\n\n"},
            "output": str(folder),
        },
        needs_stream=False,
    )
    prepared = prepare(with_objects(config, stream, None), stream)
    run = assemble(prepared)
    run.network.tokenizer.eos_token = END
    run.begin(0)
    run.tasks.count_labels(0, -1)
    return run, replace(prepared.prompting, words={})


def generate(run: Any, prompts: list[list[int]], batch_size: int) -> list[str]:
    """Returns what transformers writes for prompts, in batches of so many, in this order."""
    import torch
    from transformers import GenerationConfig

    from cl_mlm.models.generation import end_token, texts_of

    model, tokenizer = run.network.backbone.model, run.network.tokenizer
    end, texts = end_token(tokenizer), []
    settings = GenerationConfig(max_new_tokens=MOST, do_sample=False, eos_token_id=end, pad_token_id=end)
    model.generation_config = settings
    model.eval()
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        width = max(map(len, batch))
        ids = torch.tensor([[end] * (width - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        with torch.inference_mode():
            written = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        texts += texts_of(tokenizer, written[:, width:].tolist())
    return texts


def compared(ours: Callable[[], Any], theirs: Callable[[], Any], quads: int) -> tuple[float, float]:
    """Returns the processor seconds of both, each twice a quad: theirs, ours, ours, theirs."""
    seconds = {ours: 0.0, theirs: 0.0}
    for _ in range(quads):
        for work in (theirs, ours, ours, theirs):
            started = time.process_time()
            work()
            seconds[work] += time.process_time() - started
    return seconds[ours] / quads / 2, seconds[theirs] / quads / 2


def main() -> int:
    """Prints a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-decoder", help="folder of a decoder, such as SmolLM2-135M")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--quads", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ.setdefault("CL_MLM_CACHE", str(Path(name) / "cache"))
        found = measure(options, Path(name))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(not all(line["met"] for line in found.values()))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Returns ratio, seconds an answer and whether the target is met, by comparison."""
    import torch

    from cl_mlm.prompting.reader import Reader
    from cl_mlm.prompting.scoring import score_columns
    from cl_mlm.training.evaluation import evaluate

    torch.set_num_threads(options.threads)
    run, prompting = made_run(options.model, rows_of(options.rows), options.batch_size, folder)
    size, backbone, tokenizer = options.batch_size, run.network.backbone, run.network.tokenizer
    reader = Reader(backbone.model, tokenizer, backbone.kind, run.network.autocast, size)
    ids = run.data.ids(0, "test")
    objective = run.tasks.at(0).objective
    prompts = [
        objective._prompts(encoded["input_ids"], tokenizer)[0]
        for encoded in ({"input_ids": [_input(run, row)]} for row in ids)
    ]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    column = prompting.columns[0]
    asked = reader.tokens(prompting.prompts(column, 0, [], prompting.positions(column)))
    asked = sorted(([*reader.frame[0], *row] for row in asked), key=len, reverse=True)
    predictions = evaluate(run, "test", [0]).predictions
    theirs = generate(run, prompts, size)
    differ = sum(a != b for a, b in zip(predictions, theirs, strict=True))
    found: dict[str, Any] = {}
    in_order = [prompts[i] for i in order]

    def scores() -> Any:
        return evaluate(run, "test", [0])

    for title, ours, asks, target, at_least in (
        ("generation", scores, prompts, FASTER, True),
        ("scores", scores, in_order, DEARER, False),
        ("prompts", lambda: score_columns(reader, prompting, 0, 0), asked, DEARER, False),
    ):
        other = partial(generate, run, asks, size)
        own, others = compared(ours, other, options.quads)
        ratio = others / own if at_least else own / others
        met = (ratio >= target if at_least else ratio <= target) and not differ
        found[title] = {"ratio": ratio, "ours": own / options.rows, "theirs": others / options.rows, "met": met}
        print(
            f"{title:12} {ratio:.2f}, target {'>=' if at_least else '<='} {target}; {1000 * own / options.rows:.1f} ms "
            f"an answer ours, {1000 * others / options.rows:.1f} theirs; {differ} of {options.rows} texts differ",
            flush=True,
        )
    return found


def _input(run: Any, row: int) -> Any:
    """Returns the tokens of a row's source."""
    import numpy as np

    return np.frombuffer(run.data.splits["test"].inputs(np.array([row]))[0], dtype=np.int32)


if __name__ == "__main__":
    sys.exit(main())
