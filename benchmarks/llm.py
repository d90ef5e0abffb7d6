"""Runs the stream of instruction tasks of docs/results/llm.md on an instruct model; the same command again goes on.

Four short tasks, one after another, as chats: intents of Snips, sentiment (SST-2), topics of news (AG News), intents of
banking (CLINC150). Full fine-tuning and LoRA, each naive, with replay and with ewc; KL from the base model on the new
task and on held-out dialogues; zero- and four-shot scores of the untrained model.

data: picks the rows. rate: two learning rates for each mode, on validation rows of the first two tasks. run: all arms.
prompts: the untrained model. table: prints the tables.

    python -m benchmarks.llm data rate run prompts table --data FOLDER --model MODEL --output runs/llm
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

TASKS = {
    "snips": ("snips_intent", None, "Which intent has the request? Choose one of"),
    "sst2": ("sst2", None, "What is the sentiment of the sentence? Choose one of"),
    "agnews": ("cl15_agnews", None, "What is the topic of the news? Choose one of"),
    "banking": ("clinc150", "banking", "Which intent has the request? Choose one of"),
}
ROWS = {"train": 240, "validation": 40, "test": 60}
MOST_WORDS = 40
RATES = {"full": (5e-6, 2e-5), "lora": (2e-4, 1e-3)}
ARMS = {"naive": {"naive": {}}, "replay": {"replay": {"capacity": 100}}, "ewc": {"ewc": {"weight": 1000.0, "rows": 64}}}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="+", choices=["data", "rate", "run", "prompts", "table"])
    parser.add_argument(
        "--data", type=Path, help="folder that holds snips_intent, sst2, cl15_agnews, clinc150, dialogsum"
    )
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="or a local copy")
    parser.add_argument("--output", type=Path, default=Path("runs/llm"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--modes", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--steps", type=int, default=30, help="of each task")
    return parser.parse_args()


def pick(options):
    """Writes the rows of every task, the same ones each time, and the held-out dialogues."""
    for name, (folder, domain, _) in TASKS.items():
        for split, number in ROWS.items():
            lines = (options.data / folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [row for row in map(json.loads, lines) if domain in (None, row.get("domain"))]
            rows = [
                {"text": row["text"], "label": row["label"]} for row in rows if len(row["text"].split()) <= MOST_WORDS
            ]
            rows = list({row["text"]: row for row in rows}.values())
            rows.sort(key=lambda row: hashlib.sha1(row["text"].encode()).hexdigest())
            place = options.output / "data" / name / f"{split}.jsonl"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("".join(json.dumps(row) + "\n" for row in rows[:number]))
    dialogues = (options.data / "dialogsum" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    (options.output / "held_out.txt").write_text("\n".join(json.loads(line)["source"] for line in dialogues) + "\n")


def config_of(options, experiment, mode, arm, seed, rate, tasks, splits, steps):
    choices = "{{ choices | join(', ') }}.\n{{ text }}"
    return {
        "experiment": experiment,
        "seed": seed,
        "output": str(options.output),
        "stream": {
            "name": "files",
            "path": str((options.output / "data").absolute()),
            "stages_by": "files",
            "stages": [{"path": name} for name in tasks],
            "scenario": "domain_incremental",
            "overlap": "drop",
            "templates": {name: f"{TASKS[name][2]} {choices}" for name in tasks},
            "text_options": {"chat": True, "max_new_tokens": 12},
        },
        "model": {"name": options.model},
        "finetuning": {"mode": mode} | ({"rank": 8, "targets": "all-linear"} if mode == "lora" else {}),
        "strategies": ARMS[arm],
        "training": {
            "steps": steps,
            "batch_size": 8,
            "learning_rate": rate,
            "schedule": "constant",
            "warmup": 0.1,
            "max_length": 160,
            "threads": 1,
            "device": "cpu",
        },
        "evaluation": {"splits": splits},
        "probes": {"kl": {"text": str((options.output / "held_out.txt").absolute()), "max_rows": 16}},
        "tracking": {"uri": f"sqlite:///{(options.output / 'mlflow.db').absolute()}"},
        "checkpoint": {"reuse_stages": 0, "every_minutes": 5},
    }


def run(options, config, name):
    """Starts a run in a process of its own, or goes on with it; returns its summary."""
    file = options.output / f"{name}.json"
    file.write_text(json.dumps(config))
    done = subprocess.run([sys.executable, "-m", "cl_mlm", "run", file], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{file}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    folder = next(line for line in done.stdout.splitlines() if line.startswith("run: ")).removeprefix("run: ")
    return json.loads(Path(folder, "summary.json").read_text()) | {"folder": folder}


def kept(options, file):
    path = options.output / file
    return json.loads(path.read_text()) if path.is_file() else {}


def keep(options, file, name, value):
    (options.output / file).write_text(json.dumps(kept(options, file) | {name: value}, indent=1))


def rate(options):
    for mode in options.modes:
        for value in RATES[mode]:
            name = f"rate-{mode}-{value}"
            if name not in kept(options, "rates.json"):
                tasks, splits = [*TASKS][:2], ["validation"]
                config = config_of(options, "llm_rates", mode, "naive", 0, value, tasks, splits, options.steps)
                score = run(options, config, name)["validation_metrics"]["learning_accuracy"]
                keep(options, "rates.json", name, {"mode": mode, "rate": value, "validation": score})
                print(f"{name}: learning accuracy on validation {100 * score:.1f}", flush=True)


def best(options, mode):
    found = [row for row in kept(options, "rates.json").values() if row["mode"] == mode]
    return max(found, key=lambda row: row["validation"])["rate"] if found else RATES[mode][0]


def run_all(options):
    for seed in options.seeds:
        for mode in options.modes:
            for arm in options.arms:
                name = f"{mode}-{arm}-{seed}"
                if name not in kept(options, "results.json"):
                    value = best(options, mode)
                    config = config_of(options, "llm", mode, arm, seed, value, TASKS, ["test"], options.steps)
                    found = run(options, config, name)
                    wanted = {
                        key: found.get(key) for key in ("metrics", "cost", "baseline", "accuracy_matrix", "readings")
                    }
                    keep(options, "results.json", name, {**wanted, "rate": value, "folder": found["folder"]})
                    print(f"{name}: {json.dumps(found['metrics'])}", flush=True)


def prompts(options):
    import cl_mlm

    folder = next(iter(kept(options, "results.json").values()))["folder"]
    found = cl_mlm.prompt(folder, stage="untrained", template="{{ source }}", chat=True, shots=[0, 4])
    keep(options, "prompts.json", "untrained", {"shots": found.values["shots"], "metrics": found.values["metrics"]})
    print(json.dumps(found.values["metrics"]), flush=True)


def table(options):
    print("| mode | strategy | rate | AA | LA | forgetting | training s | peak memory MB |")
    print("|---|---|---|---|---|---|---|---|")
    results = kept(options, "results.json")
    for mode in RATES:
        for arm in ARMS:
            rows = [row for name, row in results.items() if name.startswith(f"{mode}-{arm}-")]
            if not rows:
                continue
            keys = ("average_accuracy", "learning_accuracy", "forgetting")
            scores = [" / ".join(f"{100 * row['metrics'][key]:.1f}" for row in rows) for key in keys]
            cost = [statistics.mean(row["cost"][key] for row in rows) for key in ("train_seconds", "peak_memory_bytes")]
            cells = [mode, arm, f"{rows[0]['rate']:g}", *scores, f"{cost[0]:.0f}", f"{cost[1] / 1e6:.0f}"]
            print("| " + " | ".join(cells) + " |")


def main():
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    works = {"data": pick, "rate": rate, "run": run_all, "prompts": prompts, "table": table}
    for phase in options.phases:
        works[phase](options)


if __name__ == "__main__":
    main()
