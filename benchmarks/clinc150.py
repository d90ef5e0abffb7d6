"""Runs the CLINC150 comparison of docs/results/clinc150.md; the same command again continues where it stopped.

base: runs every arm with the settings of configs/clinc150.yaml; scores the test split.
tune: runs two trials of every arm, naive included, on the first three stages; scores the validation split only.
final: runs every arm with the settings of its best trial, better than base or not; scores the test split.

    python benchmarks/clinc150.py base tune final --path <folder> --model <folder> --threads 1
"""

import argparse
import json
from pathlib import Path

import cl_mlm

CONFIG = "configs/clinc150.yaml"
RATES = [{"training": {"learning_rate": rate}} for rate in (5e-5, 1e-4)]
TRIALS = {
    "naive": RATES,
    "replay": RATES,
    "joint": RATES,
    "ewc": [{"strategies": {"ewc": {"weight": weight}}} for weight in (1e3, 1e5)],
    "lwf": [{"strategies": {"lwf": {"weight": weight}}} for weight in (1.0, 5.0)],
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="+", choices=["base", "tune", "final"])
    parser.add_argument("--arms", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    parser.add_argument("--path", help="local copy of CLINC150; default: the hub")
    parser.add_argument("--model", help="local copy of the encoder; default: the hub")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", default="runs")
    return parser.parse_args()


def run(options, arm, experiment, splits, settings=None, stages=None):
    """Runs an arm on its first `stages` stages (None: all); returns the summary."""
    overrides = [f"experiment={experiment}", f"output={options.output}", f"evaluation.splits=[{','.join(splits)}]"]
    optional = {
        "stream.path": options.path,
        "model.name": options.model,
        "training.threads": options.threads,
        "stream.first_stages": stages,
    }
    overrides += [f"{key}={value}" for key, value in optional.items() if value]
    result = cl_mlm.run(CONFIG, *overrides, arm=arm, **(settings or {}))
    return result.summary


def score(summary, key):
    return summary[key]["average_accuracy"]


def tune(options, arm):
    """Runs the trials of an arm and writes them, the best by validation accuracy first, to a JSON file."""
    trials = []
    for settings in TRIALS[arm]:
        summary = run(options, arm, "clinc150_tune", ["validation"], settings, stages=3)
        trials.append({"settings": settings, "validation": score(summary, "validation_metrics")})
        print(f"tune {arm} {json.dumps(settings)}: validation {100 * trials[-1]['validation']:.2f}", flush=True)
    best = max(trials, key=lambda trial: trial["validation"])
    tuned_file(options, arm).write_text(json.dumps({"best": best, "trials": trials}, indent=1))


def tuned_file(options, arm):
    return Path(options.output, f"clinc150_tune_{arm}.json")


def report(phase, arm, summary):
    """Prints the metrics of a run in percent and its seconds."""
    percent = {name: None if value is None else round(100 * value, 2) for name, value in summary["metrics"].items()}
    cost = summary["cost"]
    print(
        f"{phase} {arm} {json.dumps(percent)} train {cost['train_seconds']:.0f} s eval {cost['eval_seconds']:.0f} s",
        flush=True,
    )


def main():
    options = arguments()
    for phase in options.phases:
        for arm in options.arms:
            if phase == "base":
                report(phase, arm, run(options, arm, "clinc150", ["test"]))
            elif phase == "tune":
                tune(options, arm)
            else:
                best = json.loads(tuned_file(options, arm).read_text())["best"]["settings"]
                report(phase, arm, run(options, arm, "clinc150", ["test"], best))


if __name__ == "__main__":
    main()
