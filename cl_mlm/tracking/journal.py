"""The journal of a run: `journal.jsonl` in the run folder, one JSON line an event.

A run writes every measurement here first, through `Journal`. `mlflow_delivery.py` copies the lines to a tracking
server; if the two differ, the journal is right. Every line has its own `time` (integer milliseconds since the epoch):

    {"kind": "start", "experiment", "run_name"}                     first line
    {"kind": "stage_start", "stage": i, "name"}
    {"kind": "metrics", "stage": i or null, "step", "values", "not_finite": [keys]}
    {"kind": "params", "values"}  {"kind": "tags", "stage", "values"}
    {"kind": "artifact", "stage", "path" relative to the run folder}
    {"kind": "status", "stage", "value": RUNNING, FINISHED, FAILED or KILLED}

A null `stage` means the run itself. Every line ends with its number, `line` from 1, and `crc32`, the checksum of what
stands before it: a line that is damaged, doubled or gone is found when the journal is read. Lines that earlier versions
wrote have neither. Credentials are removed from addresses before a line is written. One process writes (the lock of the
run folder ensures it); any number may read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
import zlib
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args

from cl_mlm.disk import writing
from cl_mlm.errors import RunFolderError
from cl_mlm.tracking.credentials import cleaned, without_credentials
from cl_mlm.tracking.journal_prefix import digest_of_prefix
from cl_mlm.whole_files import refuse_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
STATUSES: tuple[str, ...] = get_args(Status)
# The keys that a line of each kind must have, beside its time.
KEYS = {
    "start": ("experiment", "run_name"),
    "stage_start": ("stage", "name"),
    "metrics": ("stage", "step", "values"),
    "params": ("values",),
    "tags": ("stage", "values"),
    "artifact": ("stage", "path"),
    "status": ("stage", "value"),
}
# Metric keys that begin like this measure the clock and the machine: a repeated step gives other values.
UNREPRODUCIBLE: Final = ("time/", "cost/")
_ABSENT: Final = object()
# How a line ends: its checksum in 8 hexadecimal digits.
_SUM: Final = b',"crc32":"%08x"}\n'
_SUM_BYTES: Final = len(_SUM % 0)


class Journal:
    """Appends to a journal; an existing one is continued at its end.

    A last line that a kill has torn is cut off. Nothing is written twice: a metric point, parameter or tag that the
    journal holds already is skipped. So a resumed run logs the steps that it repeats like any other.

    Attributes:
        path: the file; its folder is the run folder.
        is_exact: whether a point must have the value that the journal holds.
    """

    def __init__(self, path: Path, *, is_exact: bool = True) -> None:
        """Opens `path`; creates the file if it is missing.

        Args:
            path: the file.
            is_exact: True refuses a point that the journal holds with another value. False writes the new value, too;
                the later line counts.

        Raises:
            RunFolderError: a line other than a torn last one cannot be read.
            StorageError: the file cannot be written.
        """
        refuse_folder(path)
        self.path = path
        self.is_exact = is_exact
        self._head: tuple[str, str] | None = None
        self._stages: dict[int, str] = {}
        # A point that was not finite is remembered as None, so that NaN equals NaN.
        self._points: dict[int | None, dict[str, dict[int, float | None]]] = {}
        self._params: set[str] = set()
        self._tags: dict[int | None, dict[str, str]] = {}
        self._statuses: dict[int | None, str] = {}
        self._num_lines = self._num_bytes = 0
        self._digest = hashlib.sha256()
        if path.exists():
            with writing(path):
                _cut_torn_line(path)
            for line, end in read_lines(path):
                self._num_lines, self._num_bytes = self._num_lines + 1, end
                self._remember(line)
            self._digest = digest_of_prefix(path, self._num_bytes)
        # Unbuffered: each line is one write, so a killed process loses none that it has logged.
        with writing(path):
            self._file = path.open("ab", buffering=0)

    @property
    def is_new(self) -> bool:
        """Whether nothing is in it yet."""
        return self._head is None

    @property
    def extent(self) -> dict[str, Any]:
        """What a checkpoint notes of the journal: `bytes`, its length, and `sha256` of them."""
        return {"bytes": self._num_bytes, "sha256": self._digest.hexdigest()}

    def start(self, experiment: str, run_name: str) -> None:
        """Writes the first line; in an existing journal, writes that the run is running again.

        Raises:
            RunFolderError: the journal belongs to another experiment or run.
        """
        head = (experiment, run_name)
        if self._head is None:
            self._write({"kind": "start", "experiment": experiment, "run_name": run_name})
        elif self._head != head:
            raise RunFolderError(f"{self.path}: must belong to {head}, got a journal of {self._head}")
        else:
            self.status("RUNNING")

    def stage_start(self, stage: int, name: str) -> None:
        """Writes that `stage` starts; if it has started before, writes that it is running again.

        Raises:
            RunFolderError: the journal has the stage under another name.
        """
        name_before = self._stages.get(stage)
        if name_before is None:
            self._write({"kind": "stage_start", "stage": stage, "name": name})
        elif name_before != name:
            raise RunFolderError(f"{self.path}: stage {stage} must be {name_before!r} as before, got {name!r}")
        else:
            self.status("RUNNING", stage)

    def metrics(self, values: Mapping[str, float], step: int, stage: int | None = None) -> None:
        """Writes the points that are new; of a value that is not finite, the key alone.

        Raises:
            RunFolderError: the journal is exact and holds a point with another value. Keys that begin with one of
                `UNREPRODUCIBLE` are exempt.
        """
        finite: dict[str, float] = {}
        not_finite: list[str] = []
        for key, raw in values.items():
            # Not isinstance: bool and numpy.float64 are subclasses, and both shall become plain floats in the JSON.
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
        """Writes the parameters that are new: as JSON values, and those that JSON does not know as `str`.

        A parameter keeps its first value, as in MLflow, which refuses another one. A resumed run may have another
        tracking address or interval of checkpoints; the settings that make it this run are in its folder's name.
        """
        new = {key: value for key, value in values.items() if key not in self._params}
        if new:
            plain = json.loads(json.dumps(new, default=str), parse_constant=str)
            self._write({"kind": "params", "values": cleaned(plain)})

    def tags(self, values: Mapping[str, object], stage: int | None = None, *, keep: bool = False) -> None:
        """Writes the tags that are new or changed, as `str`; with `keep` the new ones only."""
        texts = {key: without_credentials(str(value)) for key, value in values.items()}
        known = self._tags.get(stage, {})
        before = {key: known.get(key) for key in texts}
        if new := {k: text for k, text in texts.items() if before[k] is None or (before[k] != text and not keep)}:
            self._write({"kind": "tags", "stage": stage, "values": new})

    def artifact(self, path: Path | str, stage: int | None = None) -> None:
        """Writes that a file or folder of the run folder is to be sent; call again when its content has changed."""
        root = self.path.parent.resolve()
        relative = (root / path).resolve().relative_to(root)
        self._write({"kind": "artifact", "stage": stage, "path": relative.as_posix()})

    def status(self, value: Status, stage: int | None = None) -> None:
        """Writes the status of the run or of a stage if it has changed."""
        if value not in STATUSES:
            raise ValueError(f"status: must be one of {STATUSES}, got {value!r}")
        if self._statuses.get(stage) != value:
            self._write({"kind": "status", "stage": stage, "value": value})
        if value == "FINISHED" and stage is not None:
            self._forget(stage)

    def running_stages(self) -> list[int]:
        """Returns the indices of the stages that have started and not ended."""
        return [stage for stage in self._stages if self._statuses[stage] == "RUNNING"]

    def sync(self) -> None:
        """Waits until every line is on the disk.

        This guards against a power cut only: the operating system holds what a killed process has written.
        """
        with writing(self.path):
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
        """Returns whether a point must be written; raises if it contradicts the journal."""
        points = self._points.get(stage, {}).get(key)
        if points is None:
            return True
        before = points.get(step, _ABSENT)
        if before is _ABSENT:
            return True
        is_equal = before == (value if math.isfinite(value) else None)
        if is_equal or key.startswith(UNREPRODUCIBLE):
            return False
        if not self.is_exact:
            return True
        where = "" if stage is None else f" of stage {stage}"
        raise RunFolderError(
            f"{self.path}: {key}{where} at step {step} must be {_in_words(before)} as before, got {value!r}"
        )

    def _write(self, line: dict[str, Any]) -> None:
        """Appends a line with the present time, then remembers it."""
        if (self._head is None) != (line["kind"] == "start"):
            raise ValueError(f"{line['kind']}: start() must come first, and once")
        stage = line.get("stage")
        if stage is not None and stage not in self._stages and line["kind"] != "stage_start":
            raise ValueError(f"{line['kind']}: stage {stage} must have been started, got {sorted(self._stages)}")
        entries = {"time": time.time_ns() // 1_000_000, **line, "line": self._num_lines + 1}
        body = json.dumps(entries, allow_nan=False, separators=(",", ":")).encode()[:-1]
        data = body + _SUM % zlib.crc32(body)
        with writing(self.path):
            if self._file.write(data) < len(data):
                # The disk is full. A line behind half a line could not be read.
                os.ftruncate(self._file.fileno(), self._num_bytes)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._num_lines += 1
        self._num_bytes += len(data)
        self._digest.update(data)
        self._remember(line)

    def _remember(self, line: Mapping[str, Any]) -> None:
        """Notes what `line` says, so that nothing is written twice."""
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
                self._tags.setdefault(stage, {}).update(line["values"])
            case "status":
                self._statuses[stage] = line["value"]

    def _forget(self, stage: int) -> None:
        """Lets go of what is known of a finished stage: this process trains it no more, and there may be many thousand.

        The process that resumes the run, and may train it again, reads the file anew.
        """
        self._points.pop(stage, None)
        self._tags.pop(stage, None)

    def _remember_points(self, line: Mapping[str, Any], stage: int | None) -> None:
        step: int = line["step"]
        points = self._points.setdefault(stage, {})
        for key, value in line["values"].items():
            points.setdefault(key, {})[step] = value
        for key in line.get("not_finite", ()):
            points.setdefault(key, {})[step] = None


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields `(line, end)` for every whole line from byte `offset` on; `end` is the byte after the line.

    A last line without its newline is left out: it is still being written, or a kill has torn it.

    Raises:
        RunFolderError: a whole line is not a JSON object with a `kind` and the keys of that kind (`KEYS`), or has not
            its checksum; or lines before it are missing, doubled or in another order.
    """
    number = 0 if offset == 0 else None  # of the line before; None: not known
    has_sums = False
    with path.open("rb") as file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            end = offset + len(raw)
            line = _parsed(raw, f"{path}: bytes {offset}-{end}")
            has_sums = has_sums or "crc32" in line
            if has_sums and raw[-_SUM_BYTES:] != _SUM % zlib.crc32(raw[:-_SUM_BYTES]):
                raise RunFolderError(f"{path}: bytes {offset}-{end} are damaged (their checksum differs): {raw[:60]!r}")
            line.pop("crc32", None)
            found = line.pop("line", None)
            if number is not None and found is not None and found != number + 1:
                fault = f"must be line {number + 1}, got line {found}: lines are missing or doubled"
                raise RunFolderError(f"{path}: bytes {offset}-{end} {fault}")
            number = found if found is not None else None if number is None else number + 1
            yield line, end
            offset = end


def last_status(path: Path) -> tuple[int | None, str] | None:
    """Returns stage and value of a journal's last status line; None: it has none.

    Raises:
        RunFolderError: see `read_lines`.
    """
    states = [(line["stage"], line["value"]) for line, _ in read_lines(path) if line["kind"] == "status"]
    return states[-1] if states else None


def has_checksums(path: Path) -> bool:
    """Returns whether a journal's last line has its number and checksum, as earlier versions wrote none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _SUM_BYTES))
        return file.read().startswith(_SUM[: _SUM.index(b"%")])


def _parsed(raw: bytes, where: str) -> dict[str, Any]:
    """Returns the values of a whole line, as they are written.

    Raises:
        RunFolderError: it is no journal line.
    """
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{where} must be a JSON line, got {raw[:60]!r}") from error
    if not isinstance(line, dict) or not {*KEYS.get(str(line.get("kind")), ["kind"])} <= line.keys():
        raise RunFolderError(f"{where} must be a journal line, got {raw[:60]!r}")
    return line


def _cut_torn_line(path: Path) -> None:
    """Removes everything behind the last newline."""
    with path.open("r+b") as file:
        file_end = file.seek(0, os.SEEK_END)
        whole_end = file_end  # searched backwards in pieces: a journal may be large, a line is short
        while whole_end > 0:
            start = max(0, whole_end - 65536)
            file.seek(start)
            newline = file.read(whole_end - start).rfind(b"\n")
            if newline >= 0:
                whole_end = start + newline + 1
                break
            whole_end = start
        if whole_end < file_end:
            file.truncate(whole_end)


def _in_words(value: object) -> str:
    """Returns a remembered value for an error message."""
    return "not finite" if value is None else repr(value)
