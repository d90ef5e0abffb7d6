"""Says what the system's limits leave to a run: `ulimit`, and the cgroup of a container or a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.disk import shown
from cl_mlm.errors import ConfigError
from cl_mlm.experiment.limits import process_limits

if TYPE_CHECKING:
    from cl_mlm.check.memory import MemoryNeed
    from cl_mlm.experiment.limits import Limit
    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.models.size import ModelSize


def limit_lines(prepared: Prepared, size: ModelSize | None, memory: MemoryNeed | None) -> list[str]:
    """Returns a line of every limit that is set, with what the run needs, and one of each that may not suffice.

    Args:
        prepared: the run.
        size: of its model; None: it cannot be had.
        memory: what training takes; None: not known.

    Raises:
        ConfigError: a limit is so low that the run cannot work.
    """
    limits = process_limits(prepared, size, None if memory is None else memory.total)
    faults = [limit.fault() for limit in limits if limit.is_certain and not limit.suffices]
    if faults:
        raise ConfigError(faults)
    told = [f"limits: {'; '.join(map(_in_words, limits))}"]
    return told + [f"warning: {limit.fault()}" for limit in limits if not limit.suffices]


def _in_words(limit: Limit) -> str:
    allowed, needed = (shown(n) if limit.is_bytes else f"{n:,}" for n in (limit.allowed, limit.needed))
    return f"{limit.name} {allowed}, the run needs at least {needed}"
