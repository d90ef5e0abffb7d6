"""The runs that one command starts: each chosen arm of a config file with each seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_mlm.config.layers import arm_layers, read_layer
from cl_mlm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Variant:
    """One run of a command.

    Attributes:
        arm: the arm of the file; None: the file without an arm.
        overrides: `key=value` settings on top of it.
    """

    arm: str | None
    overrides: tuple[str, ...]


def planned(config: Path, arms: Sequence[str], seeds: Sequence[int]) -> list[Variant]:
    """Returns every run that `--arm` and `--seed` ask for, seed by seed.

    Raises:
        ConfigError: the file declares no such arm.
    """
    declared = list(arm_layers(read_layer(config)))
    chosen = declared if "all" in arms else list(arms)
    if "all" in arms and not declared:
        raise ConfigError(f"--arm all: {config} declares no arms")
    allowed = ", ".join([*declared, "all"])
    for name in chosen:
        if name not in declared:
            raise ConfigError(f"--arm: {config} has no arm {name!r}{nearest(name, declared)}; allowed: {allowed}")
    per_seed: list[tuple[str, ...]] = [(f"seed={seed}",) for seed in seeds] or [()]
    per_arm: list[str | None] = [*chosen] or [None]
    return [Variant(arm, overrides) for overrides in per_seed for arm in per_arm]
