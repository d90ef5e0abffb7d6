"""Runs online streams of more and more stages, and tells what each stage takes: time, memory, files, maps, threads.

python -m benchmarks.long_stream [--stages 100 1000 10000] [--strategies STRATEGY ...]

Each stream runs in a process of its own, on the model `tiny`, with two training rows a stage and four labels. What a
process holds is read after every 10th stage; growth is the change from the end of the first fifth, or where there are
more than 1,000 stages from the 1,000th, to the end. Exits with 1 if files, maps or threads grow with the stages, if
memory grows by more than 4 kB a stage, or if a stage at the end of the longest stream takes more than 1.5 times as long
as one of the shortest: medians of the CPU time of the thread that trains, which other processes hardly change.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

ROWS = 2  # of a stage
EVERY = 10
LONGEST_RATIO = 1.5
MAY_GROW_BYTES = 4000
MAY_GROW = 16  # files, maps and threads of libraries that come and go


def held():
    """Returns what this process holds: CPU seconds of this thread, resident bytes, open files, mapped files, threads.

    Maps without a file are the allocator's: what lies in them counts as bytes.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "seconds": time.thread_time(),
        "bytes": int(Path("/proc/self/statm").read_text().split()[1]) * page,
        "files": sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,
        "maps": sum("/" in line for line in Path("/proc/self/maps").read_text().splitlines()),
        "threads": sum(1 for _ in Path("/proc/self/task").iterdir()),
    }


def write_rows(folder, num_stages):
    """Writes a folder of rows for `num_stages` stages."""
    folder.mkdir()
    words = {"cold": "ice", "hot": "sun", "loud": "drum", "quiet": "hush"}
    labels = list(words)
    for split, number in (("train", ROWS * num_stages), ("validation", 8), ("test", 8)):
        rows = ({"text": f"{words[labels[i % 4]]} {split} {i}", "label": labels[i % 4]} for i in range(number))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder, num_stages, strategies):
    """Runs one stream; returns what is held after every EVERY-th stage."""
    import cl_mlm
    from cl_mlm.experiment import running

    write_rows(folder / "rows", num_stages)
    readings, stage_done = [], running.Experiment._run_stage

    def counted(self, run, record, stage_index, **named):
        stage_done(self, run, record, stage_index, **named)
        if stage_index % EVERY == EVERY - 1:
            readings.append({"stage": stage_index + 1, **held()})

    running.Experiment._run_stage = counted
    begun, begun_here = time.perf_counter(), time.thread_time()
    cl_mlm.run(
        {
            "experiment": "long",
            "stream": {
                "name": "files",
                "path": str(folder / "rows"),
                "labels_per_stage": 4,
                "scenario": "online",
                "chunk_rows": ROWS,
                "evaluate_every": 10 * num_stages,
            },
            "model": {"name": "tiny"},
            "training": {"epochs": 1, "batch_size": ROWS, "threads": 1},
            "output": str(folder / "runs"),
            "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
        },
        strategies=strategies,
        progress=False,
    )
    return {"before": readings[0]["seconds"] - begun_here, "whole": time.perf_counter() - begun, "readings": readings}


def measured(num_stages, strategies):
    """Returns what `run` gives, from a process of its own."""
    with tempfile.TemporaryDirectory(prefix="long-stream-") as folder:
        command = [sys.executable, "-m", "benchmarks.long_stream", "--run", folder, "--stages", str(num_stages)]
        environment = os.environ | {"CL_MLM_CACHE": f"{folder}/cache"}
        done = subprocess.run(
            [*command, "--strategies", *strategies], stdout=subprocess.PIPE, check=True, env=environment, text=True
        )
        return json.loads(done.stdout.splitlines()[-1])


def line(num_stages, found):
    """Returns the figures of one stream as a dict."""
    readings = found["readings"]
    start, last = readings[min(len(readings) // 5, 1000 // EVERY)], readings[-1]
    passed = max(1, last["stage"] - start["stage"])
    times = [1000 * (after["seconds"] - before["seconds"]) / EVERY for before, after in pairwise(readings)]
    return {
        "stages": num_stages,
        "CPU s before": round(found["before"], 1),
        "whole s": round(found["whole"], 1),
        "CPU ms/stage": round(median(times), 2),
        "CPU ms/stage at the end": round(median(times[-20:]), 2),
        "MB": round(last["bytes"] / 1e6),
        "bytes/stage": round((last["bytes"] - start["bytes"]) / passed),
        **{kind: [start[kind], last[kind]] for kind in ("files", "maps", "threads")},
    }


def faults(lines):
    """Returns what grows with the stages, in words."""
    found = []
    for told in lines:
        grown = {kind: told[kind][1] - told[kind][0] for kind in ("files", "maps", "threads")}
        found += [
            f"{told['stages']} stages: {number} more {kind}" for kind, number in grown.items() if number > MAY_GROW
        ]
    longest = lines[-1]
    if longest["bytes/stage"] > MAY_GROW_BYTES:
        found.append(f"{longest['stages']} stages: {longest['bytes/stage']} bytes a stage")
    ratio = longest["CPU ms/stage at the end"] / lines[0]["CPU ms/stage"]
    if ratio > LONGEST_RATIO:
        found.append(f"{longest['stages']} stages: a stage takes {ratio:.1f} times as long as of {lines[0]['stages']}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--strategies", nargs="*", default=[])
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.run, options.stages[0], options.strategies)))
        return 0
    lines = []
    for num_stages in options.stages:
        lines.append(line(num_stages, measured(num_stages, options.strategies)))
        print(json.dumps(lines[-1]), flush=True)
    missed = faults(lines)
    print(*missed, sep="\n")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
