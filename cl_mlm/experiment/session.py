"""One run from Python: started, resumed or returned as finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.experiment.result import Result
from cl_mlm.run_folder import RunFolder
from cl_mlm.storage.run_lookup import is_finished, locked, read_summary, run_folder

if TYPE_CHECKING:
    from pathlib import Path

    from cl_mlm.experiment.continuation import Continuation
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.tracking.journal import Status


# The journal holds everything, so a server that is away must not hold up the next run, nor the prompt after Ctrl-C.
SENDING_SECONDS = 30.0
SENDING_WAITS_SECONDS = 10.0  # for the first step: until then MLflow and the training would only hold each other up
SENDING_SECONDS_KILLED = 20.0


def run_prepared(
    prepared: Prepared, *, again: bool = False, allow_inexact: bool = False, progress: bool | None = None
) -> Result:
    """Runs, goes on with, or returns as finished the run that was prepared; see `run`."""
    folder = run_folder(prepared.config, again)
    return run_in(prepared, folder, allow_inexact=allow_inexact, progress=progress)


def run_in(prepared: Prepared, folder: Path, *, allow_inexact: bool = False, progress: bool | None = None) -> Result:
    """Does the same in a given folder."""
    if is_finished(folder):
        return Result(folder, read_summary(folder), is_new=False)
    with locked(folder):
        from cl_mlm.experiment.continuation import check_continuation

        return _execute(prepared, folder, check_continuation(folder, prepared, allow_inexact), progress)


def _execute(prepared: Prepared, folder: Path, continuation: Continuation, progress: bool | None) -> Result:
    from cl_mlm.experiment.progress import Progress
    from cl_mlm.experiment.running import Experiment
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.tracking.mlflow_sender import MlflowSender

    with Journal(RunFolder(folder).journal, is_exact=continuation.is_exact) as journal:
        sender = MlflowSender(folder, journal.path, prepared.config.tracking.uri)
        sender.start(SENDING_WAITS_SECONDS)
        try:
            with Progress(prepared.config.run_name.rpartition("-")[0], progress) as display:
                experiment = Experiment(prepared, RunFolder(folder), journal, display, continuation.notes, sender.begin)
                with experiment.interruption.listening():
                    summary = experiment.execute()
        except BaseException as error:
            state: Status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
            for stage in (*journal.running_stages(), None):
                journal.status(state, stage)
            journal.sync()
            sender.finish(SENDING_SECONDS_KILLED)
            raise
        fault = sender.finish(SENDING_SECONDS)
    return Result(folder, summary, warnings=[fault] if fault else [])
