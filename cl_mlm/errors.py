"""Errors that a user can cause; the command line prints them without a traceback and exits with their `exit_code`."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class ClMlmError(Exception):
    """Base of every error that a user can cause.

    Attributes:
        exit_code: with which the command line ends: 2, or 1 where training had begun and the config is not at fault.
    """

    exit_code: int = 2


class ConfigError(ClMlmError):
    """Every fault found in a config, all at once.

    Attributes:
        problems: one line each, `key.path: rule, got value`.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class UnreachableModelError(ConfigError):
    """A model whose config cannot be had: it does not exist, or the hub is out of reach."""


class DataError(ClMlmError):
    """Every fault found in a stream's rows, all at once.

    Attributes:
        problems: one line each, naming file and line, or stage and split.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class TrainingError(ClMlmError):
    """Training that cannot go on: a loss that is not finite, or memory that does not suffice."""


class OwnCodeError(ClMlmError):
    """A strategy, stream or objective of a user's own that raises, which is then the cause, or breaks a rule."""


class RunFolderError(ClMlmError):
    """A run folder that is missing, damaged, or in use."""


class StorageError(ClMlmError):
    """Places that cannot be written: the disk is full, a quota is used up, a folder is read-only or gone.

    Attributes:
        problems: one line each: which folder, what happened, and what is to be done.
        lacks_room: whether more room would do.
        exit_code: 2 before training, 1 once it has begun.
    """

    def __init__(self, problems: str | Sequence[str], *, lacks_room: bool = False, has_trained: bool = False) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        self.lacks_room = lacks_room
        self.exit_code = 1 if has_trained else 2
        super().__init__("\n".join(self.problems))


class SignalExit(SystemExit):
    """The process ends for a signal, and not because some code in it has called `sys.exit`."""


def text_of(error: BaseException) -> str:
    """Returns what an error says; nothing where its class, of a user's own, fails to say it."""
    try:
        return str(error)
    except Exception:
        return ""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)`, or an empty string where nothing is near."""
    matches = get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
