"""What a command line would run, and what it may name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cl_mlm.check.look import early_look
from cl_mlm.check.look_text import look_lines
from cl_mlm.config.components import PACKAGES, find, names
from cl_mlm.config.loading import arm_layers, read_layer
from cl_mlm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from cl_mlm.experiment.preparation import Prepared

KINDS = {"strategies": "strategy", "streams": "stream", "objectives": "objective"}


@dataclass(frozen=True)
class Variant:
    """One run of a command: an arm of the file (None: the file itself) and further overrides."""

    arm: str | None
    overrides: tuple[str, ...]


def planned(config: Path, arms: Sequence[str], seeds: Sequence[int]) -> list[Variant]:
    """Returns every run that `--arm` and `--seed` ask for, seed by seed.

    Raises:
        ConfigError: the file declares no such arm.
    """
    declared = list(arm_layers(read_layer(config)))
    wanted: list[str | None] = list(declared) if "all" in arms else list(arms)
    if "all" in arms and not declared:
        raise ConfigError(f"--arm all: {config} declares no arms")
    listed = ", ".join([*declared, "all"])
    for name in wanted:
        if name not in declared:
            raise ConfigError(f"--arm: {config} has no arm {name!r}{nearest(str(name), declared)}; allowed: {listed}")
    per_seed: list[tuple[str, ...]] = [(f"seed={seed}",) for seed in seeds] or [()]
    return [Variant(arm, overrides) for overrides in per_seed for arm in wanted or [None]]


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
    module = importlib.import_module(f"{PACKAGES[kind]}.{name}")
    return (inspect.getdoc(module) or "").partition("\n")[0]


def _arguments(kind: str, name: str) -> str:
    parameters = inspect.signature(find(kind, name)).parameters.values()
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f" ({', '.join(shown)})" if shown else ""


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
