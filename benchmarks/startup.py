"""Checks the time limits of `cl-mlm --help` and of the demonstration; exits with 1 if one is missed.

python benchmarks/startup.py [--demo]

A start is timed in turn with its yardstick, and medians are compared.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELP_LIMIT = 2.5  # multiples of the time of `python -c "import numpy"`
DEMO_LIMIT = 180.0  # seconds of training and evaluation, all arms together
ROUNDS = 7
# All that a run imports is imported before the clock starts, except MLflow: its thread imports it beside the training.
FIRST_STEP = """
import json, sys, time
import accelerate, datasets, pyarrow.parquet, safetensors.torch, torch
import transformers.models.bert.modeling_bert
from transformers import AutoModelForSequenceClassification, AutoTokenizer
import cl_mlm
from cl_mlm.experiment import preparation
from cl_mlm.experiment.running import Experiment

class Reached(BaseException):
    pass

def reached(*_):
    # The clock stops here, not at the end of the process: ending a run sends the journal to MLflow.
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
    raise Reached

Experiment.step_done = reached
wall, cpu = time.perf_counter(), time.process_time()
try:
    cl_mlm.run(json.loads(sys.argv[1]), progress=False)
except Reached:
    pass
"""


def seconds(command):
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def help_ratio():
    numpy = [sys.executable, "-c", "import numpy"]
    usage = [sys.executable, "-m", "cl_mlm", "--help"]
    pairs = [(seconds(usage), seconds(numpy)) for _ in range(ROUNDS)][1:]
    return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


def first_step_seconds(settings, folder):
    """Returns the wall seconds and CPU seconds from the start of a run to the end of its first step.

    They include the evaluation before any training, and no imports. `folder` must be new.
    """
    settings = {**settings, "output": str(folder), "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}}
    command = [sys.executable, "-c", FIRST_STEP, json.dumps(settings)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, cpu = map(float, answer.stdout.split()[-2:])
    return wall, cpu


def demo_seconds():
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cl_mlm", "run", "configs/quickstart.yaml", "--arm", "all", f"output={folder}"]
        subprocess.run([*command, f"tracking.uri=sqlite:///{folder}/mlflow.db"], check=True)
        costs = [json.loads(path.read_text())["cost"] for path in Path(folder).rglob("summary.json")]
    return sum(cost["train_seconds"] + cost["eval_seconds"] for cost in costs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="times the demonstration too (minutes)")
    options = parser.parse_args()
    checks = [("cl-mlm --help / import numpy", help_ratio(), HELP_LIMIT)]
    if options.demo:
        checks.append(("demonstration, seconds of training and evaluation", demo_seconds(), DEMO_LIMIT))
    for name, value, limit in checks:
        print(f"{'ok  ' if value <= limit else 'MISS'} {name}: {value:.2f} (limit {limit:g})")
    sys.exit(any(value > limit for _, value, limit in checks))


if __name__ == "__main__":
    main()
