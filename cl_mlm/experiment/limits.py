"""What the system allows this process (`ulimit`, the cgroup), held against what a run needs at least.

Limits that are not set, or that this system does not have, allow everything.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cl_mlm.data.tasks import tasks_of
from cl_mlm.disk import shown
from cl_mlm.errors import ConfigError, UnreachableModelError
from cl_mlm.experiment.kept_numbers import strategy_bytes, sure_step_bytes
from cl_mlm.models.size import size_of_tasks

if TYPE_CHECKING:
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.models.size import ModelSize

# A run holds about 12 open at a time beside what its process holds (data, journal, tracking store); files of a model
# and of libraries that are imported come and go.
FILES: Final = 64
OTHER_THREADS: Final = 8  # beside those that compute: tracking, tokenizers
UNLIMITED_BYTES: Final = 1 << 60  # version 1 of cgroups writes a number of this size for "no limit"
CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limit:
    """One limit of this process.

    Attributes:
        name: what is limited.
        allowed: how much of it.
        needed: how much this process needs with the run, at least.
        remedy: what raises the limit.
        is_bytes: whether both count bytes.
        is_certain: whether the run cannot work where more is needed than allowed; else it may.
    """

    name: str
    allowed: int
    needed: int
    remedy: str
    is_bytes: bool = False
    is_certain: bool = True

    @property
    def suffices(self) -> bool:
        """Whether what is needed is allowed."""
        return self.needed <= self.allowed

    def fault(self) -> str:
        """Returns the limit, what is needed and the remedy, in one line."""
        allowed, needed = (shown(n) if self.is_bytes else f"{n:,}" for n in (self.allowed, self.needed))
        return f"{self.name}: this process may have {allowed}, the run needs at least {needed}; {self.remedy}"


def require_limits(prepared: Prepared) -> None:
    """Raises the soft limit of open files where a run needs that, and refuses a run that cannot work.

    The limit stays raised: files may be open that the lower one would not allow.

    Raises:
        ConfigError: a line for each limit that is too low, with its value, what is needed and what raises it.
    """
    _raise_open_files()
    faults = [limit.fault() for limit in process_limits(prepared) if limit.is_certain and not limit.suffices]
    if faults:
        raise ConfigError(faults)


def process_limits(prepared: Prepared, size: ModelSize | None = None, memory_bytes: int | None = None) -> list[Limit]:
    """Returns every limit that is set, with what this process needs when it makes the run.

    Args:
        prepared: the run.
        size: of its model; None: it is looked up where a limit asks for it, and left out where it cannot be had.
        memory_bytes: what training takes beside activations; None: weights and gradients alone.
    """
    size_limits = _set({"RLIMIT_AS": "-v", "RLIMIT_DATA": "-d", "RLIMIT_FSIZE": "-f"})
    cgroup_bytes = cgroup_memory()
    limits = [_open_files(), *_threads(prepared)]
    if not size_limits and cgroup_bytes is None:
        return limits
    tasks = tasks_of(prepared.stream)
    try:
        size = size or size_of_tasks(prepared.config, tasks)
    except UnreachableModelError:  # told when it is loaded
        return limits
    if memory_bytes is None:
        memory_bytes = size.held + size.trained
    names = {"RLIMIT_AS": "address space", "RLIMIT_DATA": "data of the process", "RLIMIT_FSIZE": "size of a file"}
    held = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}
    for limit, (flag, allowed) in size_limits.items():
        needed = memory_bytes + _status(held[limit]) if limit in held else _largest_file(prepared, size, len(tasks))
        kilobytes = -(-needed // 1024)
        limits.append(Limit(names[limit], allowed, needed, f"raise it: ulimit {flag} {kilobytes}", is_bytes=True))
    if cgroup_bytes is not None and prepared.config.training.device == "cpu":
        needed = memory_bytes + _status("RssAnon")
        remedy = "give the container or the job more memory, or take a smaller model: it is killed when it has none"
        limits.append(Limit("memory (cgroup)", cgroup_bytes, needed, remedy, is_bytes=True, is_certain=False))
    return limits


def _largest_file(prepared: Prepared, size: ModelSize, num_tasks: int) -> int:
    """Returns the bytes of the largest file of a checkpoint: a task's model, the strategies' states, or a step."""
    return max(size.whole // num_tasks, strategy_bytes(prepared, size), sure_step_bytes(prepared, size))


def cgroup_memory(root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Returns the bytes that the control groups of this process allow it; None: no limit, or none can be read."""
    found = _cgroup_values(root, own, "memory.max") + _cgroup_values(root / "memory", own, "memory.limit_in_bytes")
    return min((value for value in found if value < UNLIMITED_BYTES), default=None)


def _cgroup_values(root: Path, own: Path, name: str) -> list[int]:
    """Returns the numbers in the files called `name` of this process's groups and of those above them."""
    values = []
    try:
        groups = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    controller = "" if name == "memory.max" else "memory"
    for _, controllers, path in (group for group in groups if len(group) == 3):
        if controller != controllers and controller not in controllers.split(","):
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):  # in a container the path may be that of the host, which is not there
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                text = "max"
            values += [int(text)] if text.isdigit() else []
            if folder == root:
                break
    return values


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _num_open() + FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _open_files() -> Limit:
    # The hard limit: a run raises the soft one by itself.
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = _num_open() + FILES
    allowed = 1 << 30 if allowed == resource.RLIM_INFINITY else allowed
    return Limit("open files", allowed, needed, f"raise it: ulimit -n {needed}")


def _threads(prepared: Prepared) -> list[Limit]:
    """Returns the limit of this user's threads; of a user with all rights there is none."""
    limits = _set({"RLIMIT_NPROC": "-u"})
    if not limits or os.geteuid() == 0:
        return []
    ((flag, allowed),) = limits.values()
    computing = (prepared.config.training.threads or 1) + (os.cpu_count() or 1)
    needed = _threads_of_user() + computing + OTHER_THREADS
    return [Limit("threads of this user", allowed, needed, f"raise it: ulimit {flag} {needed}, or end other programs")]


def _set(names: dict[str, str]) -> dict[str, tuple[str, int]]:
    """Returns flag and value of every limit that this system has and that is set; of the soft ones, which hold."""
    found = {}
    for name, flag in names.items():
        if hasattr(resource, name):
            soft = resource.getrlimit(getattr(resource, name))[0]
            if soft != resource.RLIM_INFINITY:
                found[name] = (flag, soft)
    return found


def _num_open() -> int:
    for folder in (Path("/proc/self/fd"), Path("/dev/fd")):
        try:
            return sum(1 for _ in folder.iterdir())
        except OSError:
            continue
    return 0


def _status(name: str) -> int:
    """Returns the bytes that Linux states in this process's status under `name`; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _threads_of_user() -> int:
    """Returns the threads of all processes of this user, as Linux counts them against its limit; 0 elsewhere."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                count += sum(1 for _ in (process / "task").iterdir())
        except OSError:  # it has ended
            continue
    return count
