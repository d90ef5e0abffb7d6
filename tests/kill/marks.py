"""The places at which a run is killed: functions of the platform, each in a phase of the run.

A process under test wraps them and says through a pipe when it enters and leaves each: so it is known what it was doing
when it was killed.
"""

import functools
import importlib
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass

PHASES = ("training", "evaluation", "consolidation", "checkpoint", "tracking")
# Where a kill falls: at the entry, at any moment from there on, at the exit, with half a line written.
BEFORE, WITHIN, AFTER, TORN = "before", "within", "after", "torn"


@dataclass(frozen=True)
class Mark:
    """A function.

    Attributes:
        place: module and name; a function that was imported by its name is wrapped where it is called.
        share: how often it is drawn, relative to the other marks of its phase.
    """

    phase: str
    place: str
    share: int = 1

    @property
    def name(self):
        """The last part of the place: overridden methods, and one function as two modules know it, count as one."""
        return self.place.rpartition(":")[2].rpartition(".")[2].lstrip("_")


MARKS = (
    Mark("training", "cl_mlm.training.loop:StageTraining.take_step"),
    Mark("evaluation", "cl_mlm.experiment.scoring:evaluate"),
    Mark("evaluation", "cl_mlm.training.early_stopping:evaluate"),
    Mark("consolidation", "cl_mlm.strategy:Strategy.after_stage"),
    Mark("consolidation", "strategies.replay:Replay.after_stage"),
    Mark("consolidation", "strategies.ewc:Ewc.after_stage"),
    Mark("consolidation", "strategies.lwf:Lwf.after_stage"),
    Mark("consolidation", "world:Restless.after_stage"),
    Mark("checkpoint", "cl_mlm.storage.checkpoint:write_folder_whole", share=4),
    Mark("checkpoint", "cl_mlm.storage.state_files:write_folder_whole", share=4),
    Mark("checkpoint", "cl_mlm.storage.state_files:save_file"),
    Mark("checkpoint", "cl_mlm.storage.state_files:flush"),
    Mark("checkpoint", "pathlib:Path.rename"),
    Mark("tracking", "cl_mlm.tracking.journal:Journal._write", share=8),
    Mark("tracking", "mlflow:MlflowClient.create_run"),
    Mark("tracking", "mlflow:MlflowClient.log_batch", share=3),
    Mark("tracking", "mlflow:MlflowClient.log_artifact"),
    Mark("tracking", "mlflow:MlflowClient.log_artifacts"),
    Mark("tracking", "mlflow:MlflowClient.set_terminated"),
    Mark("tracking", "cl_mlm.tracking.mlflow_delivery:Link.save"),
)


@dataclass(frozen=True)
class Cut:
    """One kill: at the `occurrence`-th call of a mark; `delay` in seconds counts from its entry, for WITHIN."""

    phase: str
    mark: str
    occurrence: int
    moment: str
    delay: float


class Watch:
    """Wraps every mark in this process, tells `pipe` of each entry and exit, and dies where `cut` says so."""

    def __init__(self, pipe, cut):
        self._pipe, self._cut = pipe, cut
        self._entered, self._left = Counter(), Counter()
        for mark in MARKS:
            self._wrap(mark)

    def _wrap(self, mark):
        module, _, path = mark.place.partition(":")
        *outer, attribute = path.split(".")
        owner = functools.reduce(getattr, outer, importlib.import_module(module))
        original = vars(owner).get(attribute)
        if original is None:
            getattr(owner, attribute)  # a strategy may leave the hook to its base; what is nowhere is no mark
            return

        @functools.wraps(original)
        def wrapped(*args, **kwargs):
            self._enter(mark.name, args)
            try:
                return original(*args, **kwargs)
            finally:
                self._leave(mark.name)

        setattr(owner, attribute, wrapped)

    def _enter(self, name, args):
        self._tell("+", name)
        self._entered[name] += 1
        cut = self._cut
        if cut is None or (cut.mark, cut.occurrence) != (name, self._entered[name]):
            return
        if cut.moment == BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        elif cut.moment == WITHIN:
            self._tell("!", name)  # the parent kills, so that it may happen while this process holds its lock
        elif cut.moment == TORN:
            args[0]._file = HalfLine(args[0]._file)

    def _leave(self, name):
        self._tell("-", name)
        self._left[name] += 1
        cut = self._cut
        if cut is not None and (cut.mark, cut.occurrence, cut.moment) == (name, self._left[name], AFTER):
            os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, sign, name):
        os.write(self._pipe, f"{sign}{name} {time.monotonic()}\n".encode())


class HalfLine:
    """A journal's file whose next line is cut short by a kill."""

    def __init__(self, file):
        self._file = file

    def write(self, data):
        self._file.write(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
