"""Runs the comparison of fine-tuning modes on CLINC150, docs/results/modes.md; the same command again goes on.

tune: two learning rates for every mode, with replay, on the first three stages; scores the validation split only.
final: every mode under naive and replay, all 15 stages, with its better rate; scores the test split.
table: prints the table of the final runs.

Each run is a process of its own, so that its peak memory is its own.

    python -m benchmarks.clinc150_modes tune final table --path CLINC150_FOLDER --model ENCODER_FOLDER
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

BASE = {
    "stream": {
        "name": "files",
        "labels_per_stage": 10,
        "order_seed": 0,
        "scenario": "class_incremental",
        "overlap": "drop",
        "rows": {"train": 6000},  # about 40 of each label
    },
    "training": {
        "epochs": 3,
        "batch_size": 32,
        "schedule": "constant",
        "warmup": 0.1,
        "clip": 1.0,
        "threads": 1,
        "device": "cpu",
    },
    "checkpoint": {"reuse_stages": 0},  # each run is to say what it costs by itself
}
# By mode: two learning rates, about a factor of three apart around what the mode's paper uses, and the head's factor.
MODES = {
    "full": ((5e-5, 1e-4), 10),
    "head": ((5e-3, 2e-2), 1),
    "bitfit": ((1e-3, 3e-3), 1),
    "lora": ((5e-4, 2e-3), 1),
    "ia3": ((3e-3, 1e-2), 1),
    "bottleneck": ((5e-4, 2e-3), 1),
}
ARMS = {"naive": {"naive": {}}, "replay": {"replay": {"capacity": 500}}}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="+", choices=["tune", "final", "table"])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--path", required=True, help="folder of CLINC150: train, validation and test in files")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="or a local copy of it")
    parser.add_argument("--output", type=Path, default=Path("runs"))
    return parser.parse_args()


def run(options, experiment, mode, arm, rate, splits, stages=None):
    """Starts a run or goes on with it; returns its summary."""
    config = json.loads(json.dumps(BASE))
    config["experiment"], config["output"] = experiment, str(options.output)
    config["stream"] |= {"path": str(Path(options.path).absolute())} | ({"first_stages": stages} if stages else {})
    config["model"] = {"name": options.model}
    config["tracking"] = {"uri": f"sqlite:///{options.output / 'mlflow.db'}"}
    config["finetuning"] = {"mode": mode}
    config["training"] |= {"learning_rate": rate, "head_factor": MODES[mode][1]}
    config["strategies"], config["evaluation"] = ARMS[arm], {"splits": splits}
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / f"{experiment}-{mode}-{arm}-{rate}.json"
    file.write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "cl_mlm", "run", str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{file}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    folder = next(line for line in done.stdout.splitlines() if line.startswith("run: ")).removeprefix("run: ")
    return json.loads(Path(folder, "summary.json").read_text())


def tuned(options):
    """Returns what the trials found, by mode and rate: accuracy on validation after three stages."""
    file = options.output / "modes_tuned.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def tune(options, mode):
    found = tuned(options)
    for rate in MODES[mode][0]:
        if str(rate) not in found.get(mode, {}):
            summary = run(options, "modes_tune", mode, "replay", rate, ["validation"], stages=3)
            score = summary["validation_metrics"]["average_accuracy"]
            found.setdefault(mode, {})[str(rate)] = score
            print(f"tune {mode} {rate}: validation {100 * score:.2f}", flush=True)
    (options.output / "modes_tuned.json").write_text(json.dumps(found, indent=1))


def final(options, mode):
    """Runs both arms of a mode with its better rate, and keeps what the table tells."""
    rates = tuned(options)[mode]
    rate = max(rates, key=rates.get)
    file = options.output / "modes_final.json"
    for arm in ARMS:
        summary = run(options, "modes", mode, arm, float(rate), ["test"])
        found = json.loads(file.read_text()) if file.is_file() else {}
        wanted = {"metrics": summary["metrics"], "cost": summary["cost"], "rate": rate}
        file.write_text(json.dumps(found | {f"{mode} {arm}": wanted}, indent=1))
        print(f"final {mode} {arm}: {json.dumps(summary['metrics'])}", flush=True)


def table(options):
    found = json.loads((options.output / "modes_final.json").read_text())
    print("| mode | strategy | rate | AA | LA | forgetting | trainable parameters | training s | peak memory MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, row in found.items():
        mode, arm = name.split()
        scores = [row["metrics"][key] for key in ("average_accuracy", "learning_accuracy", "forgetting")]
        cost = row["cost"]
        cells = [mode, arm, row["rate"], *(f"{100 * score:.2f}" for score in scores)]
        cells += [f"{cost['trainable_parameters']:,}", f"{cost['train_seconds']:.0f}"]
        print("| " + " | ".join([*cells, f"{cost['peak_memory_bytes'] / 1e6:.0f}"]) + " |")


def main():
    options = arguments()
    for phase in options.phases:
        if phase == "table":
            table(options)
            continue
        for mode in options.modes:
            (tune if phase == "tune" else final)(options, mode)


if __name__ == "__main__":
    main()
