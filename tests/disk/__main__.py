"""Runs a small experiment in every amount of room, from none to enough, and gives it room then.

In each it is done, or says in one line that the disk is full and ends with 1 or 2; with room the same command gives the
result of a run that always had it, to the bit. Nothing that cannot be used is left behind.

    python tests/disk --step 16
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "kill"))
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OMP_NUM_THREADS="1", MPLBACKEND="agg")

from filling import KINDS, Filling
from quota import is_possible

IMPORTS = (
    "cl_mlm.cli.app",
    "cl_mlm.experiment.running",
    "cl_mlm.experiment.preparation",
    "datasets",
    "matplotlib.pyplot",
    "mlflow.store.tracking.sqlalchemy_store",
    "pyarrow.parquet",
    "transformers.models.bert.modeling_bert",
)
FOLDERS = 3  # that the test makes itself, where the number of files is limited
DONE_IN_A_ROW = 3  # sizes that suffice, until larger ones need not be tried
WHAT = {"all": "output and cache", "output": "output", "cache": "cache", "store": "MLflow store", "files": "(files)"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=64, help="KiB from one size to the next")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="cl_mlm-disk-"))
    if not is_possible(root / "space"):
        sys.exit("this machine lets no process mount a file system of its own")
    started = time.monotonic()
    import torch

    for name in IMPORTS:
        importlib.import_module(name)
    torch.set_num_threads(1)
    filling = Filling(root)
    os.environ["CL_MLM_CACHE"] = str(root / "cache")
    filling.prepare()
    outcomes = [outcome for kind in options.kinds for outcome in sizes(filling, kind, options.step)]
    faulty = [outcome for outcome in outcomes if outcome.faults]
    codes = Counter(outcome.codes[0] for outcome in outcomes)
    counted = f"{codes[0]} done, {codes[1]} ended with 1, {codes[2]} with 2"
    print(f"{len(outcomes)} sizes in {time.monotonic() - started:.0f} s: {counted}; {len(faulty)} faulty")
    if faulty:
        sys.exit(f"what was written is kept in {root}")
    shutil.rmtree(root)


def sizes(filling, kind, step):
    """Yields the outcome of every size until a few in a row suffice."""
    size, done = FOLDERS if kind == "files" else 0, 0
    while done < DONE_IN_A_ROW:
        # Of files one more each time: every new file is one that may not fit.
        size += 1 if kind == "files" else step
        outcome = filling.play(kind, size)
        is_done = outcome.codes[0] == 0 and not any("warning" in line for line in outcome.said)
        done = done + 1 if is_done else 0
        unit = "files" if kind == "files" else "KiB"
        said = f"; {outcome.said[0]}" if outcome.said else ""
        print(f"{WHAT[kind]} in {size} {unit}: {outcome.codes}, {outcome.left_kb} KiB left{said}", flush=True)
        for fault in outcome.faults:
            print(f"  FAULT: {fault}", flush=True)
        yield outcome


if __name__ == "__main__":
    main()
