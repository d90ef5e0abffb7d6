"""Tells what CLINC150 (15 stages of 10 intents) costs on an accelerator: seconds, memory and scores of some settings.

    python benchmarks/accelerator.py --path <folder of CLINC150> --model <folder of the encoder> --device cuda

Each setting runs in a process of its own, so that its peak memory is its own.
The table is Markdown, as docs/how-to/accelerator.md shows it.
"""

import argparse
import json
import subprocess
import sys
import time

CONFIG = "configs/clinc150.yaml"
SETTINGS = {
    "fp32, batch 32": [],
    "bf16, batch 32": ["training.precision=bf16"],
    "bf16, batch 128, rate x 2": ["training.precision=bf16", "training.batch_size=128", "training.learning_rate=1e-4"],
}
HEADER = (
    "setting", "arm", "average accuracy %", "forgetting", "train s", "evaluation s", "whole command s", "peak GiB",
)  # fmt: skip


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="local copy of CLINC150; default: the hub")
    parser.add_argument("--model", help="local copy of the encoder; default: the hub")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--arms", nargs="+", default=["naive", "replay"])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--first-stages", type=int, help="default: all 15")
    parser.add_argument("--output", default="runs")
    return parser.parse_args()


def child(arm, overrides):
    """Runs one arm and prints its figures as JSON."""
    import cl_mlm

    result = cl_mlm.run(CONFIG, *overrides, arm=arm, again=True, progress=False)
    cost, metrics = result.summary["cost"], result.metrics
    print(json.dumps({**cost, **metrics}))


def row(options, name, arm):
    overrides = [
        "experiment=accelerator",
        f"output={options.output}",
        f"training.device={options.device}",
        "checkpoint.reuse_stages=0",
        *SETTINGS[name],
    ]
    optional = {
        "stream.path": options.path,
        "model.name": options.model,
        "stream.first_stages": options.first_stages,
    }
    overrides += [f"{key}={value}" for key, value in optional.items() if value]
    began = time.perf_counter()
    command = [sys.executable, __file__, "--child", arm, *overrides]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - began
    figures = json.loads(done.stdout.splitlines()[-1])
    forgetting = figures["forgetting"]
    return [
        name,
        arm,
        f"{100 * figures['average_accuracy']:.2f}",
        "–" if forgetting is None else f"{100 * forgetting:.2f}",
        f"{figures['train_seconds']:.1f}",
        f"{figures['eval_seconds']:.1f}",
        f"{seconds:.1f}",
        f"{figures['peak_memory_bytes'] / 2**30:.2f}",
    ]


def main():
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return
    options = arguments()
    print("| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER), sep="\n", flush=True)
    for name in options.settings:
        for arm in options.arms:
            print("| " + " | ".join(row(options, name, arm)) + " |", flush=True)


if __name__ == "__main__":
    main()
