"""Runs experiments from Python; the command line is one caller of it."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import Config
from cl_mlm.errors import ConfigError, RunFolderError, nearest
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stream
from cl_mlm.tracking.slugs import slug

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel

    from cl_mlm.experiment.continuation import Continuation
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.experiment.prompt_run import Prompted
    from cl_mlm.tracking.journal import Status

log = logging.getLogger(__name__)

# The journal holds everything, so a server that is away must not hold up the next run, nor the prompt after Ctrl-C.
SENDING_SECONDS = 30.0
SENDING_WAITS_SECONDS = 10.0  # for the first step: until then MLflow and the training would only hold each other up
SENDING_SECONDS_KILLED = 20.0


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        folder: where everything of the run lies.
        summary: the contents of `summary.json`.
        is_new: False where the run had been finished before.
        warnings: what the reader should know, such as a tracking server out of reach.
    """

    folder: Path
    summary: Mapping[str, Any]
    is_new: bool = True
    warnings: list[str] = field(default_factory=list)

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """Test scores, (stages, columns); NaN where nothing was measured."""
        import numpy as np

        return np.array(self.summary["accuracy_matrix"], dtype=np.float64)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The run's final figures; None where undefined, with the reason in `summary["reasons"]`."""
        return dict(self.summary["metrics"])

    def model(self, stage: int = -1, task: str | None = None) -> PreTrainedModel:
        """Returns the model as it was after `stage` (-1: the last), from the run folder.

        Args:
            stage: the stage's index.
            task: of a stream with several objectives, whose head: a key of `summary["tasks"]`; None: the stage's own.

        Raises:
            ConfigError: the stream has no such task.
            RunFolderError: that stage's model was not kept (`checkpoint.keep_stages`).
        """
        import transformers

        stage_index = stage % len(self.summary["stream"]["stages"])
        known = [*self.summary.get("tasks", {})]
        if task is not None and known and task not in known:
            raise ConfigError(f"task: must be one of {', '.join(known)}, got {task!r}{nearest(task, known)}")
        kept = self.folder / "stages" / f"{stage_index:03d}"
        # Tasks that share their head with the stage's own have no folder beside it.
        folder = kept / "models" / task if task is not None and (kept / "models" / task).is_dir() else kept / "model"
        if not folder.is_dir():
            raise RunFolderError(f"{folder}: not kept; run with checkpoint.keep_stages=all")
        settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind: Any = getattr(transformers, (settings.architectures or ["AutoModel"])[0])
        model: PreTrainedModel = kind.from_pretrained(folder, config=settings, use_safetensors=True)
        return model

    def prompt(
        self,
        *overrides: str,
        stage: int | str = "last",
        shots: Sequence[int] | None = None,
        config: str | Path | Mapping[str, Any] | None = None,
        stream: Stream | None = None,
    ) -> Prompted:
        """Asks the model after `stage`, or the `untrained` one, by prompts; see `cl_mlm.prompt`."""
        from cl_mlm.experiment.prompt_run import prompt_run

        return prompt_run(self.folder, *overrides, stage=stage, shots=shots, config=config, stream=stream)


def run(
    config: str | Path | Mapping[str, Any],
    *overrides: str,
    arm: str | None = None,
    again: bool = False,
    allow_inexact: bool = False,
    progress: bool | None = None,
    strategies: str | Sequence[Strategy | str] | Mapping[str, Mapping[str, Any]] | None = None,
    stream: Stream | str | Mapping[str, Any] | None = None,
    **settings: Any,
) -> Result:
    """Runs one experiment, goes on with it where it was interrupted, or returns it where it is finished.

    Args:
        config: a YAML file, or a mapping of the same form.
        overrides: `key.path=value`, as on the command line.
        arm: one of the variants that the file declares.
        again: makes a second run of a finished one.
        allow_inexact: goes on with an interrupted run under other versions or on another machine, too, where the result
            may differ in its last bits; the run is flagged.
        progress: shows a live display; None: only on a terminal.
        strategies: objects, or names, in place of the config's; a mapping from names to arguments is merged into it, as
            in a file. Objects are made anew from their arguments, so that no run sees another's memory.
        stream: an object, a name, or a section of the config.
        settings: further sections or values, such as `seed=1` or `training={"epochs": 1}`.

    Raises:
        ConfigError, DataError: every fault, before a model is loaded.
        RunFolderError: another process works on this run, its folder is damaged, or it was started under other versions
            or on another machine.
    """
    from cl_mlm.experiment.preparation import prepare, with_objects

    built = None if isinstance(strategies, str | Mapping) else _strategy_objects(strategies)
    given = stream if isinstance(stream, Stream) else None
    if strategies is not None and built is None:
        settings["strategies"] = strategies if isinstance(strategies, str | Mapping) else list(strategies)
    if stream is not None and given is None:
        settings["stream"] = stream
    resolved = load_config(config, [*overrides, settings], arm, needs_stream=given is None)
    resolved = with_objects(resolved, given, built)
    return run_prepared(prepare(resolved, given, built), again=again, allow_inexact=allow_inexact, progress=progress)


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

    with Journal(folder / "journal.jsonl", is_exact=continuation.is_exact) as journal:
        sender = MlflowSender(folder, journal.path, prepared.config.tracking.uri)
        sender.start(SENDING_WAITS_SECONDS)
        try:
            with Progress(prepared.config.run_name.rpartition("-")[0], progress) as display:
                experiment = Experiment(prepared, folder, journal, display, continuation.notes, sender.begin)
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


def run_folder(config: Config, again: bool = False) -> Path:
    """Returns the folder of this run; with `again`, of the first further one that is not finished.

    Raises:
        ConfigError: a class handed over in Python has a name that leads elsewhere.
    """
    if Path(config.run_name).name != config.run_name or "\0" in config.run_name:
        raise ConfigError(f"strategies: their names must make a file's name, got {config.run_name!r}")
    folder = Path(config.output) / slug(config.experiment) / config.run_name
    number = 2
    while again and is_finished(folder):
        folder = folder.with_name(f"{config.run_name}-{number}")
        number += 1
    return folder


def is_finished(folder: Path) -> bool:
    """Says whether a run folder holds a finished run: its summary, and the journal's word that all is written."""
    if not (folder / "summary.json").is_file() or not (folder / "journal.jsonl").is_file():
        return False
    try:
        read_summary(folder)
    except RunFolderError as error:  # the last checkpoint gives it again
        log.warning("%s; the run goes on and writes it again", error)
        return False
    from cl_mlm.tracking.journal import read_lines

    states = [line for line, _ in read_lines(folder / "journal.jsonl") if line["kind"] == "status"]
    return bool(states) and states[-1]["stage"] is None and states[-1]["value"] == "FINISHED"


def read_summary(folder: Path) -> dict[str, Any]:
    """Returns the contents of a finished run's `summary.json`.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    path = folder / "summary.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read as a summary: {error}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run folder for this process.

    Raises:
        RunFolderError: another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"output: nothing can be written in {str(folder)!r}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(f"{folder}: another process works on this run") from error
        yield


def _strategy_objects(strategies: Sequence[Strategy | str] | None) -> list[Strategy] | None:
    """Returns strategies handed over as objects, made anew; None where names were given, or nothing.

    Raises:
        ConfigError: objects and names are mixed.
    """
    objects = [strategy for strategy in strategies or () if isinstance(strategy, Strategy)]
    if objects and len(objects) != len(strategies or ()):
        raise ConfigError("strategies: must be all objects or all names")
    return [type(strategy)(**strategy.arguments()) for strategy in objects] or None
