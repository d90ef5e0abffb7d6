"""The account of planted faults: how many were caught, by part of the core and by kind."""

import platform
import time
from collections import Counter

HEAD = """# Planted faults

{caught} of {total} faults planted in the core were caught by the tests that run their lines: {share:.0f} %.

<!-- test: long -->
```sh
python tests/mutants --times {total} --seed {seed} --jobs {jobs}
```

Measured on {date}, {processor}, Python {python}: {seconds:.0f} seconds, one run of all tests to see which lines they
run among them.

"""


def markdown(sample, survivors, options, seconds):
    """Returns the whole account; why a survivor is none, a person writes."""
    from cl_mlm.training.hardware import describe_hardware

    caught = len(sample) - len(survivors)
    head = HEAD.format(
        caught=caught,
        total=len(sample),
        share=100 * caught / len(sample),
        seed=options.seed,
        jobs=options.jobs,
        date=time.strftime("%Y-%m-%d"),
        processor=describe_hardware()["processor"],
        python=platform.python_version(),
        seconds=seconds,
    )
    parts = _table("part", sample, survivors, lambda fault: fault.path.rpartition("/")[0])
    kinds = _table("kind", sample, survivors, lambda fault: fault.kind)
    lines = [f"- `{f.path}:{f.line}`, {f.kind}: `{_one_line(f.old)}` → `{_one_line(f.new)}`" for f in survivors]
    return "\n\n".join([head.rstrip(), parts, kinds, "Not caught:", "\n".join(lines)]) + "\n"


def _table(name, sample, survivors, of):
    planted, survived = Counter(map(of, sample)), Counter(map(of, survivors))
    rows = [f"| {key} | {count} | {count - survived[key]} |" for key, count in sorted(planted.items())]
    return "\n".join([f"| {name} | planted | caught |", "| --- | ---: | ---: |", *rows])


def _one_line(text):
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
