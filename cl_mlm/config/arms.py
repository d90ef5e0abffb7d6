"""The runs that a command asks for: arms of a config file times seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cl_mlm.config.loading import arm_layers, read_layer
from cl_mlm.errors import ConfigError, nearest


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
