"""Finds the tasks of a stream: which objectives its stages have, and which stages share one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cl_mlm.config.components import make_objective
from cl_mlm.task import LabelSpace, Task, Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cl_mlm.objective import Objective
    from cl_mlm.stream import Column, Stage, Stream

Identity = tuple[str, str]  # class of the objective, its options as text


def tasks_of(stream: Stream, objectives: Mapping[str, Objective] | None = None) -> Tasks:
    """Returns the tasks of a stream; `objectives`, by key of a task, are used in place of new ones.

    Raises:
        ConfigError: there is no such objective, or it has no such option.
    """
    keys, new_objectives = objectives_of(stream)
    key_of = dict(zip(map(identity, stream.stages), keys, strict=True))
    tasks = {}
    for key, objective in {**new_objectives, **(objectives or {})}.items():
        own_stages = tuple(i for i, stage_key in enumerate(keys) if stage_key == key)
        # A stage of another task brings none of this one's labels.
        stages = tuple(stage if i in own_stages else replace(stage, labels=()) for i, stage in enumerate(stream.stages))
        labels = LabelSpace(replace(stream, stages=stages), objective.classes)
        tasks[key] = Task(key, objective, labels, own_stages, tuple(stages[own_stages[0]].labels))
    return Tasks(tasks, keys, [key_of[identity(column)] for column in stream.columns])


def objectives_of(stream: Stream) -> tuple[tuple[str, ...], dict[str, Objective]]:
    """Returns the task key of every stage, and the objective of every key, in the order of the stages.

    A key is the objective's name; with `-2`, `-3` ... where earlier stages have that objective with other options.

    Raises:
        ConfigError: there is no such objective, or it has no such option.
    """
    keys: list[str] = []
    objectives: dict[str, Objective] = {}
    key_of: dict[Identity, str] = {}
    for stage in stream.stages:
        asked = identity(stage)
        if asked not in key_of:
            objective = make_objective(stage.objective, stage.options)
            number = 1 + sum(other.name == objective.name for other in objectives.values())
            key_of[asked] = objective.name if number == 1 else f"{objective.name}-{number}"
            objectives[key_of[asked]] = objective
        keys.append(key_of[asked])
    return tuple(keys), objectives


def identity(owner: Stage | Column) -> Identity:
    """Returns what stages and columns of one task have in common: objective and options, defaults filled in.

    Raises:
        ConfigError: there is no such objective, or it has no such option.
    """
    asked = _Asked(owner.objective, repr(dict(owner.options)), owner.options)
    # A bare name is a module of the platform, which stays the same while Python runs. A module of somebody else's may
    # be loaded anew, with other defaults.
    return _identity(asked) if "." in owner.objective else _known_identity(asked)


@dataclass(frozen=True)
class _Asked:
    """An objective with its options as a key of the cache; the options may hold lists, so their text is compared."""

    objective: str
    options_text: str
    options: Mapping[str, Any] = field(compare=False)


def _identity(asked: _Asked) -> Identity:
    objective = make_objective(asked.objective, asked.options)
    kind = type(objective)
    return f"{kind.__module__}.{kind.__qualname__}", repr(sorted(objective.options().items()))


# To build an objective reads signatures; a stream of many stages asks for the same few again and again.
_known_identity = lru_cache(maxsize=256)(_identity)


def foreign_columns(stream: Stream) -> list[str]:
    """Returns a fault for every column whose objective no stage has, as no head is trained for it."""
    known = {identity(stage) for stage in stream.stages}
    return [
        f"column {column.name!r}: its objective must be that of a stage, options included, got {column.objective} "
        f"{dict(column.options)}"
        for column in stream.columns
        if identity(column) not in known
    ]
