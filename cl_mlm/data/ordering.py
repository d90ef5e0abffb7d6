"""Puts labels and stages in order: which labels each stage brings, and which stage comes when."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cl_mlm.errors import ConfigError, nearest
from cl_mlm.randomness import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cl_mlm.stream import Stream


def stage_order(values: Sequence[str], order_seed: int | None) -> list[str]:
    """Returns `values` shuffled by `order_seed`; None: in their order."""
    if order_seed is None:
        return list(values)
    return [values[int(i)] for i in numpy_generator(order_seed, "stage order").permutation(len(values))]


def cut_labels(
    labels: Sequence[str],
    per_stage: int | None,
    groups: Sequence[Sequence[str | int]] | None,
    order_seed: int | None,
    kind: str = "label",
    *,
    uneven: bool | None = None,
) -> list[list[str]]:
    """Returns the labels of every stage: `per_stage` of them in the order of `order_seed`, or `groups` as given.

    Args:
        labels: all, sorted.
        per_stage: how many a stage brings; None where `groups` is given.
        groups: the labels of every stage; whole numbers are labels of their digits.
        order_seed: shuffles the labels; not used with `groups`.
        kind: what a label is called in messages; its plural begins the name of the key `..._per_stage`.
        uneven: whether the last stage may have fewer; None: no, and the stream has no such key.

    Raises:
        ConfigError: the labels cannot be cut like that.
    """
    key = f"stream.{kind}s_per_stage"
    if groups is not None:
        if per_stage is not None:
            raise ConfigError(f"{key}: must be null where stream.groups is given, got {per_stage}")
        empty = [
            f"stream.groups[{i}]: must name at least one {kind}, got []" for i, group in enumerate(groups) if not group
        ]
        if empty:
            raise ConfigError(empty)
        named = [[str(label) for label in group] for group in groups]
        check_once("stream.groups", kind, [label for group in named for label in group], labels)
        return named
    if per_stage is None:
        raise ConfigError(f"{key}: needed where stream.groups is not given, got None")
    if uneven and not 1 <= per_stage <= len(labels):
        raise ConfigError(f"{key}: must be 1 to {len(labels)}, as there are so many {kind}s, got {per_stage}")
    if not uneven and (per_stage < 1 or len(labels) % per_stage):
        divisors = ", ".join(str(n) for n in range(1, len(labels) + 1) if len(labels) % n == 0)
        out = f"; uneven: true leaves a smaller last stage, groups (of the stream files) names the {kind}s of each"
        raise ConfigError(
            f"{key}: must divide {len(labels)}, got {per_stage}; allowed: {divisors}{'' if uneven is None else out}"
        )
    ordered = stage_order(labels, order_seed)
    return [ordered[i : i + per_stage] for i in range(0, len(ordered), per_stage)]


def reordered(stream: Stream, order: Sequence[str | int]) -> Stream:
    """Returns the stream with its stages in another order: `order` names each once, by name or by index from 0.

    Raises:
        ConfigError: `order` is no permutation of the stages.
    """
    names = [stage.name for stage in stream.stages]
    last = len(names) - 1
    problems = [
        f"stream.order: a stage's index must be 0 to {last}, got {item}; a name that is a number needs quotes"
        for item in order
        if isinstance(item, int) and not 0 <= item <= last
    ]
    if problems:
        raise ConfigError(problems)
    named = [names[item] if isinstance(item, int) else item for item in order]
    check_once("stream.order", "stage", named, names)
    return replace(stream, stages=tuple(stream.stages[names.index(name)] for name in named))


def check_once(key: str, what: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Refuses a list that does not name everything of `known` once; `what` is what messages call its items.

    Raises:
        ConfigError: every name that is unknown, given twice, or missing.
    """
    has_zeros = any(name.isdigit() and name.startswith("0") for name in known)  # such as 010, which YAML reads as 8
    problems = [
        f"{key}: no {what} is called {name!r}{nearest(name, known)}"
        + ("; quote names that begin with 0, as in '010': YAML reads a number" if has_zeros and name.isdigit() else "")
        for name in dict.fromkeys(given)
        if name not in known
    ]
    twice = sorted({name for name in given if given.count(name) > 1})
    missing = [name for name in known if name not in given]
    if twice:
        problems.append(f"{key}: must name every {what} once, got twice: {', '.join(twice)}")
    if missing:
        problems.append(f"{key}: must name every {what} once, missing: {', '.join(missing)}")
    if problems:
        raise ConfigError(problems)
