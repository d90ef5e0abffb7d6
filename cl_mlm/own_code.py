"""Calls what a user has written; what it raises is told with its place in the user's own file, the error as its cause.

Strategies, streams and objectives of a user's own are called from many places of the platform. Without this a fault in
one of them would look like a fault of the platform, and its place would be the last of thirty lines.
"""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from cl_mlm.disk import storage_error
from cl_mlm.errors import ClMlmError, OwnCodeError, SignalExit, StorageError, text_of

if TYPE_CHECKING:
    from types import TracebackType

SOURCE_PACKAGES: Final = ("cl_mlm", "streams", "strategies")  # of this project
INSTALLED: Final = ("site-packages", "dist-packages")
PAGES: Final = {
    "strategy": "docs/how-to/own_strategy.md",
    "objective": "docs/how-to/own_objective.md",
    "stream": "docs/how-to/own_stream.md",
}
PASSING: Final = (ClMlmError, KeyboardInterrupt, SignalExit, GeneratorExit)
SHOWN: Final = 80  # characters of a value in a message
# How torch says so; accelerate, which knows it too, is no import for a contract.
OUT_OF_MEMORY: Final = (" out of memory.", "MPS backend out of memory", "CUDNN_STATUS_NOT_SUPPORTED", "can't allocate")


class OwnCode:
    """A block that calls a user's code: an error from it becomes an `OwnCodeError` whose cause it is.

    So does `sys.exit`, which would else end a run as if all were well; a disk that takes no more becomes a
    `StorageError` that says who wrote. Errors of the platform, which name their rule themselves, and a lack of memory,
    which has its own ways out, pass as they are; so do Ctrl-C and signals that end the process.

    Args:
        kind: `strategy`, `objective` or `stream`: which page describes it.
        who: what is called and where: `strategy mine.Mine, hook after_step, stage 'cold', step 3`.
    """

    __slots__ = ("kind", "who")

    def __init__(self, kind: str, who: str) -> None:
        self.kind, self.who = kind, who

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None or isinstance(error, PASSING) or _is_lack_of_memory(error):
            return
        fault = storage_error(error)
        if fault is None:
            raise raised(self.kind, self.who, error) from error
        who = f"{self.who}{_place(traceback.extract_tb(error.__traceback__))}"
        raise StorageError([f"{who}: {line}" for line in fault.problems], lacks_room=fault.lacks_room) from error


def raised(kind: str, who: str, error: BaseException) -> OwnCodeError:
    """Returns the error for what a user's code has raised."""
    lines = text_of(error).strip().splitlines()
    place = _place(traceback.extract_tb(error.__traceback__))
    said = f": {_cut(lines[0], 300)}" if lines else ""
    return OwnCodeError(
        f"{who}: raised {type(error).__name__}{said}{place}; see {PAGES[kind]}, and --debug for the trace"
    )


def broken(kind: str, who: str, rule: str, value: Any, *, is_calling: bool = False) -> OwnCodeError:
    """Returns the error for a value that a user's code should not have returned, or, `is_calling`, should not give."""
    place = _place(traceback.extract_stack()) if is_calling else ""
    return OwnCodeError(f"{who}: {rule}, got {in_short(value)}{place}; {PAGES[kind]} describes it")


def in_short(value: Any) -> str:
    """Returns a value in a few words: of tensors, arrays and long lists what they are, of others what they hold."""
    kind = type(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        is_array = kind.__module__ == "numpy"
        what, place = ("an array", "") if is_array else ("a tensor", f" on {getattr(value, 'device', 'cpu')}")
        return f"{what} of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}{place}"
    if inspect.isgenerator(value) or inspect.isawaitable(value):
        return f"a {kind.__name__}"
    try:
        text = repr(value)
    except Exception:  # a user's own class
        text = f"<{kind.__name__}>"
    return f"{_cut(' '.join(text.split()), SHOWN)} ({kind.__name__})"


def label_of(component: Any) -> str:
    """Returns how a class or function is called in a config: of a user's own by its dotted path."""
    module, _, last = component.__module__.rpartition(".")
    if module in ("streams", "strategies", "cl_mlm.objectives"):
        return str(last)
    return f"{component.__module__}.{component.__qualname__}"


def is_own(file: Path) -> bool:
    """Says whether a file belongs neither to Python, nor to an installed package, nor to this project."""
    project = Path(__file__).parents[1]
    python = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    foreign = [*(project / name for name in SOURCE_PACKAGES), *python]
    return not any(part in INSTALLED for part in file.parts) and not any(file.is_relative_to(one) for one in foreign)


def _place(stack: traceback.StackSummary) -> str:
    """Returns the innermost line of a file of the user's in a stack; else the innermost of all."""
    frames = [frame for frame in stack if not frame.filename.startswith("<frozen")]
    own = [frame for frame in frames if is_own(Path(frame.filename).absolute())]
    if not frames:
        return ""
    frame = (own or frames)[-1]
    return f" ({frame.filename}:{frame.lineno}, in {frame.name})"


def _is_lack_of_memory(error: BaseException) -> bool:
    is_torchs = isinstance(error, RuntimeError) and any(part in text_of(error) for part in OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or is_torchs


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
