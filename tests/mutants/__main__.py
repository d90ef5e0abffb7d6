"""Plants faults in the core, one at a time, and says which of them no test catches.

A seeded sample is drawn from all small changes that can be made inside the functions of the core: a comparison turned,
an operand, an argument or a statement left out, a constant moved. For each, tests that run its line are run until one
fails: those of files that are named alike first, then the fastest, two minutes of tests at most. What survives these
counts as not caught, whatever a slower test would say, and so does a fault in a line that no test runs.

    python tests/mutants --times 150 --seed 0 --jobs 2 --markdown docs/results/mutants.md
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from random import Random

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OMP_NUM_THREADS="1", MPLBACKEND="agg")

from covering import measure
from planting import faults
from survival import markdown
from trying import attempt, begin

ROOT = Path(__file__).resolve().parents[2]
CORE = (
    "cl_mlm/training",
    "cl_mlm/objectives",
    "cl_mlm/mechanisms",
    "cl_mlm/scores",
    "cl_mlm/tokens",
    "cl_mlm/storage",
    "cl_mlm/metrics.py",
    "cl_mlm/batch.py",
    "cl_mlm/randomness.py",
    "strategies",
)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=150, help="faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time")
    parser.add_argument("--paths", nargs="+", default=CORE, help="files and folders to plant faults in")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="files and folders of tests")
    default = "not slow and not gpu and not network and not real_model and not conformance"
    parser.add_argument("--selected", default=default)
    parser.add_argument("--seconds", type=float, default=120.0, help="of tests that each fault is tried on at most")
    parser.add_argument("--covering", type=Path, help="file that keeps which tests run which line")
    parser.add_argument("--markdown", type=Path, help="file for the account")
    return parser.parse_args()


def main():
    options, started = arguments(), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="cl_mlm-mutants-"))
    covering = covered(root, options)
    sample = drawn(options)
    spawn = get_context("spawn")  # each worker forks, and so must have no threads of others
    copies = spawn.Queue()
    for i in range(options.jobs):
        copies.put(copy_of_source(root / f"copy{i}"))
    survivors = []
    with spawn.Pool(options.jobs, begin, (copies, covering, options.seconds)) as pool:
        for number, (fault, caught) in enumerate(zip(sample, pool.imap(attempt, sample), strict=True), start=1):
            print(f"{number:4d} {'caught  ' if caught else 'SURVIVED'} {told(fault)}", flush=True)
            if not caught:
                survivors.append(fault)
    seconds = time.monotonic() - started
    print(f"\n{len(sample) - len(survivors)} of {len(sample)} caught in {seconds:.0f} s")
    if options.markdown:
        options.markdown.write_text(markdown(sample, survivors, options, seconds))
    shutil.rmtree(root)


def covered(root, options):
    """Returns which tests run which line: measured, or as it was kept."""
    if options.covering and options.covering.is_file():
        return json.loads(options.covering.read_text())
    found = measure(copy_of_source(root / "measured"), options)
    if options.covering:
        options.covering.write_text(json.dumps(found))
    return found


def drawn(options):
    """Returns the faults of the seed: of all that can be planted, each as likely."""
    files = []
    for path in map(ROOT.joinpath, options.paths):
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    every = [fault for file in files for fault in faults(str(file.relative_to(ROOT)), file.read_bytes())]
    return Random(options.seed).sample(every, min(options.times, len(every)))


def copy_of_source(folder):
    """Returns a copy of what git tracks."""
    folder.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place, follow_symlinks=False)
    return folder


def told(fault):
    """Returns a fault in a line."""
    old, new = (" ".join(text.split()) for text in (fault.old, fault.new))
    return f"{fault.path}:{fault.line} {fault.kind}: {old[:90]} -> {new[:90]}"


if __name__ == "__main__":
    main()
