"""Compares the prompts of cl_mlm with EleutherAI's lm-evaluation-harness: one model, one template, the same rows.

python benchmarks/prompting_lm_eval.py

Needs `lm-eval` (tested with 0.4.13), which is no dependency of the project: `pip install lm-eval` in an environment
that has the project. Both ask a tiny decoder with random weights for the intents of the embedded phrasebook (ten, of
several tokens each); for the harness a multiple-choice task over the same rows is written. Prints accuracies and the
largest difference of log-likelihoods, zero-shot and with the same two demonstrations. Exits with 1 if they differ.
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

CONFIG = {
    "stream": {"name": "phrasebook", "labels_per_stage": 10, "first_stages": 1, "overlap": "drop", "as_text": True},
    "training": {"threads": 1, "device": "cpu"},
}
TEMPLATE = "Request: {{ source }}\nIntent:"
SHOTS = (0, 2)
LARGEST_DIFFERENCE = 1e-3


def saved(folder):
    """Saves a model whose tokenizer adds no special tokens, like GPT-2's and like the harness; returns its folder."""
    import torch
    from transformers import AutoModelForCausalLM

    from cl_mlm.models.tiny import letter_tokenizer, tiny_config

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("tiny-decoder", None, 128))
    with torch.no_grad():  # larger weights than after initialisation, so that the log-likelihoods differ
        for parameter in model.parameters():
            parameter.mul_(2)
    model.save_pretrained(folder / "model")
    letter_tokenizer("tiny-decoder").save_pretrained(folder / "model")
    path = folder / "model" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    return folder / "model"


def ours(model, rows):
    """Returns prompting, labels, words, and by number of shots the log-likelihoods and accuracies of cl_mlm."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cl_mlm.config.loading import load_config
    from cl_mlm.experiment.preparation import prepare
    from cl_mlm.prompting.likelihood import likelihoods
    from cl_mlm.prompting.reader import Reader
    from cl_mlm.prompting.scoring import normalised

    section = {"template": TEMPLATE, "shots": list(SHOTS), "max_rows": rows}
    prompting = prepare(load_config({**CONFIG, "model": str(model), "prompting": section})).prompting
    column = prompting.columns[0]
    labels = prompting.labels(column, -1)
    words = [prompting.words[label][0] for label in labels]
    reader = Reader(
        AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model), "causal", nullcontext, 64
    )
    gold = column.table("test")[prompting.positions(column)]["target"]
    by_shots = {}
    for shots in SHOTS:
        prompts = prompting.prompts(column, shots, labels, prompting.positions(column))
        measured = likelihoods(reader, prompts, [f" {text}" for text in words])
        accuracies = {}
        for name in ("none", "bytes"):
            best = normalised(measured, words, name).argmax(1)
            accuracies[name] = sum(labels[i] == right for i, right in zip(best, gold, strict=True)) / len(gold)
        by_shots[shots] = (measured.total, accuracies)
    return prompting, labels, words, by_shots


def write_task(folder, prompting, labels, words):
    """Writes the harness's task: the same rows, demonstrations and template."""
    from cl_mlm.prompting.shots import draw_shots

    column = prompting.columns[0]
    chosen = draw_shots(column.answers, max(SHOTS), per_class=False, seed=0, stage_index=0)
    for split, rows in (
        ("test", column.table("test").select(prompting.positions(column))),
        ("train", column.table("train").select(chosen)),
    ):
        lines = [
            json.dumps({"source": row["source"], "choices": words, "gold": labels.index(row["target"])}) for row in rows
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    task = {
        "task": "phrasebook_intents",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
        "fewshot_delimiter": "\n\n",
        "target_delimiter": " ",
        "doc_to_text": TEMPLATE,
        "doc_to_choice": "{{ choices }}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (folder / "phrasebook_intents.yaml").write_text(json.dumps(task))


def theirs(folder, model, shots):
    """Returns the log-likelihoods, (rows, choices), and accuracies of the harness."""
    import lm_eval
    import numpy as np
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=["phrasebook_intents"],
        num_fewshot=shots,
        batch_size=16,
        device="cpu",
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = sorted(results["samples"]["phrasebook_intents"], key=lambda sample: sample["doc_id"])
    scores = results["results"]["phrasebook_intents"]
    total = np.array([[answer[0] for answer in sample["filtered_resps"]] for sample in samples], dtype=float)
    return total, {"none": scores["acc,none"], "bytes": scores["acc_norm,none"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100, help="test rows that are asked for")
    rows = parser.parse_args().rows
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_HOME"] = str(folder / "hub")
        model = saved(folder)
        prompting, labels, words, by_shots = ours(model, rows)
        write_task(folder, prompting, labels, words)
        is_equal = True
        for shots, (total, accuracies) in by_shots.items():
            other, scores = theirs(folder, model, shots)
            difference = abs(total - other).max()
            is_equal &= bool(scores == accuracies and difference <= LARGEST_DIFFERENCE)
            print(
                f"{shots}-shot, {len(total)} rows, {len(words)} choices: acc {accuracies['none']:.4f} ours, "
                f"{scores['none']:.4f} theirs; acc_norm {accuracies['bytes']:.4f} ours, {scores['bytes']:.4f} theirs; "
                f"log-likelihoods from {total.min():.2f} to {total.max():.2f}, largest difference {difference:.1e} nats"
            )
    sys.exit(0 if is_equal else 1)


if __name__ == "__main__":
    main()
