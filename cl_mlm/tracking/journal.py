"""The journal of a run: one JSON line per event in `journal.jsonl`, written before anything is sent anywhere.

It is the truth about a run; a tracking server gets a copy. Every line carries its own `time`
(integer milliseconds since the epoch):

    {"kind": "start", "experiment", "run_name"}                     first line
    {"kind": "stage_start", "stage": i, "name"}
    {"kind": "metrics", "stage": i or null, "step", "values", "not_finite": [keys]}
    {"kind": "params", "values"}  {"kind": "tags", "stage", "values"}
    {"kind": "artifact", "stage", "path" relative to the run folder}
    {"kind": "status", "stage", "value": RUNNING, FINISHED, FAILED or KILLED}

A null `stage` means the run itself; credentials in addresses are left out. One process writes (the run folder's lock
sees to it), any number may read.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, get_args

from cl_mlm.errors import RunFolderError

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
STATUSES: tuple[str, ...] = get_args(Status)
# What a line of each kind has beside its time.
KEYS = {
    "start": ("experiment", "run_name"),
    "stage_start": ("stage", "name"),
    "metrics": ("stage", "step", "values"),
    "params": ("values",),
    "tags": ("stage", "values"),
    "artifact": ("stage", "path"),
    "status": ("stage", "value"),
}
# Facts about the clock and the machine: a retrained step cannot reproduce them.
UNREPRODUCIBLE: Final = ("time/", "cost/")
_ABSENT: Final = object()


class Journal:
    """Appends to a journal, and on opening an old one takes up where it ends.

    A last line torn by a kill is cut off. What the old lines say is not said twice: an equal metric point, parameter
    or tag is skipped, so a resumed run may simply log again what it retrains.

    Attributes:
        path: the file; its folder is the run folder.
    """

    def __init__(self, path: Path, *, is_exact: bool = True) -> None:
        """Opens `path`, which is made where it is missing.

        Args:
            path: the file.
            is_exact: a point that was written before with another value is refused; else it is written again, and the
                later line counts.

        Raises:
            RunFolderError: where a line other than a torn last one cannot be read.
        """
        self.path = path
        self._is_exact = is_exact
        self._head: tuple[str, str] | None = None
        self._stages: dict[int, str] = {}
        # A point that was not finite is remembered as None, so that NaN equals NaN.
        self._points: dict[tuple[int | None, str], dict[int, float | None]] = {}
        self._params: set[str] = set()
        self._tags: dict[tuple[int | None, str], str] = {}
        self._statuses: dict[int | None, str] = {}
        if path.exists():
            _cut_torn_line(path)
            for line, _ in read_lines(path):
                self._remember(line)
        # Unbuffered: each line is one write, so a killed process loses none that it has logged.
        self._file = path.open("ab", buffering=0)

    def start(self, experiment: str, run_name: str) -> None:
        """Writes the first line; on an old journal says only that the run is running again.

        Raises:
            RunFolderError: where the journal belongs to another experiment or run.
        """
        head = (experiment, run_name)
        if self._head is None:
            self._write({"kind": "start", "experiment": experiment, "run_name": run_name})
        elif self._head != head:
            raise RunFolderError(f"{self.path}: must belong to {head}, got a journal of {self._head}")
        else:
            self.status("RUNNING")

    def stage_start(self, stage: int, name: str) -> None:
        """Writes that `stage` begins; where it began before, only that it is running again.

        Raises:
            RunFolderError: where the journal knows the stage by another name.
        """
        known = self._stages.get(stage)
        if known is None:
            self._write({"kind": "stage_start", "stage": stage, "name": name})
        elif known != name:
            raise RunFolderError(f"{self.path}: stage {stage} must be {known!r} as before, got {name!r}")
        else:
            self.status("RUNNING", stage)

    def metrics(self, values: Mapping[str, float], step: int, stage: int | None = None) -> None:
        """Writes the points that are new; those that are not finite by their key only.

        Raises:
            RunFolderError: where a point was written before with another value, unless its key begins with one of
                `UNREPRODUCIBLE`.
        """
        finite: dict[str, float] = {}
        not_finite: list[str] = []
        for key, raw in values.items():
            value = raw if type(raw) is float or type(raw) is int else float(raw)
            if self._is_new(key, value, step, stage):
                if math.isfinite(value):
                    finite[key] = value
                else:
                    not_finite.append(key)
        if finite or not_finite:
            line: dict[str, Any] = {"kind": "metrics", "stage": stage, "step": step, "values": finite}
            self._write(line | {"not_finite": not_finite} if not_finite else line)

    def params(self, values: Mapping[str, Any]) -> None:
        """Writes the parameters that are new, in JSON where they have a form in it, else as `str`.

        A parameter keeps its first value, in MLflow too: a resumed run may have another tracking address or interval of
        checkpoints, but what makes it this run is in the name of its folder.
        """
        new = {key: value for key, value in values.items() if key not in self._params}
        if new:
            text = without_credentials(json.dumps(new, default=str))
            self._write({"kind": "params", "values": json.loads(text, parse_constant=str)})

    def tags(self, values: Mapping[str, object], stage: int | None = None) -> None:
        """Writes the tags that are new or changed, as `str`."""
        plain = {key: without_credentials(str(value)) for key, value in values.items()}
        if new := {key: value for key, value in plain.items() if self._tags.get((stage, key)) != value}:
            self._write({"kind": "tags", "stage": stage, "values": new})

    def artifact(self, path: Path | str, stage: int | None = None) -> None:
        """Writes that a file or folder of the run folder belongs to the run; say it again when its content changed."""
        root = self.path.parent.resolve()
        relative = (root / path).resolve().relative_to(root)
        self._write({"kind": "artifact", "stage": stage, "path": relative.as_posix()})

    def status(self, value: Status, stage: int | None = None) -> None:
        """Writes the state of the run or of a stage, where it changes."""
        if value not in STATUSES:
            raise ValueError(f"status: must be one of {STATUSES}, got {value!r}")
        if self._statuses.get(stage) != value:
            self._write({"kind": "status", "stage": stage, "value": value})

    def running_stages(self) -> list[int]:
        """Returns the stages that have begun and not ended."""
        return [stage for stage in self._stages if self._statuses[stage] == "RUNNING"]

    def sync(self) -> None:
        """Returns when every line is on the disk; the lines of a live process survive its death without it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Syncs and closes; a second call does nothing."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _is_new(self, key: str, value: float, step: int, stage: int | None) -> bool:
        """Says whether a point is still to be written; raises where it contradicts one that is."""
        points = self._points.get((stage, key))
        if points is None:
            return True
        before = points.get(step, _ABSENT)
        if before is _ABSENT:
            return True
        if before != (value if math.isfinite(value) else None) and not key.startswith(UNREPRODUCIBLE):
            if not self._is_exact:
                return True
            where = "" if stage is None else f" of stage {stage}"
            raise RunFolderError(
                f"{self.path}: {key}{where} at step {step} must be {_shown(before)} as before, got {value!r}"
            )
        return False

    def _write(self, line: dict[str, Any]) -> None:
        """Appends a line with the time of now, then remembers it."""
        if (self._head is None) != (line["kind"] == "start"):
            raise ValueError(f"{line['kind']}: start() must come first, and once")
        stage = line.get("stage")
        if stage is not None and stage not in self._stages and line["kind"] != "stage_start":
            raise ValueError(f"{line['kind']}: stage {stage} must have been started, got {sorted(self._stages)}")
        text = json.dumps({"time": time.time_ns() // 1_000_000, **line}, allow_nan=False, separators=(",", ":")) + "\n"
        data = text.encode()
        if self._file.write(data) != len(data):
            raise OSError(f"{self.path}: must have room for {len(data)} more bytes; the disk is full")
        self._remember(line)

    def _remember(self, line: Mapping[str, Any]) -> None:
        """Keeps what `line` says, so that it is not said twice."""
        stage: int | None = line.get("stage")
        match line["kind"]:
            case "start":
                self._head = (line["experiment"], line["run_name"])
                self._statuses[None] = "RUNNING"
            case "stage_start":
                self._stages[line["stage"]] = line["name"]
                self._statuses[stage] = "RUNNING"
            case "metrics":
                self._remember_points(line, stage)
            case "params":
                self._params |= line["values"].keys()
            case "tags":
                self._tags.update({(stage, key): value for key, value in line["values"].items()})
            case "status":
                self._statuses[stage] = line["value"]

    def _remember_points(self, line: Mapping[str, Any], stage: int | None) -> None:
        step: int = line["step"]
        for key, value in line["values"].items():
            self._points.setdefault((stage, key), {})[step] = value
        for key in line.get("not_finite", ()):
            self._points.setdefault((stage, key), {})[step] = None


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields each whole line from byte `offset` on with the offset of its end; a line still being written is left out.

    Raises:
        RunFolderError: where a whole line is not a JSON object with a `kind` and what that kind has.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            end = offset + len(raw)
            try:
                line = json.loads(raw)
            except ValueError as error:
                raise RunFolderError(f"{path}: bytes {offset}-{end} must be a JSON line, got {raw[:60]!r}") from error
            if not isinstance(line, dict) or not {*KEYS.get(str(line.get("kind")), ["kind"])} <= line.keys():
                raise RunFolderError(f"{path}: bytes {offset}-{end} must be a journal line, got {raw[:60]!r}")
            yield line, end
            offset = end


def without_credentials(text: str) -> str:
    """Returns `text` with user names, passwords and secret arguments taken out of the addresses in it."""
    # Databases take a password with a slash in it; in a web address the first slash ends the host.
    text = re.sub(r"(?<!http)(?<!https)://[^\s/:@\"']*:[^\s\"']*@", "://", text)
    text = re.sub(r"://[^/\s]*@", "://", text)
    return re.sub(r"(?i)([?&][^=&\s]*(?:pass|pwd|token|secret|key)[^=&\s]*=)[^&\s'\"]*", r"\1***", text)


def _cut_torn_line(path: Path) -> None:
    """Shortens the file to its last whole line."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:
            start = max(0, keep - 65536)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < end:
            file.truncate(keep)


def _shown(value: object) -> str:
    """Returns a remembered value in words."""
    return "not finite" if value is None else repr(value)
