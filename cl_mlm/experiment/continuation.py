"""Decides whether a run may be resumed, or handed back as finished: compares what it recorded with what is now.

The journal holds the recorded ones: settings in `params`, each as it was first written, and the rest in tags, which a
resumed run writes again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cl_mlm.config.schema import BESIDE_IDENTITY
from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.provenance import other_data, other_source
from cl_mlm.run_folder import RunFolder
from cl_mlm.storage.checkpoint import has_checkpoint, journal_faults, knows_journal, last_record
from cl_mlm.storage.inventory import lost_for_good
from cl_mlm.storage.run_lookup import in_short, read_summary
from cl_mlm.storage.unmendable import lost_stages, misplaced
from cl_mlm.storage.versions import versions
from cl_mlm.tracking.credentials import cleaned, without_credentials
from cl_mlm.tracking.journal import read_lines
from cl_mlm.training.hardware import describe_hardware

if TYPE_CHECKING:
    from pathlib import Path

    from cl_mlm.config.schema import Config
    from cl_mlm.experiment.preparation import Prepared

INEXACT_TAG = "inexact"
LOG_EVERY = "tracking.log_every"
BETWEEN_NOTES = "; "
WAYS_OUT = "\n`run --again` (in Python: again=True) makes a new run beside it; or delete the folder"
WAYS_BACK = "\nbring it back as it was, and the same command goes on; or" + WAYS_OUT.replace("\n", " ")
EARLIER_VERSION = "resumed from what an earlier version kept: whether the journal is whole is not known"
WITHOUT_THEM = "\nremove the folders of these stages, and the same command goes on without them; or"
# Settings that say where a run is computed, not what.
PLACE = ("training.device", "training.threads")


@dataclass(frozen=True)
class Continuation:
    """How a run is resumed.

    Attributes:
        notes: differences between the sessions of the run, for its flags.
        is_exact: whether what is trained again must give the values of the journal.
    """

    notes: list[str] = field(default_factory=list)
    is_exact: bool = True


@dataclass(frozen=True)
class Changes:
    """What differs between the start of a run and now, a line for each difference.

    Attributes:
        settings: settings that make it another run.
        data: rows, what is asked of them, and files of the model, that make it another run; by their tags.
        source: the project's code, and own code.
        place: settings that say where the run is computed.
        versions: versions, and settings that one of the two versions does not have.
        machine: processor and accelerator.
    """

    settings: list[str] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)
    source: list[str] = field(default_factory=list)
    place: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    machine: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.other_run or self.inexact)

    @property
    def other_run(self) -> list[str]:
        """Differences that make it another run."""
        return [*self.settings, *self.data.values()]

    @property
    def other_result(self) -> list[str]:
        """Differences with which a finished run is not handed back."""
        return self.other_run + self.source

    @property
    def inexact(self) -> list[str]:
        """Differences with which a run is resumed only where it is asked for, and then flagged."""
        return self.source + self.versions + self.machine + self.place

    def notes(self) -> list[str]:
        """Returns the changes that were allowed, in the words of a flag."""
        notes = []
        if self.source or self.versions:
            notes.append(f"resumed under other versions: {', '.join(self.source + self.versions)}")
        if self.machine or self.place:
            notes.append(f"resumed on other hardware: {', '.join(self.machine + self.place)}")
        return notes


def check_continuation(folder: Path, prepared: Prepared, allow_inexact: bool) -> Continuation:
    """Returns how the run in `folder` is resumed, or started where it is new.

    Raises:
        RunFolderError: settings or data are not those of the start; or versions or the machine, unless
            `allow_inexact`, or nothing is kept that was computed under them; or the journal or tables of predictions
            are not what they were when the last checkpoint was written.
    """
    is_begun = has_checkpoint(RunFolder(folder))
    _refuse_other_files(RunFolder(folder), keeps_all=prepared.config.checkpoint.keep_stages == "all")
    params, tags = _written(folder)
    if is_begun and not (params and tags):
        fault = "does not say with which settings and versions the run was started, so nothing can be compared with now"
        raise RunFolderError(f"{RunFolder(folder).journal}: {fault}{WAYS_BACK}")
    changes = _changes(params, tags, prepared)
    if changes.other_run:
        raise RunFolderError(
            listed(f"{folder}: cannot go on, for these are not what the run was started with:", changes.other_run)
            + WAYS_OUT
        )
    distance, now = params.get(LOG_EVERY), prepared.config.tracking.log_every
    if distance not in (None, now):
        raise RunFolderError(
            f"{folder}: cannot go on with {LOG_EVERY}={now}, for the curves that it has begun have points "
            f"every {distance} steps; set it back to {distance}, and the same command goes on{WAYS_OUT}"
        )
    refused = changes.inexact if is_begun else changes.place
    if refused and not allow_inexact:
        raise RunFolderError(
            listed(f"{folder}: going on would not give the same result to the bit, for these differ:", refused)
            + "\n--allow-inexact (in Python: allow_inexact=True) goes on all the same, and the run is flagged"
            + WAYS_OUT
        )
    notes = tags[INEXACT_TAG].split(BETWEEN_NOTES) if INEXACT_TAG in tags else []
    is_exact = not (notes or changes)
    if is_begun:
        notes += changes.notes() + ([] if knows_journal(RunFolder(folder)) else [EARLIER_VERSION])
    return Continuation(list(dict.fromkeys(notes)), is_exact)


def find_changes(folder: Path, prepared: Prepared) -> Changes:
    """Returns what differs between the start of the run in `folder` and now; nothing where it never started."""
    return _changes(*_written(folder), prepared)


def edited_settings(folder: Path, config: Config) -> Changes:
    """Returns in which settings a config differs from the one that the run in `folder` was started with.

    The journal holds that one; where it is missing, the summary does. Nothing differs where neither is there.
    """
    changes, params = Changes(), _written(folder)[0]
    if not params and RunFolder(folder).summary.is_file():
        summary = read_summary(folder)
        params = flat({"seed": summary["seed"], **summary["settings"]})
    if params:
        _compare_settings(changes, params, config)
    return changes


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Returns nested settings with key paths for keys; an empty section shows as `{}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        if isinstance(value, Mapping) and value:
            found |= flat(value, where)
        else:
            found[where] = value if value != {} else "{}"
    return found


def _refuse_other_files(folder: RunFolder, *, keeps_all: bool) -> None:
    """Refuses a folder whose files are not those that its checkpoints were written beside."""
    faults = journal_faults(folder)
    if faults:
        raise RunFolderError(in_short(faults) + WAYS_BACK)
    wrong = misplaced(folder)
    if wrong:
        raise RunFolderError("\n".join(wrong))
    lost = lost_for_good(folder, last_record(folder).get("tables", {}))
    if lost:
        head = f"{folder.path}: predictions of a stage whose model is not kept (checkpoint.keep_stages) are lost:"
        raise RunFolderError(listed(head, lost) + WAYS_BACK)
    stages = lost_stages(folder) if keeps_all else []
    if stages:
        head = f"{folder.path}: kept stages are damaged, and going on would not write them again:"
        raise RunFolderError(listed(head, stages) + WITHOUT_THEM + WAYS_BACK.replace("\n", " "))


def _written(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the journal's settings as they were first written, and the run's tags as they were written last."""
    params: dict[str, Any] = {}
    tags: dict[str, str] = {}
    path = RunFolder(folder).journal
    try:
        for line, _ in read_lines(path) if path.is_file() else ():
            if line["kind"] == "params":
                params = {**line["values"], **params}
            elif line["kind"] == "tags" and line["stage"] is None:
                tags |= line["values"]
    except RunFolderError as error:
        raise RunFolderError(f"{error}{WAYS_BACK}") from None
    return params, tags


def _changes(params: Mapping[str, Any], tags: Mapping[str, str], prepared: Prepared) -> Changes:
    changes = Changes()
    if not params or not tags:
        return changes
    _compare_settings(changes, params, prepared.config)
    changes.data.update(other_data(tags, prepared.provenance))
    changes.source.extend(other_source(tags, prepared.provenance))
    packages = {name: value for name, value in versions().items() if name not in ("commit", "source")}
    changes.versions.extend(_other_tags(tags, "version/", packages))
    machine = describe_hardware()
    # The number of cores, and an accelerator that is not used, change no bit.
    used = ["processor", "cpu_capability"]
    if prepared.config.training.device != "cpu":
        used.append("accelerator")
    changes.machine.extend(_other_tags(tags, "hardware/", {name: machine[name] for name in used}))
    return changes


def _compare_settings(changes: Changes, params: Mapping[str, Any], config: Config) -> None:
    """Adds the settings that differ; where results are written, tracked and kept may change at any time."""
    identity = config.identity()
    now = cleaned(json.loads(json.dumps(flat(identity), default=str), parse_constant=str))
    then = {key: value for key, value in params.items() if key.partition(".")[0] not in BESIDE_IDENTITY}
    # Of these every key is written: one that a side lacks, where it has others of its section, its source did not know.
    sections = {"", *(identity.keys() - {"strategies"}), *(f"strategies.{name}" for name in config.strategies)}
    for key in [*now, *(then.keys() - now.keys())]:
        if key in now and key in then and now[key] == then[key]:
            continue
        before, after = (repr(side[key]) if key in side else "not set" for side in (then, now))
        parent = key.rpartition(".")[0]
        if key in PLACE:
            changes.place.append(f"{key} {before} then, {after} now")
        elif parent in sections and (key in now) != (key in then) and _has_section(then if key in now else now, parent):
            changes.versions.append(f"{key} {before} then, {after} now")
        else:
            changes.settings.append(f"{key}: {before} at the start, {after} now")


def _has_section(settings: Mapping[str, Any], section: str) -> bool:
    return any(key.rpartition(".")[0] == section for key in settings)


def _other_tags(tags: Mapping[str, str], prefix: str, now: Mapping[str, str]) -> list[str]:
    """Returns a line for each value of `now` that the tag of its name does not have."""
    shown = {name: without_credentials(str(value)) for name, value in now.items()}
    then = {name: tags.get(f"{prefix}{name}", "not recorded") for name in shown}
    return [f"{name} {then[name]} then, {value} now" for name, value in shown.items() if then[name] != value]


def listed(head: str, lines: Iterable[str]) -> str:
    """Returns a message with a line for each of `lines`."""
    return "\n  ".join([head, *lines])
