"""Which strategies may work together, and on which streams, objectives and settings."""

from __future__ import annotations

import inspect
from collections.abc import Set
from typing import TYPE_CHECKING, Final, get_args

from cl_mlm.config.components import make_strategy, told_faults
from cl_mlm.data.tasks import tasks_of
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.models.finetuning import ADAPTED, trains_in_fp32
from cl_mlm.own_code import OwnCode, label_of
from cl_mlm.strategy import HOOKS, Regime, Setting, Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cl_mlm.config.schema import Config
    from cl_mlm.objective import Objective
    from cl_mlm.strategy import Need
    from cl_mlm.stream import Stream

MEANING: Final[Mapping[Need, str]] = {
    "task_id": "the stage of a row at prediction",
    "old_rows": "rows of earlier stages",
    "old_model": "the model before the stage",
    "future": "rows or labels of later stages",
}


def make_strategies(config: Config) -> list[Strategy]:
    """Returns the config's strategies, built, in order."""
    return [make_strategy(name, arguments) for name, arguments in config.strategies.items()]


def check_arguments(strategies: Sequence[Strategy]) -> None:
    """Refuses strategies whose arguments are out of range; objects made in Python come here unchecked.

    Raises:
        ConfigError: every fault of every strategy.
    """
    problems = [f"strategies.{strategy.name}{fault}" for strategy in strategies for fault in class_faults(strategy)]
    if not problems:
        told = [(strategy.name, told_faults(strategy, "validate")) for strategy in strategies]
        problems = [f"strategies.{name}.{fault}" for name, faults in told for fault in faults]
    if problems:
        raise ConfigError(problems)


def class_faults(strategy: Strategy) -> list[str]:
    """Returns what the class of a strategy makes wrong, whatever its hooks do, each behind the strategy's name."""
    faults = []
    with OwnCode("strategy", f"strategy {label_of(type(strategy))}, needs"):
        needs = strategy.needs
    if strategy.regime not in get_args(Regime):
        faults.append(f": regime must be one of {', '.join(get_args(Regime))}, got {strategy.regime!r}")
    if not isinstance(needs, Set | tuple | list) or not all(isinstance(need, str) for need in needs):
        faults.append(f": needs must be a set of texts, got {needs!r}")
    if strategy.overrides("state_dict") != strategy.overrides("load_state_dict"):
        has, lacks = sorted(("state_dict", "load_state_dict"), key=lambda name: not strategy.overrides(name))
        faults.append(f": has {has} without {lacks}, so that a resumed run would lose its state")
    for hook in HOOKS:
        method = getattr(strategy, hook)
        taken = [*inspect.signature(getattr(Strategy, hook)).parameters][1:]
        if inspect.iscoroutinefunction(method):
            faults.append(f".{hook}: must be an ordinary function, got one with `async`, which nobody awaits")
        try:
            inspect.signature(method).bind(*taken)
        except TypeError:
            faults.append(f".{hook}: must take ({', '.join(taken)}), got {inspect.signature(method)}")
    try:
        strategy.arguments()
    except TypeError as error:
        faults.append(f": {error}")
    return faults


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
    # With all rows at hand there is nothing to guard: another strategy beside such a bound would only blur it.
    alone = [strategy for strategy in strategies if strategy.regime != "sequential"]
    if alone and len(strategies) > 1:
        others = ", ".join(name for name in names if name != alone[0].name)
        raise ConfigError(
            f"strategies: {alone[0].name} trains on all rows of earlier stages and stands alone, got it with {others}"
        )
    projecting = [strategy.name for strategy in strategies if strategy.projects]
    if len(projecting) > 1:
        found = ", ".join(projecting)
        raise ConfigError(f"strategies: only one may project the gradient and so have the last word on it, got {found}")
    choosers = [strategy.name for strategy in strategies if strategy.overrides("training_data")]
    if len(choosers) > 1:
        raise ConfigError(f"strategies: only one may choose the training rows, got {', '.join(choosers)}")


def composition_faults(
    strategies: Sequence[Strategy], objectives: Sequence[Objective], config: Config, stream: Stream
) -> list[str]:
    """Returns why strategies cannot work with these objectives, settings, and this stream; empty is good."""
    faults = [
        f"strategies.{strategy.name}.{line}"
        for objective in objectives
        for strategy in strategies
        for line in told_faults(strategy, "unfit", objective)
    ]
    setting = setting_of(strategies, config, stream)
    for strategy in strategies:
        faults += [f"strategies.{strategy.name}.{line}" for line in told_faults(strategy, "refuse", setting)]
        faults += unmet_needs(strategy, stream)
        if not trains_in_fp32(config) and not strategy.bf16_weights:
            faults.append(
                f"strategies.{strategy.name}: works on weights in fp32, whose small differences and squared gradients "
                "8 bits would round away; model.dtype must be float32, or finetuning.mode one with adapters "
                f"({', '.join(ADAPTED)}), got bfloat16 with mode {config.finetuning.mode}"
            )
        if stream.partial and strategy.regime != "sequential":
            faults.append(
                f"strategies.{strategy.name}: trains on all stages at once, but in this stream a row stands in "
                "several, each time with other targets; a stream of one stage with all types is the upper bound"
            )
    return list(dict.fromkeys(faults))


def setting_of(strategies: Sequence[Strategy], config: Config, stream: Stream) -> Setting:
    """Returns what strategies may ask about a run."""
    training = config.training
    return Setting(
        scenario=stream.scenario,
        num_stages=len(stream),
        num_tasks=len(tasks_of(stream)),
        mode=config.finetuning.mode,
        dtype="float32" if trains_in_fp32(config) else config.model.dtype,
        precision=training.precision,
        accumulation=training.accumulation,
        patience=training.patience,
        optimizer=training.optimizer,
        weight_decay=training.weight_decay,
        strategies=tuple(strategy.name for strategy in strategies),
    )


def unmet_needs(strategy: Strategy, stream: Stream) -> list[str]:
    """Returns a line for each of the strategy's needs that the stream does not meet, or that there is not."""
    known = ", ".join(MEANING)
    unknown = [
        f"strategies.{strategy.name}: needs must be of {known}, got {need!r}{nearest(need, MEANING)}"
        for need in sorted(strategy.needs)
        if need not in MEANING
    ]
    reasons: dict[Need, str] = {need: f"stream.withhold names {need}" for need in stream.withheld}
    if not stream.masks:
        reasons["task_id"] = f"stream.scenario must be task_incremental, got {stream.scenario}"
    return unknown + [
        f"strategies.{strategy.name}: needs {need} ({MEANING[need]}), which this stream does not give: {reasons[need]}"
        for need in sorted(strategy.needs)
        if need in reasons
    ]


def swapping_strategies(strategies: Sequence[Strategy]) -> list[str]:
    """Returns the strategies that put other weights in the model's place while it is scored."""
    return [strategy.name for strategy in strategies if strategy.overrides("evaluation")]
