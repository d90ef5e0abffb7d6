"""Measures training of text to text on a decoder: tokens per second against transformers' `Trainer`, and packed rows.

All arms train the same rows, tokenised alike, with the same settings, so the ratio of their rows per second is that of
their tokens that count (padding left out). Blocks of whole epochs alternate A B B A in one process. The texts are those
of CLINC150 with the label as the target (of the embedded stream where it is not at hand), or a folder's `train.jsonl`.

    python -m benchmarks.writing [--model FOLDER] [--data FOLDER] [--only packed] [--rows 256] [--quads 3] [--json FILE]

Exits 1 where a ratio is below its target.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.fisher import Writer, Written, tiny_model, written_stream
from benchmarks.speed.intervals import Effort, compare
from benchmarks.speed.measuring import Measured, measured
from benchmarks.speed.stepper import Stepper, Tick
from benchmarks.speed.workload import CLIP, LEARNING_RATE, STEPS, WARMUP, WEIGHT_DECAY

# Name, what it is, the lowest ratio that will do (None: reported only), the two arms.
CASES: tuple[tuple[str, str, float | None, str, str], ...] = (
    ("trainer", "ours / Trainer, random batches", 1.3, "ours", "trainer"),
    ("trainer_grouped", "ours / Trainer, like lengths", 1.0, "ours", "trainer_grouped"),
    ("packed", "ours packed / padded", None, "packed", "ours"),
    ("packed_trainer", "ours packed / Trainer, random batches", None, "packed", "trainer"),
)


def jsonl_stream(folder: Path, rows: int) -> Any:
    """Returns a stream of one stage: the first `rows` rows of each split in a folder, with `source` and `target`."""
    from datasets import Dataset

    from cl_mlm.stream import SPLITS, Stage, Stream

    splits = {}
    for split in SPLITS:
        lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[:rows]
        read = [json.loads(line) for line in lines]
        splits[split] = Dataset.from_list([{name: row[name] for name in ("source", "target")} for row in read])
    return Stream(folder.name, (Stage(folder.name, *splits.values(), (), "text_to_text", "text_to_text"),))


def encoded(run: Any) -> list[dict[str, list[int]]]:
    """Returns the rows of the stage as the platform reads them, with `labels` where transformers expects them."""
    ids, rows = run.data.ids(0), []
    for place in range(len(ids)):
        batch = run.data.splits["train"].collate(ids[place : place + 1])
        targets = batch.targets[0].tolist()
        rows.append({"input_ids": batch.inputs["input_ids"][0].tolist(), "labels": [-100, *targets[:-1]]})
    return rows


def train_with_trainer(
    work: Written, rows: list[dict[str, list[int]]], batch_size: int, sampling: str, tick: Tick
) -> None:
    """Trains for ever with transformers' `Trainer` on batches of any rows (`random`), or of like length."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        logging,
    )

    logging.disable_progress_bar()
    torch.set_num_threads(work.threads)
    sizes = cycle([min(batch_size, len(rows) - start) for start in range(0, len(rows), batch_size)])

    class Ticking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            tick(next(sizes))

    settings = TrainingArguments(
        output_dir=str(work.new_folder("trainer")),
        per_device_train_batch_size=batch_size,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,  # below 1: a fraction of all steps
        max_grad_norm=CLIP,
        max_steps=STEPS,
        use_cpu=True,
        dataloader_pin_memory=False,
        train_sampling_strategy=sampling,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    tokenizer = work.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(work.model).float()
    Trainer(
        model,
        settings,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        train_dataset=Dataset.from_list(rows),
        callbacks=[Ticking()],
    ).train()


def measure(case: tuple[str, str, float | None, str, str], options: argparse.Namespace, folder: Path) -> Measured:
    """Returns the ratio of two arms' rows per processor second."""
    from cl_mlm.objectives.text_to_text import TextToText

    name, _, _, first, second = case
    model = options.model or tiny_model("gpt2", folder)
    (folder / name).mkdir()
    work = Written("short", folder / name, model, options.threads)
    given = options.data and jsonl_stream(options.data, options.rows)
    work.stream = given or written_stream("text_to_text", options.rows)
    work.objective = TextToText()
    training = {"batch_size": options.batch_size, "max_length": options.max_length}
    with closing(Writer(work, {}, training=training)) as reader:
        rows = encoded(reader.run)

    def ours(tick: Tick, *, pack: bool) -> None:
        with closing(Writer(work, {}, training=training | {"pack": pack})) as run:
            run.train(tick)

    arms: dict[str, Callable[[Tick], None]] = {
        "ours": lambda tick: ours(tick, pack=False),
        "packed": lambda tick: ours(tick, pack=True),
        "trainer": lambda tick: train_with_trainer(work, rows, options.batch_size, "random", tick),
        "trainer_grouped": lambda tick: train_with_trainer(work, rows, options.batch_size, "group_by_length", tick),
    }
    effort = Effort(max_quads=options.quads, min_quads=min(2, options.quads), max_seconds=options.max_seconds)
    unit = -(-len(rows) // options.batch_size)
    a, b = Stepper(arms[first]), Stepper(arms[second])
    with closing(a), closing(b):
        found = measured(compare(a, b, effort, (unit,), unit))
    lengths = [len(row["input_ids"]) for row in rows]
    learnt = sum(label != -100 for row in rows for label in row["labels"])
    mean = sum(lengths) / len(rows)
    found.details |= {"tokens_of_a_row": mean, "longest": max(lengths), "learnt": learnt / len(rows)}
    rates = found.details["rows_per_cpu_second"]
    found.details["tokens_per_cpu_second"] = [rate * mean for rate in rates]
    return found


def main() -> int:
    """Measures the chosen cases and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a decoder, such as SmolLM2-135M; a tiny GPT-2 without it")
    parser.add_argument("--data", type=Path, help="folder of train, validation and test.jsonl with source and target")
    parser.add_argument("--only", default="", help=f"with commas between: {', '.join(case[0] for case in CASES)}")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--quads", type=int, default=3)
    parser.add_argument("--max-seconds", type=float, default=600.0, help="of a case")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [case[0] for case in CASES]
    missed, results = False, {}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if case[0] not in wanted:
                continue
            result = measure(case, options, Path(folder))
            target = case[2]
            missed |= target is not None and result.value < target
            results[case[0]] = {"value": result.value, "low": result.low, "high": result.high, **result.details}
            rates = " and ".join(f"{rate:,.0f}" for rate in result.details["tokens_per_cpu_second"])
            print(
                f"{case[1]:40} {result.value:.2f} ({result.low:.2f} to {result.high:.2f}), "
                f"target {'none' if target is None else target}; {rates} tokens a processor second; a row has "
                f"{result.details['tokens_of_a_row']:.1f} tokens, {result.details['longest']} at most, "
                f"{result.details['learnt']:.1f} of them learnt",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
