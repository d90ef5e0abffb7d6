"""Returns the lines that `cl-mlm list` and `cl-mlm check` print."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from cl_mlm.config.components import COMPONENT_PACKAGES, find, names
from cl_mlm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from cl_mlm.experiment.preparation import Prepared

KINDS = {"strategies": "strategy", "streams": "stream", "objectives": "objective"}


def describe(prepared: Prepared, measured_steps: int = 0) -> list[str]:
    """Returns what a prepared run would do, in lines; `measured_steps` steps are timed on the real model."""
    from cl_mlm.check.look import early_look
    from cl_mlm.check.look_text import look_lines

    return look_lines(early_look(prepared, measured_steps))


def listing(what: str) -> list[str]:
    """Returns a line for each strategy, stream, objective, or config in `configs/`.

    Raises:
        ConfigError: `what` is none of these.
    """
    if what == "configs":
        return [f"{path}: {_first_comment(path)}" for path in sorted(Path("configs").glob("*.yaml"))]
    if what not in KINDS:
        allowed = [*KINDS, "configs"]
        raise ConfigError(f"list: must be one of {', '.join(allowed)}, got {what!r}{nearest(what, allowed)}")
    kind = KINDS[what]
    return [f"{name}: {_first_line(kind, name)}{_arguments(kind, name)}" for name in names(kind)]


def _first_line(kind: str, name: str) -> str:
    """Returns the first line of a module's docstring."""
    module = importlib.import_module(f"{COMPONENT_PACKAGES[kind]}.{name}")
    return (inspect.getdoc(module) or "").partition("\n")[0]


def _arguments(kind: str, name: str) -> str:
    """Returns the arguments that a config may set, with their defaults."""
    parameters = inspect.signature(find(kind, name)).parameters.values()
    arguments = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f" ({', '.join(arguments)})" if arguments else ""


def _first_comment(path: Path) -> str:
    first_line = path.read_text(encoding="utf-8").partition("\n")[0]
    return first_line.removeprefix("#").strip()
