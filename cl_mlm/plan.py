"""What a command line would run, and what it may name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cl_mlm.api import run_folder
from cl_mlm.components import PACKAGES, find, names
from cl_mlm.disk import disk_lines
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.loading import arm_layers, read_layer
from cl_mlm.stream import SPLITS

if TYPE_CHECKING:
    from cl_mlm.preparation import Prepared

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


def describe(prepared: Prepared) -> list[str]:
    """Returns what a prepared run would do, in lines: stages, rows, labels, hygiene, disk."""
    config, stream = prepared.config, prepared.stream
    lines = [
        f"{config.experiment}: {config.label}, model {config.model.name}, {config.finetuning.mode} fine-tuning",
        f"stream {stream.name}: {len(stream)} stages, {len(stream.labels)} labels, {stream.scenario}",
        f"fingerprint {stream.fingerprint}",
    ]
    for i, stage in enumerate(stream.stages):
        splits = SPLITS[:1] if stream.given_columns else SPLITS
        rows = " / ".join(f"{len(stage.split(split)):,}" for split in splits)
        lines.append(f"  {i + 1:3d}. {stage.name}: {rows} rows ({' / '.join(splits)}), {len(stage.labels)} labels")
    if stream.given_columns or stream.probes:
        for column in stream.columns:
            rows = f"{len(column.validation):,} / {len(column.test):,} rows (validation / test)"
            home = "a probe" if column.home is None else f"learned after stage {column.home + 1}"
            lines.append(f"  scored on {column.name}: {rows}, {len(column.labels)} labels, {home}")
    lines.append("overlap: " + ", ".join(f"{name} {count}" for name, count in prepared.overlap.items()))
    lines += [f"note: {note}" for note in stream.notes]
    lines += _prompting_lines(prepared)
    lines += disk_lines(prepared)
    return [*lines, f"run folder: {run_folder(config)}", "good to run"]


def _prompting_lines(prepared: Prepared) -> list[str]:
    """Returns what is prompted, and the first prompt as the model will read it."""
    found = prepared.prompting
    if found is None:
        return []
    shots = ", ".join(map(str, found.config.shots))
    head = (
        f"prompting: {shots} shots, {len(found.columns)} columns of {found.stream.name}, before and after every stage"
    )
    return [head, "  the first prompt:", *(f"  | {line}" for line in found.example().split("\n"))]


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
