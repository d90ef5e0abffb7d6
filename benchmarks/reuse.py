"""Runs five weights of ewc with and without shared first stages, and compares their time and their tables.

python benchmarks/reuse.py [--config configs/quickstart.yaml] [KEY=VALUE ...]

Trains in a temporary folder and measures the CPU seconds of this process. Each weight is run both ways, in alternating
order, so that both meet the same machine. Exits with 1 if a table differs, or the ratio of seconds is above 0.87.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import cl_mlm

WEIGHTS = (10.0, 100.0, 1000.0, 10000.0, 100000.0)
LARGEST_RATIO = 0.87
TIMES = ("train_seconds", "eval_seconds", "peak_memory_bytes")


def timed(config, overrides, weight, output, reuse):
    """Returns CPU seconds and the result of one run."""
    started = time.process_time()
    result = cl_mlm.run(
        config,
        *overrides,
        f"output={output}",
        f"tracking.uri=sqlite:///{output}/mlflow.db",
        f"checkpoint.reuse_stages={int(reuse)}",
        strategies={"ewc": {"weight": weight}},
        progress=False,
    )
    return time.process_time() - started, result


def table(result):
    """Returns everything measured except times and memory: what must be equal both ways."""
    summary = result.summary
    cost = {key: value for key, value in summary["cost"].items() if key not in TIMES}
    return [summary["accuracy_matrix"], summary["validation_matrix"], summary["baseline"], summary["metrics"], cost]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    seconds, equal, reused = {True: 0.0, False: 0.0}, True, 0
    with tempfile.TemporaryDirectory() as folder:
        for reuse in (True, False):  # a first run each: imports, encoded rows and tracking stores are not measured
            timed(options.config, [*options.overrides, "seed=99"], 1.0, f"{folder}/{reuse}", reuse)
        for number, weight in enumerate(WEIGHTS):
            pair = {}
            for reuse in (True, False) if number % 2 else (False, True):
                spent, pair[reuse] = timed(options.config, options.overrides, weight, f"{folder}/{reuse}", reuse)
                seconds[reuse] += spent
            equal &= table(pair[True]) == table(pair[False])
            reused += len(pair[True].summary["reused"])
    ratio = seconds[True] / seconds[False]
    stages = len(WEIGHTS) * len(pair[True].summary["columns"])
    print(
        f"{len(WEIGHTS)} weights of ewc, {options.config}: {stages} stages, {reused} taken over, tables equal: {equal}"
    )
    print(
        f"CPU seconds {seconds[True]:.1f} with, {seconds[False]:.1f} without; "
        f"ratio {ratio:.3f}, at most {LARGEST_RATIO}"
    )
    if options.json:
        options.json.write_text(json.dumps({"ratio": ratio, "equal": equal, "stages": stages, "reused": reused}))
    sys.exit(not (equal and ratio <= LARGEST_RATIO))


if __name__ == "__main__":
    main()
