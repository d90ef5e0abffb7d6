"""Everything that can be refused is refused here, all at once, before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cl_mlm.astext import as_text
from cl_mlm.backbone import model_settings
from cl_mlm.components import find, make_objective, make_stream
from cl_mlm.config import Config
from cl_mlm.disk import model_size
from cl_mlm.errors import ClMlmError, ConfigError, DataError, UnreachableModelError
from cl_mlm.hardware import resolve_hardware
from cl_mlm.hygiene import clean, limit
from cl_mlm.model_files import check_model
from cl_mlm.prompting.columns import Prompting, prepare_prompting, refuse_headless
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stream
from cl_mlm.tracking import tracking_uri

if TYPE_CHECKING:
    from cl_mlm.objective import Objective

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """A run that may start.

    Attributes:
        config: with threads and device filled in.
        stream: cleaned, and limited where the config says so.
        overlap: counts of rows found in two splits, and of rows dropped.
        prompting: what is prompted before training and after every stage; None: nothing.
    """

    config: Config
    stream: Stream
    strategies: tuple[Strategy, ...]
    objective: Objective
    overlap: dict[str, int]
    prompting: Prompting | None = None


def prepare(config: Config, stream: Stream | None = None, strategies: Sequence[Strategy] | None = None) -> Prepared:
    """Returns the run that `config` describes; `stream` and `strategies` given as objects replace the config's.

    Raises:
        ConfigError, DataError: every fault found in the config, or in the data.
    """
    faults: list[ClMlmError] = []
    made = _collect(faults, lambda: list(strategies) if strategies is not None else make_strategies(config))
    if made is not None:
        _collect(faults, lambda: check_arguments(made))
        _collect(faults, lambda: check_composition(made))
    _collect(faults, lambda: check_model(config.model))
    _collect(faults, lambda: tracking_uri(config.tracking.uri))
    _collect(faults, lambda: check_output(Path(config.output)))
    resolved = _collect(faults, lambda: resolve_hardware(config))
    cleaned = _collect(faults, lambda: _make_stream(config, stream))
    if faults:
        problems = [line for fault in faults for line in getattr(fault, "problems", [str(fault)])]
        raise (DataError if all(isinstance(fault, DataError) for fault in faults) else ConfigError)(problems)
    assert made is not None
    assert resolved is not None
    assert cleaned is not None
    first = cleaned[0].stages[0]
    objective = make_objective(first.objective, first.options)
    wrong = [f"stream.options.{line}" for line in objective.faults(resolved.training.max_length)]
    wrong += [f"strategies.{strategy.name}.{line}" for strategy in made for line in strategy.unfit(objective)]
    if cleaned[0].partial:
        wrong += [
            f"strategies.{strategy.name}: trains on all stages at once, but in this stream a row stands in several, "
            "each time with other targets; a stream of one stage with all types is the upper bound"
            for strategy in made
            if strategy.regime != "sequential"
        ]
    if not wrong:
        wrong = model_faults(resolved, cleaned[0], objective)
    if wrong:
        raise ConfigError(wrong)
    prompting = _prompting(resolved, cleaned[0], objective)
    return Prepared(resolved, cleaned[0], tuple(made), objective, cleaned[1], prompting)


def model_faults(config: Config, stream: Stream, objective: Objective) -> list[str]:
    """Returns why the model cannot take the stream's objective; its config alone is read, where it can be had."""
    try:
        if config.finetuning.mode == "full":
            model_settings(config.model, stream.labels, config.training.max_length, objective)
        elif not model_size(config, stream.labels, objective).trainable:
            return ["finetuning.mode: head leaves nothing to train: this model's output layer is its input embedding"]
    except UnreachableModelError:  # told when it is loaded
        return []
    except ConfigError as error:
        return error.problems
    return []


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


def check_output(output: Path) -> None:
    """Refuses an output folder in which nothing can be written.

    Raises:
        ConfigError: naming the folder.
    """
    existing = next((p for p in [output, *output.absolute().parents] if p.exists()), Path("/"))
    if not existing.is_dir():
        raise ConfigError(f"output: must be a folder, got {str(output)!r} ({existing} is a file)")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"output: must be a folder in which this user may write, got {str(output)!r} ({existing} is not writable)"
        )


def _make_stream(config: Config, given: Stream | None) -> tuple[Stream, dict[str, int]]:
    arguments = dict(config.stream)
    name, overlap = arguments.pop("name", ""), arguments.pop("overlap", "error")
    first_stages, writes_labels = arguments.pop("first_stages", None), arguments.pop("as_text", False)
    stream = given if given is not None else make_stream(name, arguments)
    if first_stages is not None and first_stages > len(stream):
        raise ConfigError(f"stream.first_stages: must be at most {len(stream)} here, got {first_stages}")
    # Cut before anything is read: settings chosen on the first stages must not have seen the others.
    stream = replace(stream, stages=stream.stages[:first_stages])
    if writes_labels:
        stream = as_text(stream)
    cleaned, counts = clean(stream, overlap)
    if config.limit is not None:
        cleaned = limit(cleaned, config.limit)
    objectives = {(stage.objective, repr(stage.options)) for stage in cleaned.stages}
    if len(objectives) > 1:
        raise ConfigError(f"stream: all stages must have one objective, got {sorted(name for name, _ in objectives)}")
    return cleaned, counts


def _prompting(config: Config, stream: Stream, objective: Objective) -> Prompting | None:
    """Returns the prompts that `config` asks for; None: none."""
    if config.prompting is None:
        return None
    refuse_headless(objective)
    if isinstance(config.prompting.data, dict):
        try:
            stream = _make_stream(replace(config, stream=config.prompting.data), None)[0]
        except (ConfigError, DataError) as error:
            marks = {line: "." if line.startswith("stream.") else ": " for line in error.problems}
            told = [f"prompting.data{mark}{line.removeprefix('stream.')}" for line, mark in marks.items()]
            raise type(error)(told) from error
    return prepare_prompting(config, stream, objective)


def _collect(faults: list[ClMlmError], work: Callable[[], T]) -> T | None:
    try:
        return work()
    except ClMlmError as fault:
        faults.append(fault)
        return None


def with_objects(config: Config, stream: Stream | None, strategies: Sequence[Strategy] | None) -> Config:
    """Returns `config` with objects handed over in Python recorded in it, by class path and plain arguments."""
    if strategies is not None:
        named: dict[str, dict[str, Any]] = {}
        for strategy in strategies:
            kind = type(strategy)
            named[f"{kind.__module__}.{kind.__qualname__}"] = strategy.arguments()
        config = replace(config, strategies=named)
    if stream is not None:
        section = {
            "name": stream.name,
            "overlap": config.stream.get("overlap", "error"),
            "fingerprint": stream.fingerprint,
        }
        config = replace(config, stream=section)
    return config
