"""The tasks of a stream: which objectives its stages have, and which stages share one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cl_mlm.config.components import make_objective
from cl_mlm.stream import Column, Stage, Stream
from cl_mlm.task import LabelSpace, Task, Tasks

if TYPE_CHECKING:
    from cl_mlm.objective import Objective


def tasks_of(stream: Stream, objectives: Mapping[str, Objective] | None = None) -> Tasks:
    """Returns the tasks of a stream; `objectives`, by key, are used in place of new ones."""
    keys, made = objectives_of(stream)
    key_of = dict(zip(map(identity, stream.stages), keys, strict=True))
    made |= objectives or {}
    tasks = {}
    for key, objective in made.items():
        own_stages = tuple(j for j, name in enumerate(keys) if name == key)
        # A stage of another task brings none of this one's labels.
        stages = [s if j in own_stages else replace(s, labels=()) for j, s in enumerate(stream.stages)]
        labels = LabelSpace(replace(stream, stages=tuple(stages)), objective.classes)
        tasks[key] = Task(key, objective, labels, own_stages, tuple(stages[own_stages[0]].labels))
    return Tasks(tasks, keys, [key_of[identity(column)] for column in stream.columns])


def objectives_of(stream: Stream) -> tuple[tuple[str, ...], dict[str, Objective]]:
    """Returns the key of every stage's objective, and the objectives by key, in the order of the stages.

    Raises:
        ConfigError: there is no such objective, or it has no such option.
    """
    keys: list[str] = []
    found: dict[str, Objective] = {}
    known: dict[tuple[str, str], str] = {}
    for stage in stream.stages:
        same = identity(stage)
        if same not in known:
            made = make_objective(stage.objective, stage.options)
            number = 1 + sum(other.name == made.name for other in found.values())
            known[same] = made.name if number == 1 else f"{made.name}-{number}"
            found[known[same]] = made
        keys.append(known[same])
    return tuple(keys), found


def identity(part: Stage | Column) -> tuple[str, str]:
    """Returns what two stages or columns of one task have alike: the objective, and its options, defaults filled in.

    Raises:
        ConfigError: there is no such objective, or it has no such option.
    """
    made = make_objective(part.objective, part.options)
    return f"{type(made).__module__}.{type(made).__qualname__}", repr(sorted(made.options().items()))


def foreign_columns(stream: Stream) -> list[str]:
    """Returns a line for every column whose objective no stage has: there is no head for it."""
    known = {identity(stage) for stage in stream.stages}
    return [
        f"column {column.name!r}: its objective must be that of a stage, options included, got {column.objective} "
        f"{dict(column.options)}"
        for column in stream.columns
        if identity(column) not in known
    ]
