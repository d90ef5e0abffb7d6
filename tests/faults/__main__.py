"""Damages folders of runs at random, gives the user's command again, and looks at what comes of it.

Either the run ends as one that was never damaged, to the bit (times and memory aside), or the damage is refused by
name, with the ways out, and `cl-mlm verify` names it, too. Everything is drawn from the seed.

    python tests/faults --times 100 --seed 0 --jobs 2 --markdown docs/results/fault-test.md
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OMP_NUM_THREADS="1", MPLBACKEND="agg")
sys.path.append(str(Path(__file__).parents[1] / "kill"))

from bases import ALL, Bases
from judge import FAILED, play
from report import markdown, table
from world import World, import_everything, in_child


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100, help="damages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="damages at a time")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the damages to make again")
    parser.add_argument("--markdown", type=Path, help="file for the account")
    return parser.parse_args()


def main():
    options = arguments()
    started = time.monotonic()
    world = World(Path(tempfile.mkdtemp(prefix="cl_mlm-faults-")))
    os.environ["CL_MLM_CACHE"] = str(world.root / "cache")
    import_everything()
    world.prepare()
    bases = Bases(world)
    bases.make(ALL[0])  # encodes the rows; every other run finds them encoded
    needed = dict.fromkeys(one for base in ALL for one in base.family)
    at_once([lambda base=base: bases.make(base) for base in needed], world.root, options.jobs)
    print(f"{len(ALL)} runs to damage, after {time.monotonic() - started:.0f} s", flush=True)
    numbers = options.only or range(options.times)
    trials = world.root / "trials"
    trials.mkdir()
    outcomes = []

    def try_one(number):
        outcome = play(bases, number, options.seed, trials / f"{number:04d}")
        (trials / f"{number:04d}.json").write_text(outcome.to_json())
        shutil.rmtree(trials / f"{number:04d}") if outcome.verdict != FAILED else None

    def tell(index):
        outcome = json.loads((trials / f"{numbers[index]:04d}.json").read_text())
        outcomes.append(outcome)
        what = f"{outcome['kind']}: {outcome['target']} {outcome['detail']}"
        print(
            f"{outcome['number']:4d} {outcome['verdict']} {outcome['base']}, {outcome['command']}; {what}", flush=True
        )
        print(*(f"       {fault}" for fault in outcome["faults"]), sep="\n", end="\n" if outcome["faults"] else "")

    at_once([lambda number=number: try_one(number) for number in numbers], world.root, options.jobs, tell)
    failed = [outcome for outcome in outcomes if outcome["verdict"] == FAILED]
    seconds = time.monotonic() - started
    print(f"\n{table(outcomes)}\n{len(outcomes)} damages in {seconds:.0f} s; {len(failed)} neither repaired nor named")
    if options.markdown:
        options.markdown.write_text(markdown(outcomes, options, seconds))
    if failed:
        sys.exit(f"what was said, and the folders: {trials}")
    shutil.rmtree(world.root)


def at_once(works, root, jobs, tell=lambda index: None):
    """Does works in forked processes, `jobs` at a time; calls `tell` with the index of each one that ended."""
    waiting, working = list(enumerate(works)), {}
    while waiting or working:
        while waiting and len(working) < jobs:
            index, work = waiting.pop(0)
            pipe, child = in_child(lambda _pipe, work=work: work(), root / f"work-{index}.txt")
            os.close(pipe)
            working[child] = index
        child, status = os.wait()
        index = working.pop(child)
        if status:
            sys.exit(f"the trial itself failed: {(root / f'work-{index}.txt').read_text()}")
        tell(index)


if __name__ == "__main__":
    main()
