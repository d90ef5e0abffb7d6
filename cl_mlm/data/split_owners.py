"""Stages and columns of a stream as parts that own rows, for work that is the same on every split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cl_mlm.stream import SPLITS, Column, Stage, Stream

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Part:
    """A stage with its own column, or one of the two alone.

    Attributes:
        kind: `stage`, `column` or `probe`, as messages call it.
        splits: those whose rows belong to it.
    """

    kind: str
    owner: Stage | Column
    splits: Mapping[str, Dataset]

    @property
    def where(self) -> str:
        """How messages begin."""
        return f"{self.kind} {self.owner.name!r}"


def parts_of(stream: Stream) -> list[Part]:
    """Returns every split of the stream once: stages in order, then columns that are not a stage's own, then probes."""
    names = SPLITS[:1] if stream.given_columns else SPLITS
    found = [Part("stage", stage, {name: stage.split(name) for name in names}) for stage in stream.stages]
    for kind, columns in (("column", stream.given_columns), ("probe", stream.probes)):
        found += [Part(kind, column, {name: column.split(name) for name in SPLITS[1:]}) for column in columns]
    return found


def with_splits(stream: Stream, splits: list[dict[str, Dataset]], **changes: Any) -> Stream:
    """Returns the stream with other rows: `splits` holds those of every part of `parts_of`, in that order.

    `changes` are made to every stage and column alike.
    """
    made: dict[str, list[Any]] = {"stage": [], "column": [], "probe": []}
    for part, rows in zip(parts_of(stream), splits, strict=True):
        made[part.kind].append(replace(part.owner, **rows, **changes))
    return replace(
        stream, stages=tuple(made["stage"]), given_columns=tuple(made["column"]), probes=tuple(made["probe"])
    )
