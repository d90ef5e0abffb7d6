"""Reads the journal of a run and says whether it is whole in itself: statuses, points, steps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import RunFolderError
from cl_mlm.tracking.journal import STATUSES, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cl_mlm.check.findings import Findings

STEP_METRIC = "train/learning_rate"  # a point of it is written wherever values of a step are
REUSED = "reused_from"
INEXACT = "inexact"
NOTE = "mlflow.note.content"


@dataclass
class KeptJournal:
    """What the lines of a journal say, in order; a later line counts.

    Attributes:
        head: experiment and name of the run.
        params: the settings, each as it was first written.
        tags: of the run, and by stage.
        stages: names of the stages that have started, by index.
        statuses: of the run (None) and of each stage.
        points: by stage and key the value at each step; None: not finite.
        num_sent: finite points by stage: what a tracking store has of each run.
        artifacts: files that the run has written, relative to its folder.
        is_torn: whether the last line has no end.
        faults: of lines.
    """

    head: tuple[str, str] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[int | None, dict[str, str]] = field(default_factory=dict)
    stages: dict[int, str] = field(default_factory=dict)
    statuses: dict[int | None, str] = field(default_factory=dict)
    points: dict[tuple[int | None, str], dict[int, float | None]] = field(default_factory=dict)
    num_sent: dict[int | None, int] = field(default_factory=dict)
    artifacts: dict[str, None] = field(default_factory=dict)
    is_torn: bool = False
    faults: list[str] = field(default_factory=list)

    @property
    def num_points(self) -> int:
        """The number of points, each counted once."""
        return sum(map(len, self.points.values()))

    @property
    def num_stages(self) -> int | None:
        """The number of stages that the run has in all; None: not known."""
        found = re.search(r", (\d+) stages?, ", self.tags.get(None, {}).get(NOTE, ""))
        return int(found[1]) if found else None

    def run_points(self, prefix: str) -> dict[tuple[str, int], float]:
        """Returns the finite points of the run whose key begins so, by the rest of the key and the step."""
        return {
            (key.removeprefix(prefix), step): value
            for (stage, key), steps in self.points.items()
            if stage is None and key.startswith(prefix)
            for step, value in steps.items()
            if value is not None
        }

    def add(self, line: Mapping[str, Any]) -> None:
        """Takes one line in.

        Raises:
            TypeError, ValueError, KeyError, AttributeError: it is of another form.
        """
        stage = line.get("stage")
        match line["kind"]:
            case "start":
                if self.head is not None:
                    raise ValueError("a second line of the kind start")
                self.head, self.statuses[None] = (str(line["experiment"]), str(line["run_name"])), "RUNNING"
            case "stage_start":
                self.stages[int(line["stage"])], self.statuses[stage] = str(line["name"]), "RUNNING"
            case "metrics":
                self._add_points(line, stage)
            case "params":
                self.params = {**line["values"], **self.params}
            case "tags":
                self.tags.setdefault(stage, {}).update(line["values"])
            case "artifact":
                self.artifacts[str(line["path"])] = None
            case "status":
                if line["value"] not in STATUSES:
                    raise ValueError(f"status {line['value']!r}")
                self.statuses[stage] = line["value"]

    def _add_points(self, line: Mapping[str, Any], stage: int | None) -> None:
        step, values = int(line["step"]), {**line["values"], **dict.fromkeys(line.get("not_finite", ()))}
        is_exact = INEXACT not in self.tags.get(None, {})
        self.num_sent[stage] = self.num_sent.get(stage, 0) + len(line["values"])
        for key, value in values.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{key} {value!r}")
            steps = self.points.setdefault((stage, key), {})
            if step in steps and is_exact:
                raise ValueError(f"{key} at step {step} stands there twice")
            steps[step] = value


def read_journal(path: Path) -> KeptJournal:
    """Returns what a journal says, as far as it can be read."""
    journal = KeptJournal()
    try:
        journal.is_torn = path.read_bytes()[-1:] not in (b"", b"\n")
        for line, end in read_lines(path):
            try:
                if journal.head is None and line["kind"] != "start":
                    raise ValueError("a line before the first one")
                if (
                    line.get("stage") is not None
                    and line["kind"] != "stage_start"
                    and line["stage"] not in journal.stages
                ):
                    raise ValueError(f"stage {line['stage']}, which has not started")
                journal.add(line)
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                journal.faults.append(f"{path.name}: the line that ends at byte {end} has {error}")
    except FileNotFoundError:
        journal.faults.append(f"{path.name}: is missing")
    except (RunFolderError, OSError) as error:
        journal.faults.append(str(error).replace(f"{path.parent}/", ""))
    return journal


def check_journal(
    found: Findings, journal: KeptJournal, log_every: int | None, *, has_summary: bool, stops_early: bool
) -> None:
    """Adds what the journal of a run says of itself.

    Args:
        found: mutated.
        journal: as far as it could be read.
        log_every: steps between the points of a stage; None: not known.
        has_summary: whether the run has a summary.
        stops_early: whether the last step of a stage is not known before.
    """
    faults = list(journal.faults)
    if not faults:
        faults += _wrong_statuses(journal, has_summary)
        faults += _wrong_steps(journal, log_every, stops_early)
    number = len(journal.stages)
    seen = f"{journal.num_points:,} points of {number} stage{'' if number == 1 else 's'}"
    found.add("journal", seen, faults, found.again())


def _wrong_statuses(journal: KeptJournal, has_summary: bool) -> Iterator[str]:
    if journal.head is None:
        yield "journal.jsonl: is empty"
        return
    if journal.stages and not (journal.params and journal.tags.get(None)):
        yield "journal.jsonl: the settings that the run was started with are missing"
    indices = sorted(journal.stages)
    # A joint run has the last stage only.
    if len(indices) > 1 and indices != list(range(len(indices))):
        yield f"journal.jsonl: stages {indices} have started, some are missing"
    status = journal.statuses[None]
    if status == "FINISHED" and journal.is_torn:
        yield "journal.jsonl: the run is FINISHED, something without a line's end follows"
    open_stages = [stage for stage in indices if journal.statuses[stage] != "FINISHED"]
    if status == "FINISHED" and open_stages:
        yield f"journal.jsonl: the run is FINISHED, stage {open_stages[0]} is {journal.statuses[open_stages[0]]}"
    if status == "FINISHED" and not indices:
        yield "journal.jsonl: the run is FINISHED without a stage"
    if status == "FINISHED" and journal.num_stages not in (None, indices[-1] + 1 if indices else 0):
        yield f"journal.jsonl: the run is FINISHED after {len(indices)} of {journal.num_stages} stages"
    if status == "FINISHED" and not has_summary:
        yield "summary.json: is missing, the journal says that the run is FINISHED"


def _wrong_steps(journal: KeptJournal, log_every: int | None, stops_early: bool) -> Iterator[str]:
    """Yields the finished stages that have not a point wherever values of a step are written."""
    for stage, status in journal.statuses.items():
        if stage is None or status != "FINISHED":
            continue
        number = journal.points.get((stage, "cost/steps"), {}).get(stage)
        if number is None:
            yield f"journal.jsonl: stage {stage} is FINISHED and its number of steps is missing"
            continue
        if log_every is None or REUSED in journal.tags.get(stage, {}):
            continue  # or trained by another run
        steps = {*journal.points.get((stage, STEP_METRIC), {})}
        expected = {*range(log_every, int(number) + 1, log_every)}
        expected |= set() if stops_early or not number else {int(number)}
        missing = sorted(expected - steps)
        if missing:
            yield f"journal.jsonl: stage {stage} took {number:g} steps, points of {_listed(missing)} are missing"
        beyond = sorted(step for step in steps if step > number)
        if beyond:
            yield f"journal.jsonl: stage {stage} took {number:g} steps, and has points of {_listed(beyond)}"


def _listed(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[:3]))
    return f"step {shown}" + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")
