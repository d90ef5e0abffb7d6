"""One run from Python: started, resumed or handed back as finished."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from cl_mlm.disk import storage_error
from cl_mlm.errors import StorageError
from cl_mlm.experiment.places import remove_half_written, try_places
from cl_mlm.experiment.result import Result
from cl_mlm.run_folder import RunFolder
from cl_mlm.storage.run_lookup import faults_of_finished, in_short, locked, read_summary

if TYPE_CHECKING:
    from pathlib import Path

    from cl_mlm.experiment.continuation import Continuation
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.experiment.progress import Command, Progress
    from cl_mlm.experiment.running import Experiment
    from cl_mlm.tracking.journal import Status
    from cl_mlm.tracking.mlflow_sender import MlflowSender

    Shown = bool | Command | None  # whether a run tells how it goes on, and of which command it is one

# The journal holds everything, so a server that is away must not hold up the next run, nor the prompt after Ctrl-C.
SENDING_SECONDS = 10.0
SENDING_WAITS_SECONDS = 10.0  # for the first step: until then MLflow and the training would only hold each other up
log = logging.getLogger(__name__)


def run_prepared(
    prepared: Prepared, *, again: bool = False, allow_inexact: bool = False, progress: Shown = None
) -> Result:
    """Runs, resumes, or hands back as finished the run that was prepared; see `run`."""
    from cl_mlm.experiment.run_choice import choose_folder

    choice = choose_folder(prepared, again, allow_inexact)
    is_command = not (progress is None or isinstance(progress, bool))
    for warning in choice.warnings:
        if not is_command:
            log.warning(warning)
        elif not choice.is_finished:  # else it is told with the result, at once
            print(f"warning: {warning}", file=sys.stderr, flush=True)
    if choice.is_finished:
        return Result(choice.folder, read_summary(choice.folder), is_new=False, warnings=choice.warnings)
    result = run_in(prepared, choice.folder, allow_inexact=allow_inexact, progress=progress)
    result.warnings[:0] = [] if is_command else choice.warnings
    return result


def run_in(prepared: Prepared, folder: Path, *, allow_inexact: bool = False, progress: Shown = None) -> Result:
    """Does the same in a given folder.

    Raises:
        RunFolderError: the run in it is finished, but not the result of what is there now; or it cannot be resumed.
        StorageError: a place that it writes to takes no more.
    """
    faults = faults_of_finished(folder)
    if faults == []:
        from cl_mlm.experiment.run_choice import check_finished

        return Result(folder, read_summary(folder), is_new=False, warnings=check_finished(folder, prepared))
    from cl_mlm.experiment.limits import require_limits

    require_limits(prepared)
    try_places(folder)
    with locked(folder):
        from cl_mlm.experiment.continuation import check_continuation

        continuation = check_continuation(folder, prepared, allow_inexact)
        if faults:
            log.warning("%s had finished, but %s; it goes on from what is kept", folder, in_short(faults))
        remove_half_written(RunFolder(folder))
        return _execute(prepared, folder, continuation, progress)


def _execute(prepared: Prepared, folder: Path, continuation: Continuation, progress: Shown) -> Result:
    from cl_mlm.experiment.interruption import Interruption
    from cl_mlm.experiment.progress import Progress
    from cl_mlm.experiment.running import Experiment
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.tracking.mlflow_delivery import LINK_FILE
    from cl_mlm.tracking.mlflow_sender import MlflowSender
    from cl_mlm.training.determinism import determinism

    interruption = Interruption(is_told=progress is not False)
    with interruption.listening(), Journal(RunFolder(folder).journal, is_exact=continuation.is_exact) as journal:
        if journal.is_new:  # a run that had another journal here is another one in MLflow, too
            (folder / LINK_FILE).unlink(missing_ok=True)
        sender = MlflowSender(folder, journal.path, prepared.config.tracking.uri)
        sender.start(SENDING_WAITS_SECONDS)
        display = Progress(prepared, folder, progress)
        experiment: Experiment | None = None
        try:
            with display, determinism(prepared.config.training):
                files, notes = RunFolder(folder), continuation.notes
                experiment = Experiment(prepared, files, journal, display, notes, sender.begin, interruption)
                summary = experiment.execute()
        except BaseException as error:
            state: Status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
            with interruption.held(), suppress(StorageError):  # a disk that is full takes no such lines either
                # Before its first line a journal takes no other.
                for stage in () if journal.is_new else (*journal.running_stages(), None):
                    journal.status(state, stage)
                journal.sync()
            try:
                unsent = _send_rest(sender, display)
            except (KeyboardInterrupt, SystemExit):  # one more signal; the first error is the one to tell
                unsent = sender.finish(0.0)
            if unsent:
                display.warn(unsent)
            fault = error if isinstance(error, StorageError) else storage_error(error, folder)
            if fault is not None:
                has_trained = experiment is not None and experiment.has_begun
                raise StorageError(fault.problems, lacks_room=fault.lacks_room, has_trained=has_trained) from error
            raise
        unsent = _send_rest(sender, display)
    return Result(folder, summary, warnings=[unsent] if unsent else [])


def _send_rest(sender: MlflowSender, display: Progress) -> str | None:
    """Gives the sender its last seconds; returns what it could not send, in one line.

    The runs of a command share the seconds that are lost on a server that is away; each has one at least.
    """
    started, command = time.monotonic(), display.command
    left = max(min(1.0, SENDING_SECONDS), SENDING_SECONDS - command.lost_sending_seconds)
    fault = sender.finish(left, display.still_sending)
    if fault:
        command.lost_sending_seconds += time.monotonic() - started
    return fault
