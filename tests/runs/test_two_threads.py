"""A run on two threads is made again to the bit."""

import json
import subprocess
import sys

from verdict import compare

WORK = """
import json, sys
import torch
import cl_mlm
from cl_mlm.experiment.resuming import rerun_run

first = cl_mlm.run(json.loads(sys.argv[1]), progress=False)
assert torch.get_num_threads() == 2
is_equal, lines = rerun_run(first.folder)
assert is_equal, lines
"""


def test_a_run_on_two_threads_is_made_again_to_the_bit(fast, write_rows, tmp_path):
    # Many tokens a step: torch shares out only what is large.
    words = {"cold": "snow ", "hot": "sun ", "loud": "drum ", "quiet": "night "}
    rows = [{"text": f"{word * 60}{i}", "label": label} for i in range(8) for label, word in words.items()]
    fast["stream"]["path"] = str(write_rows(tmp_path / "data", train=rows))
    fast["training"] |= {"threads": 2, "epochs": 2, "batch_size": 8}
    fast["strategies"] = {"replay": {"capacity": 8}, "ewc": {"weight": 10.0}}
    fast["checkpoint"] = {"reuse_stages": 0}
    # A fresh process: threads that torch has started do not outlive a fork, and who waits for them waits for ever.
    done = subprocess.run([sys.executable, "-c", WORK, json.dumps(fast)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = sorted((path for path in tmp_path.glob("runs/fast/*")), key=lambda path: len(path.name))
    faults = compare(first, second)
    # The only difference that there must be: what the second run is called.
    assert [fault for fault in faults if first.name not in fault] == []
