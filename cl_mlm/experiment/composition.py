"""Which strategies may work together, on which streams and objectives, with which settings."""

from __future__ import annotations

from collections.abc import Sequence

from cl_mlm.config.components import find
from cl_mlm.config.schema import Config
from cl_mlm.errors import ConfigError
from cl_mlm.strategy import Strategy


def make_strategies(config: Config) -> list[Strategy]:
    """Returns the config's strategies, built, in order."""
    return [find("strategy", name)(**arguments) for name, arguments in config.strategies.items()]


def check_arguments(strategies: Sequence[Strategy]) -> None:
    """Refuses strategies whose arguments are out of range; objects made in Python come here unchecked.

    Raises:
        ConfigError: every fault of every strategy.
    """
    problems = [f"strategies.{strategy.name}.{fault}" for strategy in strategies for fault in strategy.validate()]
    if problems:
        raise ConfigError(problems)


def check_composition(strategies: Sequence[Strategy]) -> None:
    """Refuses strategies that cannot work together.

    Raises:
        ConfigError: a joint or cumulative regime beside another strategy, or one class twice.
    """
    names = [strategy.name for strategy in strategies]
    kinds = [type(strategy) for strategy in strategies]
    twice = sorted({name for name, kind in zip(names, kinds, strict=True) if kinds.count(kind) > 1})
    if twice:
        raise ConfigError(f"strategies: each may be given once, got {', '.join(twice)} twice")
    alone = [strategy for strategy in strategies if strategy.regime != "sequential"]
    if alone and len(strategies) > 1:
        others = ", ".join(name for name in names if name != alone[0].name)
        raise ConfigError(
            f"strategies: {alone[0].name} trains on all rows of earlier stages and stands alone, got it with {others}"
        )
    choosers = [strategy.name for strategy in strategies if strategy.overrides("training_data")]
    if len(choosers) > 1:
        raise ConfigError(f"strategies: only one may choose the training rows, got {', '.join(choosers)}")
