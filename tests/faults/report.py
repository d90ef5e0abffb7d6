"""The account of a fault test: kind of damage by what came of it."""

import os
import time
from collections import Counter

from damages import KINDS
from judge import FAILED, HARMLESS, REFUSED, REPAIRED

HEAD = """# Fault test

{total} times the folder of a run was damaged at random, and the user's command was given again (`cl-mlm run` with the
same config, or `cl-mlm resume FOLDER`). The runs: naive, replay+ewc and lwf (two stages of 12 steps on `tiny`, a
checkpoint every 3 steps); finished, killed in the first stage, killed in the second; `checkpoint.keep_stages` last and
all. What a file is hit by, and which, is drawn from the seed.

- repaired: the run ends, everything in its folder equals the undamaged run to the bit (times and memory aside), and
  MLflow holds, after `cl-mlm sync`, what the journal holds.
- refused: exit code 2, and the message names the damage and the ways out; `cl-mlm verify` names it, too. The way out
  `run --again` then gives the matrix of the undamaged run.
- harmless: what was damaged is no part of what the run found: the lock, the notes about deliveries to MLflow, times; or
  a stage's model was removed whole from a finished run, which is handed back with a warning that names it.

<!-- test: long -->
```sh
python tests/faults --times {times} --seed {seed} --jobs {jobs}
```

Measured on {date}, {processor}, {cores} cores, Python {python}, torch {torch}: {seconds:.0f} seconds.

"""


def table(outcomes):
    """Returns verdicts by kind of damage as a Markdown table."""
    verdicts = [REPAIRED, REFUSED, HARMLESS]
    verdicts += [FAILED] if any(outcome["verdict"] == FAILED for outcome in outcomes) else []
    counts = Counter((outcome["kind"], outcome["verdict"]) for outcome in outcomes)
    kinds = [kind for kind in KINDS if any(counts[kind, verdict] for verdict in verdicts)]
    rows = [_row(kind, [counts[kind, verdict] for verdict in verdicts]) for kind in kinds]
    rows.append(_row("all", [sum(counts[kind, verdict] for kind in kinds) for verdict in verdicts]))
    head = ["damage", *verdicts, "all"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(outcomes, options, seconds):
    """Returns the whole account."""
    from cl_mlm.storage.versions import versions
    from cl_mlm.training.hardware import describe_hardware

    head = HEAD.format(
        total=len(outcomes),
        times=options.times,
        seed=options.seed,
        jobs=options.jobs,
        date=time.strftime("%Y-%m-%d"),
        processor=describe_hardware().get("processor", "unknown processor"),
        cores=os.cpu_count(),
        seconds=seconds,
        **{name: versions()[name] for name in ("python", "torch")},
    )
    return f"{head}{table(outcomes)}\n"


def _row(name, counts):
    return [name, *(str(count or "–") for count in counts), str(sum(counts))]
