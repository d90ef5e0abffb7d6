"""Kills a run at random moments with SIGKILL, goes on with it until it ends, and compares it with one left alone.

Summary, weights, predictions and every other file must be equal to the bit (times and memory aside), the journal must
hold every point once, and MLflow what the journal holds. Everything is drawn from the seed; what a killed process had
reached after the drawn delay depends on the machine all the same.

    python tests/kill --times 200 --seed 0 --jobs 2 --markdown docs/results/kill-test.md
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OMP_NUM_THREADS="1", MPLBACKEND="agg")
os.environ["OMP_WAIT_POLICY"] = "passive"  # threads that wait for each other must not keep the cores from other runs

from account import devices, markdown, table
from marks import MARKS, PHASES
from trial import Trial, attempt, play
from world import ARMS, THREADS, World, import_everything, in_child

LONGEST_ROW = 4  # kills of one run
MOST_TRIALS = 20  # times the number of kills: a kill that never happens must not be drawn for ever


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--markdown", type=Path, help="file for the account")
    return parser.parse_args()


def main():
    options = arguments()
    started = time.monotonic()
    world = World(Path(tempfile.mkdtemp(prefix="cl_mlm-kill-")))
    os.environ["CL_MLM_CACHE"] = str(world.root / "cache")
    import_everything()
    world.prepare()
    whole(world, "naive", 1, "first")  # encodes the rows; every other run finds them encoded, and is so like any other
    tales = {(arm, n): whole(world, arm, n, f"{arm}-{n}") for arm in ARMS for n in THREADS}
    kills = kill(world, tales, options)
    seconds = time.monotonic() - started
    print(f"\n{devices(kills)}\n\n{table(kills)}")
    print(f"{len(kills)} kills in {seconds:.0f} s; every run ended as if it had not been killed")
    if options.markdown:
        options.markdown.write_text(markdown(kills, options, seconds))
    shutil.rmtree(world.root)


def whole(world, arm, threads, name):
    """Returns the tale of the uninterrupted run of an arm, in the folder called `name`."""
    folder = world.whole(name)
    world.make(folder)
    tale = attempt(world, arm, threads, folder)
    faults = json.loads((folder / "faults.json").read_text()) if tale.code == 0 else [(folder / "log.txt").read_text()]
    if faults:
        fail(folder, faults)
    print(f"{name}: uninterrupted, {sum(tale.calls.values())} calls watched", flush=True)
    return tale


def kill(world, tales, options):
    """Plays trials, several at a time, until every planned kill has happened; returns all kills."""
    queue, kills, playing, started = plan(tales, options.times, options.seed), [], {}, 0
    numbers = iter(range(len(queue), MOST_TRIALS * options.times))
    while queue or playing:
        while queue and len(playing) < options.jobs:
            trial, started = queue.pop(0), started + 1
            playing[begin(world, trial, tales, options.seed)] = trial
        process, status = os.waitpid(-1, 0)
        trial = playing.pop(process)
        folder = world.root / "trials" / trial.name
        outcome = {"kills": [], "faults": [f"the trial itself failed: see {folder}.log"]}
        if status == 0:
            outcome = json.loads((folder / "outcome.json").read_text())
        if outcome["faults"]:
            for process in playing:
                os.waitpid(process, 0)
            fail(folder, outcome["faults"], outcome["kills"])
        kills += [
            {**kill, "arm": trial.arm, "threads": trial.threads, "row": len(outcome["kills"])}
            for kill in outcome["kills"]
        ]
        marks = " ".join(k["mark"] for k in outcome["kills"])
        print(f"{len(kills):4d}/{options.times} {trial.arm}, {trial.threads} threads: {marks}", flush=True)
        queue += [
            Trial(next(numbers), trial.arm, trial.threads, [phase]) for phase in trial.phases[len(outcome["kills"]) :]
        ]
        shutil.rmtree(folder)
    return kills


def plan(tales, times, seed):
    """Returns trials with `times` kills, spread evenly over threads, phases and arms; rows of kills are geometric."""
    reached = {run: {mark.phase for mark in MARKS if tale.calls[mark.name]} for run, tale in tales.items()}
    random, trials, by_run = Random(f"{seed} plan"), [], {}
    for index, threads in enumerate(THREADS):
        cells = [(run, phase) for phase in PHASES for run in tales if run[1] == threads and phase in reached[run]]
        random.shuffle(cells)
        for number in range(len(range(index, times, len(THREADS)))):
            run, phase = cells[number % len(cells)]
            by_run.setdefault(run, []).append(phase)
    for run, phases in by_run.items():
        random.shuffle(phases)
        while phases:
            length = 1
            while length < LONGEST_ROW and random.random() < 0.5:
                length += 1
            trials.append((run, phases[:length]))
            del phases[:length]
    random.shuffle(trials)
    return [Trial(number, *run, phases) for number, (run, phases) in enumerate(trials)]


def begin(world, trial, tales, seed):
    """Forks a process that plays a trial and returns its id."""
    (world.root / "trials").mkdir(exist_ok=True)
    log = world.root / "trials" / f"{trial.name}.log"
    pipe, process = in_child(lambda _pipe: play(world, trial, tales, seed), log)
    os.close(pipe)
    return process


def fail(folder, faults, kills=()):
    """Says what differs and ends with 1; the folder stays."""
    print(f"\nDIFFERS: {folder}")
    print(*(f"  killed {kill['moment']} {kill['mark']}" for kill in kills), sep="\n")
    print(*(f"  {fault}" for fault in faults), sep="\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
