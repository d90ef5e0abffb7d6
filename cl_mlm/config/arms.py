"""The runs that one command starts: each chosen arm of a config file with each seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_mlm.config.layers import arm_layers, read_layer
from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cl_mlm.config.schema import Config


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


def load_variants(
    config: Path, overrides: Sequence[str], variants: Sequence[Variant], *, every_arm: bool = False
) -> list[Config]:
    """Returns the checked config of every variant.

    Args:
        config: the file.
        overrides: `key=value` settings of all variants.
        variants: of the command.
        every_arm: whether the file's other arms must be without fault, too.

    Raises:
        ConfigError: the faults of all of them; a fault that not all have names its arm.
    """
    chosen = [variant.arm for variant in variants]
    others = [Variant(arm, ()) for arm in arm_layers(read_layer(config)) if arm not in chosen] if every_arm else []
    configs: list[Config] = []
    arms_of_fault: dict[str, list[str | None]] = {}
    for variant in [*variants, *others]:
        try:
            configs.append(load_config(config, [*overrides, *variant.overrides], variant.arm))
        except ConfigError as error:
            for line in error.problems:
                arms_of_fault.setdefault(line, []).append(variant.arm)
    problems = []
    for line, arms in arms_of_fault.items():
        named = dict.fromkeys(arm for arm in arms if arm is not None)
        is_of_all = len(arms) == len(variants) + len(others)
        problems.append(line if is_of_all or not named else f"arm {', '.join(named)}: {line}")
    if problems:
        raise ConfigError(problems)
    return configs[: len(variants)]
