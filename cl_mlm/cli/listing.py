"""What `cl-mlm list` and `cl-mlm check` print."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from cl_mlm.check.look import early_look
from cl_mlm.check.look_text import look_lines
from cl_mlm.config.components import COMPONENT_PACKAGES, find, names
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.experiment.preparation import Prepared

KINDS = {"strategies": "strategy", "streams": "stream", "objectives": "objective"}


def describe(prepared: Prepared, measured_steps: int = 0) -> list[str]:
    """Returns what a prepared run would do, in lines; `measured_steps` of them are timed on the real model."""
    return look_lines(early_look(prepared, measured_steps))


def listing(what: str) -> list[str]:
    """Returns a line for each strategy, stream, objective, or shipped config.

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
    module = importlib.import_module(f"{COMPONENT_PACKAGES[kind]}.{name}")
    return (inspect.getdoc(module) or "").partition("\n")[0]


def _arguments(kind: str, name: str) -> str:
    parameters = inspect.signature(find(kind, name)).parameters.values()
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f" ({', '.join(shown)})" if shown else ""


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
