"""Reads from the Hugging Face hub; where that does not answer, from the cache alone, and at once.

By itself huggingface_hub asks six times for every file that it does not have, which takes minutes without a network.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cl_mlm.disk import HUB_CACHE, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

PROBE_SECONDS = 5.0
PAUSE_SECONDS = 1.0  # before the hub is asked once more
SWITCH = "HF_HUB_OFFLINE"
# By name: httpx, httpcore and requests each have classes of their own, none of them kinds of Python's.
CONNECTION_FAULTS = frozenset(
    {"ConnectionError", "TimeoutError", "gaierror", "TransportError", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}
)


class HubUnreachableError(OSError):
    """The hub does not answer, or is not to be asked, and the cache does not hold what is wanted."""


def from_hub(read: Callable[[], T]) -> T:
    """Returns `read()`, which reads something from the hub or its cache.

    A hub that does not answer is asked once more; then the cache alone is read.

    Raises:
        HubUnreachableError: it says why, and names the switch that keeps the hub from being asked.
        StorageError: the cache takes no more.
        Exception: whatever else `read` raises.
    """
    from huggingface_hub import constants

    with writing(Path(constants.HF_HOME) / "file", HUB_CACHE):
        return _asked(read)


def _asked(read: Callable[[], T]) -> T:
    """Does the work of `from_hub`."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return _from_cache(read, f"{SWITCH} is set, and the cache does not hold it; unset {SWITCH} to ask the hub")
    silent = (
        f"{constants.ENDPOINT} does not answer, asked twice, and the cache does not hold it; "
        f"{SWITCH}=1 reads the cache without asking"
    )
    if not _answers(int(time.monotonic() // 60)):
        with _offline():
            return _from_cache(read, silent)
    try:
        return read()
    except Exception as error:
        if not _is_connection_fault(error):
            raise
    time.sleep(PAUSE_SECONDS)
    try:
        return read()
    except Exception as error:
        if not _is_connection_fault(error):
            raise
        raise HubUnreachableError(silent) from error


@lru_cache(maxsize=1)
def _answers(minute: int) -> bool:
    """Says whether the hub answers, with whatever; `minute` keeps the answer from being remembered for longer."""
    from huggingface_hub import constants, get_session

    for pause in (PAUSE_SECONDS, 0):
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
        except Exception as error:
            if not _is_connection_fault(error):
                return True  # what is wrong is told better by the request itself
            time.sleep(pause)
        else:
            return True
    return False


@contextmanager
def _offline() -> Iterator[None]:
    """Keeps both libraries from asking the hub, as their environment variable does when they are imported."""
    import datasets.config
    from huggingface_hub import constants

    places: tuple[Any, ...] = (constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _from_cache(read: Callable[[], T], reason: str) -> T:
    try:
        return read()
    except OSError as error:
        # A name that no repository can have is wrong whether the hub answers or not.
        if any(type(each).__name__ == "HFValidationError" for each in _chain(error)):
            raise
        raise HubUnreachableError(reason) from error


def _is_connection_fault(error: BaseException) -> bool:
    """Says whether an error, or one that it was raised from, means that nobody answers."""
    kinds = {kind.__name__ for each in _chain(error) for kind in type(each).__mro__}
    return not kinds.isdisjoint(CONNECTION_FAULTS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
