"""Runs experiments from Python; the command line is one caller of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.config.loading import load_config
from cl_mlm.disk import disk_faults_told
from cl_mlm.errors import ConfigError
from cl_mlm.experiment.handed_over import strategy_objects
from cl_mlm.experiment.session import run_prepared
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stream

if TYPE_CHECKING:
    from cl_mlm.check.findings import Findings
    from cl_mlm.experiment.result import Result
    from cl_mlm.results.compared_runs import ComparedRuns

Strategies = (
    str
    | Strategy
    | type[Strategy]
    | Sequence[Strategy | type[Strategy]]
    | Sequence[str]
    | Mapping[str, Mapping[str, Any]]
    | None
)

log = logging.getLogger(__name__)


def run(
    config: str | Path | Mapping[str, Any],
    *overrides: str,
    arm: str | None = None,
    again: bool = False,
    allow_inexact: bool = False,
    progress: bool | None = None,
    strategies: Strategies = None,
    stream: Stream | str | Mapping[str, Any] | None = None,
    **settings: Any,
) -> Result:
    """Runs one experiment, resumes it where it was interrupted, or hands it back where nothing has changed.

    Args:
        config: a YAML file, the bare name of a shipped config (`quickstart`), or a mapping of the same form.
        overrides: `key.path=value`, as on the command line: a value that is a mapping replaces what was there.
        arm: one of the variants that the file declares.
        again: makes a second run beside a finished one.
        allow_inexact: resumes an interrupted run under other versions or on another machine, too, where the result may
            differ in its last bits; the run is flagged.
        progress: tells on standard error how the run goes on: on a terminal with a live line, elsewhere (a notebook, a
            log) with a plain line for every stage. False: silent.
        strategies: objects or classes, or names, in place of the config's; a mapping from names to arguments is merged
            into it, as in a file. Objects are made anew from their arguments, so that no run sees another's memory.
        stream: an object, a name, or a section of the config, which is merged where it names the same stream.
        settings: further sections or values, such as `seed=1` or `training={"epochs": 1}`. A section is merged key by
            key, as that of an arm is: the keys that it does not name stay.

    Raises:
        ConfigError, DataError: every fault, before a model is loaded.
        RunFolderError: another process works on this run, its folder is damaged, or it was started under other versions
            or on another machine.
        StorageError: output or cache cannot be written; the same call goes on where there is room again.
    """
    from cl_mlm.experiment.preparation import prepare, with_objects

    _check_given(config, stream)
    built = None if isinstance(strategies, str | Mapping) else strategy_objects(strategies)
    given = stream if isinstance(stream, Stream) else None
    if strategies is not None and built is None:
        settings["strategies"] = strategies if isinstance(strategies, str | Mapping) else list(strategies)  # type: ignore[arg-type]
    if stream is not None and given is None:
        settings["stream"] = stream
    resolved = load_config(config, [*overrides, settings], arm, needs_stream=given is None)
    resolved = with_objects(resolved, given, built)
    with disk_faults_told():
        prepared = prepare(resolved, given, built)
    return run_prepared(prepared, again=again, allow_inexact=allow_inexact, progress=progress)


def _check_given(config: object, stream: object) -> None:
    """Refuses a config or a stream in a form that means nothing here.

    Raises:
        ConfigError: naming the form.
    """
    if not isinstance(config, str | Path | Mapping):
        raise ConfigError(f"config: must be a YAML file or a mapping of settings, got {type(config).__name__}")
    if stream is None or isinstance(stream, Stream | str | Mapping):
        return
    name = getattr(stream, "__name__", None)
    if callable(stream) and name:
        raise ConfigError(f"stream: must be a Stream, a name or a section, got the function; call it: stream={name}()")
    raise ConfigError(
        f"stream: must be a Stream, a name or a section, got {type(stream).__name__}; cl_mlm.data.by_labels and its "
        "neighbours make a Stream of rows"
    )


def compare(*runs: Result | str | Path | Iterable[Result | str | Path]) -> ComparedRuns:
    """Compares finished runs; writes nothing.

    Args:
        runs: results, run folders, or folders of runs, such as `runs/quickstart`; lists of these, too.

    Raises:
        ConfigError: there is no finished run among them.
        RunFolderError: a folder is missing, or a run is damaged.
    """
    from cl_mlm.experiment.result import Result
    from cl_mlm.results.compared_runs import compared_runs

    folders = []
    for given in runs:
        for one in [given] if isinstance(given, Result | str | Path) or not isinstance(given, Iterable) else given:
            if not isinstance(one, Result | str | Path):
                raise ConfigError(f"compare: must be given results or folders, got {type(one).__name__}")
            folders.append(one.folder if isinstance(one, Result) else Path(one))
    return compared_runs(folders)


def verify(folder: Result | str | Path) -> list[Findings]:
    """Looks at everything that runs have left; trains nothing and writes nothing.

    Args:
        folder: a result, a run folder, or a folder of runs, such as `runs/quickstart`.

    Returns:
        What was found of each run: `state`, `lines` (a line for each part), `faults` (`what` is wrong, and `way_out`),
        `notes`; `is_whole` where there is no fault.

    Raises:
        RunFolderError: there is no run.
    """
    from cl_mlm.check.verification import verify as verify_runs
    from cl_mlm.experiment.result import Result

    return verify_runs(folder.folder if isinstance(folder, Result) else Path(folder))
