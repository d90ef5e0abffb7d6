"""Everything that can be refused is refused here, all at once, before a model is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cl_mlm.config.own_modules import own_folder
from cl_mlm.config.own_source import outdated
from cl_mlm.config.stream_keys import SWITCH_KEYS
from cl_mlm.data.in_memory import check_form
from cl_mlm.data.stream_building import build_stream
from cl_mlm.data.tasks import objectives_of, tasks_of
from cl_mlm.errors import ClMlmError, ConfigError, DataError, OwnCodeError, UnreachableModelError, nearest
from cl_mlm.experiment.composition import (
    check_arguments,
    check_composition,
    composition_faults,
    make_strategies,
)
from cl_mlm.experiment.model_fit import chat_of, length_faults, length_notes, prompt_faults, with_length
from cl_mlm.experiment.packing_fit import packing_faults
from cl_mlm.experiment.probe_faults import probe_faults
from cl_mlm.experiment.provenance import components, provenance
from cl_mlm.models.adapter_files import refuse_unmerged
from cl_mlm.models.attention import attention_faults
from cl_mlm.models.file_safety import check_model
from cl_mlm.models.loading import model_settings
from cl_mlm.models.size import size_of_tasks
from cl_mlm.models.tokenizers import folds_case
from cl_mlm.prompting.columns import Prompting, prepare_prompting, refuse_headless
from cl_mlm.tracking.mlflow_sender import tracking_uri
from cl_mlm.training.hardware import resolve_hardware

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cl_mlm.config.schema import Config, TrainingConfig
    from cl_mlm.objective import Objective
    from cl_mlm.strategy import Strategy
    from cl_mlm.stream import Stream

T = TypeVar("T")
MOST_NAMES = 20  # of stages that a message lists


@dataclass(frozen=True)
class Prepared:
    """A run that may start.

    Attributes:
        config: with threads, device and the tokens of a row filled in.
        stream: cleaned, and limited where the config says so.
        objective: the first stage's; `objectives_of(stream)` gives all.
        overlap: counts of rows found in two splits, and of rows dropped.
        prompting: what is prompted before training and after every stage; None: nothing.
        notes: what of the rows does not suit the model, in words; no fault.
    """

    config: Config
    stream: Stream
    strategies: tuple[Strategy, ...]
    objective: Objective
    overlap: dict[str, int]
    prompting: Prompting | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_joint(self) -> bool:
        """Whether the run trains once, on the union of all stages."""
        return any(strategy.regime == "joint" for strategy in self.strategies)

    @cached_property
    def stage_names(self) -> list[str]:
        """The names of the stages, in order."""
        return [stage.name for stage in self.stream.stages]

    def training(self, stage_index: int) -> TrainingConfig:
        """Returns the training settings of a stage."""
        return self.config.training.at_stage(stage_index, self.stage_names)

    @cached_property
    def provenance(self) -> dict[str, str]:
        """What the result comes from beside its settings, by the tags that record it; as it is when first asked for."""
        return provenance(self.config, self.stream, self.strategies, self.prompting)


def prepare(config: Config, stream: Stream | None = None, strategies: Sequence[Strategy] | None = None) -> Prepared:
    """Returns the run that `config` describes; `stream` and `strategies` given as objects replace the config's.

    Raises:
        ConfigError, DataError: every fault found in the config, or in the data.
    """
    faults: list[ClMlmError] = []
    built = _collect(faults, lambda: list(strategies) if strategies is not None else make_strategies(config))
    if built is not None:
        _collect(faults, lambda: check_arguments(built))
        _collect(faults, lambda: check_composition(built))
    _collect(faults, lambda: check_model(config.model))
    _collect(faults, lambda: refuse_unmerged(Path(config.model.name).expanduser()))
    _collect(faults, lambda: tracking_uri(config.tracking.uri))
    _collect(faults, lambda: check_output(Path(config.output)))
    resolved = _collect(faults, lambda: resolve_hardware(config))
    asks_case = partial(folds_case, config.model)
    cleaned = _collect(faults, lambda: build_stream(config.stream, config.limit, stream, asks_case))
    if len(faults) == 1 and isinstance(faults[0], OwnCodeError):
        raise faults[0]  # as it is: with its cause
    if faults or built is None or resolved is None or cleaned is None:
        problems = [line for fault in faults for line in getattr(fault, "problems", [str(fault)])]
        raise (DataError if all(isinstance(fault, DataError) for fault in faults) else ConfigError)(problems)
    ready, overlap = cleaned
    objectives = list(objectives_of(ready)[1].values())
    resolved = with_length(resolved, ready)
    problems = [
        *option_faults(ready, resolved.training.row_length),
        *composition_faults(built, objectives, resolved, ready),
        *stage_faults(resolved, ready, built),
        *online_faults(resolved, ready),
        *probe_faults(resolved, ready, objectives),
        *outdated(components(resolved, ready, built)),
    ]
    # The model's config may have to come from a hub: asked for only where all else is right.
    problems = problems or model_faults(resolved, ready) or packing_faults(resolved, ready)
    problems = problems or length_faults(resolved, ready)
    if problems:
        raise ConfigError(problems)
    prompting = _prompting(resolved, ready, objectives)
    notes = tuple(length_notes(resolved, ready))
    return Prepared(resolved, ready, tuple(built), objectives[0], overlap, prompting, notes)


def option_faults(stream: Stream, max_length: int) -> list[str]:
    """Returns the faults of the options of every objective."""
    objectives = objectives_of(stream)[1]
    where = "stream.options." if len(objectives) == 1 else "stream, objective {}: options."
    return [where.format(key) + line for key, objective in objectives.items() for line in objective.faults(max_length)]


def stage_faults(config: Config, stream: Stream, strategies: Sequence[Strategy]) -> list[str]:
    """Returns which keys of `training.stages` name no stage that is trained, or one that another key names."""
    names = [stage.name for stage in stream.stages]
    trains_once = any(strategy.regime == "joint" for strategy in strategies)
    found: dict[str, str] = {}
    faults = []
    for key in config.training.stages:
        where = f"training.stages.{key}"
        is_index = key.isdecimal() and str(int(key)) == key and int(key) < len(names)
        if key not in names and not is_index:
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            listed = f"{', '.join(names[:MOST_NAMES])}{more}"
            faults.append(
                f"{where}: no stage has this name{nearest(key, names)}; allowed: {listed}, "
                f"or an index from 0 to {len(names) - 1}"
            )
            continue
        name = key if key in names else names[int(key)]
        if name in found:
            faults.append(f"{where}: must be the only key of stage {name!r}, which {found[name]!r} names, too")
        elif trains_once and name != names[-1]:
            faults.append(f"{where}: must be {names[-1]!r}, the one stage in which a joint run trains, got {key!r}")
        found[name] = key
    return faults


def online_faults(config: Config, stream: Stream) -> list[str]:
    """Returns settings that would show a row of an online stream more than once."""
    if stream.scenario != "online":
        return []
    training, faults = config.training, []
    own = {f"stages.{key}.{name}": value for key, each in training.stages.items() for name, value in each.items()}
    given = {"epochs": training.epochs, "steps": training.steps, **own}
    for path, value in given.items():
        key = path.rpartition(".")[2]
        if key == "epochs" and value != 1:
            faults.append(f"training.{path}: must be 1 where stream.scenario is online, got {value}")
        if key == "steps" and value is not None:
            faults.append(f"training.{path}: must be null where stream.scenario is online, got {value}")
    return faults


def model_faults(config: Config, stream: Stream) -> list[str]:
    """Returns why the model cannot take the stream's objectives; its config alone is read, where it can be had."""
    tasks = tasks_of(stream)
    try:
        if faults := attention_faults(config, tasks):
            return faults
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


def _prompting(config: Config, stream: Stream, objectives: Sequence[Objective]) -> Prompting | None:
    """Returns the prompts that `config` asks for; None: none."""
    if config.prompting is None:
        return None
    refuse_headless(objectives)
    if isinstance(config.prompting.data, dict):
        try:
            stream = build_stream(config.prompting.data, config.limit, None, partial(folds_case, config.model))[0]
        except (ConfigError, DataError) as error:
            marks = {line: "." if line.startswith("stream.") else ": " for line in error.problems}
            told = [f"prompting.data{mark}{line.removeprefix('stream.')}" for line, mark in marks.items()]
            raise type(error)(told) from error
    prompting = prepare_prompting(config, stream, objectives)
    problems = prompt_faults(config, prompting, objectives[0])
    if problems:
        raise ConfigError(problems)
    return replace(prompting, chat=chat_of(config))


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
        folders = [folder for strategy in strategies for folder in own_folder(type(strategy).__module__)]
        config = replace(config, strategies=named, code=list(dict.fromkeys([*config.code, *folders])))
    if stream is not None:
        check_form(stream)
        section = {
            "name": stream.name,
            "overlap": config.stream.get("overlap", "error"),
            "fingerprint": stream.fingerprint,
        }
        # Named only where they are set: other runs of the same stream keep their identity.
        section |= {key: config.stream[key] for key in ("first_stages", *SWITCH_KEYS) if config.stream.get(key)}
        config = replace(config, stream=section)
    return config
