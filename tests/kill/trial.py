"""One trial: a run that is killed once or several times in a row, gone on with each time, and judged at its end."""

import json
import os
import select
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from marks import AFTER, BEFORE, MARKS, TORN, WITHIN, Cut

SILENCE_SECONDS = 300  # a process that enters and leaves no mark for so long hangs


@dataclass
class Trial:
    """Kills of one arm's run on so many threads, by phase."""

    number: int
    arm: str
    threads: int
    phases: list[str]

    @property
    def name(self):
        """The name of its folder."""
        return f"{self.number:04d}-{self.arm}-{self.threads}"


@dataclass
class Tale:
    """What one process told before it ended.

    Attributes:
        calls: of each mark, the number of its entries.
        seconds: of each mark, the time spent in it.
        open: marks entered and not left.
        code: exit code; minus the signal's number where it was killed.
    """

    calls: Counter = field(default_factory=Counter)
    seconds: Counter = field(default_factory=Counter)
    open: dict[str, float] = field(default_factory=dict)
    code: int = 0

    def hear(self, line):
        sign, (name, moment) = line[0], line[1:].split()
        if sign == "+":
            self.calls[name] += 1
            self.open[name] = float(moment)
        elif sign == "-":
            self.seconds[name] += float(moment) - self.open.pop(name)


def attempt(world, arm, threads, folder, cut=None):
    """Runs an arm in `folder`, killed as `cut` says, and returns its tale."""
    pipe, child = world.begin(arm, threads, folder, cut)
    tale, rest = Tale(), b""
    with os.fdopen(pipe, "rb", buffering=0) as said:
        while True:
            if not select.select([said], [], [], SILENCE_SECONDS)[0]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise TimeoutError(f"{folder}: the run hangs in {sorted(tale.open) or 'no mark'}")
            chunk = said.read(65536)
            *lines, rest = (rest + chunk).decode().split("\n")
            rest = rest.encode()
            for line in lines:
                tale.hear(line)
                if line.startswith("!"):
                    time.sleep(cut.delay)
                    os.kill(child, signal.SIGKILL)
            if not chunk:
                break
    tale.code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return tale


def play(world, trial, tales, seed):
    """Plays a trial out; writes `outcome.json`: the kills that happened and what differs from the run without."""
    folder = world.root / "trials" / trial.name
    world.make(folder)
    random, passed, kills = Random(f"{seed} {trial.number}"), Counter(), []
    for phase in trial.phases:
        cut = draw(random, phase, tales[trial.arm, trial.threads], passed)
        tale = attempt(world, trial.arm, trial.threads, folder, cut)
        passed += tale.calls
        if tale.code != -signal.SIGKILL:
            break  # it ended first: not killed
        kills.append({"phase": phase, "mark": cut.mark, "moment": cut.moment, "inside": sorted(tale.open)})
    else:
        tale = attempt(world, trial.arm, trial.threads, folder)
    faults = json.loads((folder / "faults.json").read_text()) if tale.code == 0 else [_last_words(folder, tale.code)]
    (folder / "outcome.json").write_text(json.dumps({"kills": kills, "faults": faults}))


def draw(random, phase, whole, passed):
    """Returns a kill in a phase, among the calls that the uninterrupted run made and this one has not made yet."""
    marks = {mark.name: mark for mark in MARKS if mark.phase == phase and whole.calls[mark.name]}
    name = random.choices([*marks], [mark.share for mark in marks.values()])[0]
    left = max(1, whole.calls[name] - passed[name])
    mean = whole.seconds[name] / whole.calls[name]
    moments = [BEFORE, WITHIN, AFTER] + [TORN] * (marks[name].place == "cl_mlm.tracking.journal:Journal._write")
    moment = random.choices(moments, [1, 4, 1, 1][: len(moments)])[0]
    return Cut(phase, name, random.randint(1, left), moment, random.uniform(0, 1.2 * mean))


def _last_words(folder, code):
    text = (folder / "log.txt").read_text().strip()
    return f"ended with {code}: {text.splitlines()[-1] if text else 'without a word'}"
