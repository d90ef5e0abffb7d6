"""Everything that can be refused is refused here, all at once, before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cl_mlm.check.disk import size_of_tasks
from cl_mlm.config.components import find
from cl_mlm.config.schema import Config
from cl_mlm.config.stream_keys import make_base, restage, with_probes
from cl_mlm.data.as_text import as_text
from cl_mlm.data.hygiene import clean, limit
from cl_mlm.data.scenarios import RESTAGING
from cl_mlm.data.tasks import Tasks, foreign_columns, objectives_of
from cl_mlm.errors import ClMlmError, ConfigError, DataError, UnreachableModelError
from cl_mlm.models.backbone import model_settings
from cl_mlm.models.file_safety import check_model
from cl_mlm.prompting.columns import Prompting, prepare_prompting, refuse_headless
from cl_mlm.prompting.reader import model_limits
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stream
from cl_mlm.tracking.mlflow_sender import tracking_uri
from cl_mlm.training.hardware import resolve_hardware

if TYPE_CHECKING:
    from cl_mlm.objective import Objective

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """A run that may start.

    Attributes:
        config: with threads and device filled in.
        stream: cleaned, and limited where the config says so.
        objective: the first stage's; `objectives_of(stream)` gives all.
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
    objectives = objectives_of(cleaned[0])[1]
    where = "stream.options." if len(objectives) == 1 else "stream, objective {}: options."
    wrong = [
        where.format(key) + line
        for key, objective in objectives.items()
        for line in objective.faults(resolved.training.max_length)
    ]
    unfit = [(strategy.name, line) for o in objectives.values() for strategy in made for line in strategy.unfit(o)]
    wrong += [f"strategies.{name}.{line}" for name, line in dict.fromkeys(unfit)]
    if resolved.model.dtype == "bfloat16":
        wrong += [
            f"strategies.{strategy.name}: works on weights in fp32, whose small differences and squared gradients "
            "8 bits would round away; model.dtype must be float32, got bfloat16"
            for strategy in made
            if not strategy.bf16_weights
        ]
    if cleaned[0].partial:
        wrong += [
            f"strategies.{strategy.name}: trains on all stages at once, but in this stream a row stands in several, "
            "each time with other targets; a stream of one stage with all types is the upper bound"
            for strategy in made
            if strategy.regime != "sequential"
        ]
    wrong += _passes(resolved, cleaned[0])
    if not wrong:
        wrong = model_faults(resolved, cleaned[0])
    if wrong:
        raise ConfigError(wrong)
    objective = next(iter(objectives.values()))
    prompting = _prompting(resolved, cleaned[0], list(objectives.values()))
    return Prepared(resolved, cleaned[0], tuple(made), objective, cleaned[1], prompting)


def _passes(config: Config, stream: Stream) -> list[str]:
    """Returns settings that would show a row of an online stream more than once."""
    training = config.training
    if stream.scenario != "online":
        return []
    wrong = [f"training.epochs: must be 1 where stream.scenario is online, got {training.epochs}"] * (
        training.epochs != 1
    )
    if training.steps is not None:
        wrong.append(f"training.steps: must be null where stream.scenario is online, got {training.steps}")
    return wrong


def model_faults(config: Config, stream: Stream) -> list[str]:
    """Returns why the model cannot take the stream's objectives; its config alone is read, where it can be had."""
    tasks = Tasks.of_stream(stream)
    try:
        if config.finetuning.mode == "full" and len(tasks) == 1:
            (task,) = tasks
            model_settings(config.model, task.labels.names, config.training.max_length, task.objective)
        elif not size_of_tasks(config, tasks).trainable:
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
    section = config.stream
    first_stages, is_restaged = section.get("first_stages"), section.get("scenario") in RESTAGING
    stream = make_base(section) if given is None else given
    # Cut before anything is read: settings chosen on the first stages must not have seen the others. Where stages are
    # made of those of another stream, the gate sees all of that.
    stream = stream if is_restaged else _first(stream, first_stages)
    stream = as_text(stream) if section.get("as_text") else stream
    stream = with_probes(stream, section.get("probes", {}))
    cleaned, counts = clean(stream, section.get("overlap", "error"))
    if config.limit is not None:
        # Of all that is dealt out every stage is to get some.
        cleaned = limit(cleaned, config.limit * section.get("num_stages", 1) if is_restaged else config.limit)
    faults = foreign_columns(cleaned)
    if is_restaged and len({*objectives_of(cleaned)[0]}) > 1:
        faults.append(
            f"stream.scenario: {section['scenario']} deals out the rows of one objective, "
            f"got {', '.join(objectives_of(cleaned)[1])}"
        )
    if faults:
        raise ConfigError(faults)
    if is_restaged:
        cleaned = _first(restage(cleaned, section), first_stages)
    return cleaned, counts


def _first(stream: Stream, num_stages: int | None) -> Stream:
    if num_stages is not None and num_stages > len(stream):
        raise ConfigError(f"stream.first_stages: must be at most {len(stream)} here, got {num_stages}")
    cut = stream.first(num_stages)
    if stream.given_columns and not cut.given_columns:
        raise ConfigError(f"stream.first_stages: no column is learned after {num_stages} stages, so nothing is scored")
    return cut


def _prompting(config: Config, stream: Stream, objectives: Sequence[Objective]) -> Prompting | None:
    """Returns the prompts that `config` asks for; None: none."""
    if config.prompting is None:
        return None
    refuse_headless(objectives)
    if isinstance(config.prompting.data, dict):
        try:
            stream = _make_stream(replace(config, stream=config.prompting.data), None)[0]
        except (ConfigError, DataError) as error:
            marks = {line: "." if line.startswith("stream.") else ": " for line in error.problems}
            told = [f"prompting.data{mark}{line.removeprefix('stream.')}" for line, mark in marks.items()]
            raise type(error)(told) from error
    _check_length(config, objectives[0])
    return prepare_prompting(config, stream, objectives)


def _check_length(config: Config, objective: Objective) -> None:
    """Refuses prompts longer than the model's config allows, where that can be had.

    Raises:
        ConfigError: see above.
    """
    wanted = config.prompting and config.prompting.max_length
    if not wanted:
        return
    try:
        settings = model_settings(config.model, (), config.training.max_length, objective)[1]
    except UnreachableModelError:  # told when it is loaded
        return
    most = min(model_limits(settings), default=wanted)
    if wanted > most:
        raise ConfigError(f"prompting.max_length: must be at most the model's {most}, got {wanted}")


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
        # Named only where they are set: other runs of the same stream keep their identity.
        section |= {key: config.stream[key] for key in ("first_stages", "as_text") if config.stream.get(key)}
        config = replace(config, stream=section)
    return config
