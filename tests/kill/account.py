"""The account of a kill test: tables of what was killed, and where it was run."""

import os
import time
from collections import Counter

from marks import PHASES
from world import ARMS, THREADS

HEAD = """# Kill test

{total} times a run was killed with SIGKILL at a random moment, 1 to 4 times in a row, and resumed until it ended. Each
ended as an uninterrupted run of the same strategy on the same number of threads did:

- summary, weights, strategies' states, predictions, tables and figures are equal to the bit (times and memory aside);
- every point of the journal is there once;
- MLflow holds, after `cl-mlm sync`, what the journal holds: points with their times, params, tags, artifacts, states,
  one run for each stage.

Two stages of 24 steps on the `tiny` encoder with dropout, a checkpoint every 5 steps; `joint`: one stage of 48; `lwf`
and `restless` with early stopping. `restless` is a strategy of the test that changes weights and state at every step.
Half of the kills hit runs on one CPU thread, half runs on two.

<!-- test: long -->
```sh
python tests/kill --times {times} --seed {seed} --jobs {jobs}
```

The seed draws the kills. How far a process has come after the drawn delay depends on the machine, so the exact moments
do not repeat. Measured on {date}, {processor}, {cores} cores, Python {python}, torch {torch}, transformers
{transformers}, MLflow {mlflow}: {seconds:.0f} seconds.

Kills that a run survived, equal to the bit, by strategy and device:

"""


def devices(kills):
    """Returns kills by arm and device as a Markdown table."""
    counts = Counter((kill["arm"], kill["threads"]) for kill in kills)
    rows = [[arm, *(str(counts[arm, threads] or "–") for threads in THREADS), "not measured"] for arm in ARMS]
    rows.append(["all", *(str(sum(counts[arm, threads] for arm in ARMS)) for threads in THREADS), "not measured"])
    names = [f"CPU, {threads} thread{'s' if threads > 1 else ''}" for threads in THREADS]
    return _markdown_table(["strategy", *names, "CUDA"], rows)


def table(kills):
    """Returns kills by phase and arm as a Markdown table."""
    counts = Counter((kill["phase"], kill["arm"]) for kill in kills)
    rows = [
        [phase, *(str(counts[phase, arm] or "–") for arm in ARMS), str(sum(counts[phase, arm] for arm in ARMS))]
        for phase in PHASES
    ]
    rows.append(["all", *(str(sum(counts[phase, arm] for phase in PHASES)) for arm in ARMS), str(len(kills))])
    return _markdown_table(["phase", *ARMS, "all"], rows)


def functions(kills):
    """Returns kills by the function they were drawn for, and how many of them fell inside it."""
    drawn = Counter((kill["phase"], kill["mark"]) for kill in kills)
    inside = Counter((kill["phase"], kill["mark"]) for kill in kills if kill["mark"] in kill["inside"])
    order = sorted(drawn, key=lambda key: (PHASES.index(key[0]), key[1]))
    rows = [[phase, f"`{mark}`", str(drawn[phase, mark]), str(inside[phase, mark])] for phase, mark in order]
    return _markdown_table(["phase", "function", "kills", "inside it"], rows, num_texts=2)


def markdown(kills, options, seconds):
    """Returns the whole account."""
    from cl_mlm.storage.versions import versions
    from cl_mlm.training.hardware import describe_hardware

    rows = Counter(kill["row"] for kill in kills)
    runs = {length: count // length for length, count in sorted(rows.items())}
    head = HEAD.format(
        total=len(kills),
        times=options.times,
        seed=options.seed,
        jobs=options.jobs,
        date=time.strftime("%Y-%m-%d"),
        processor=describe_hardware().get("processor", "unknown processor"),
        cores=os.cpu_count(),
        seconds=seconds,
        **{name: versions()[name] for name in ("python", "torch", "transformers", "mlflow")},
    )
    text = ", ".join(f"{length}: {count}" for length, count in runs.items())
    return (
        f"{head}{devices(kills)}\n\nBy phase and strategy:\n\n{table(kills)}\n\n"
        "By the function that they were drawn for. Kills that are not inside it fell just after it:\n\n"
        f"{functions(kills)}\n\nRuns by the number of their kills: {text}.\n"
    )


def _markdown_table(head, rows, num_texts=1):
    lines = [head, ["---"] * num_texts + ["---:"] * (len(head) - num_texts), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
