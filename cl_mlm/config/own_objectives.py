"""Watches an objective of a user's own: what its methods raise is told with its place, and what they return is checked.

An objective is called from every room; so its methods are wrapped once, where it is made.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from numbers import Real
from typing import Any, Final, get_args

from cl_mlm.batch import Batch, Predictions, Sites
from cl_mlm.errors import ConfigError
from cl_mlm.objective import Head, Objective
from cl_mlm.own_code import OwnCode, broken, label_of

KIND = "objective"
METHODS: Final = [name for name, value in vars(Objective).items() if inspect.isfunction(value) and name[0] != "_"]
TEXTS: Final = ("columns", "reference_columns", "text_columns", "heads")  # attributes that are tuples of texts


def watched(objective: Objective) -> Objective:
    """Returns the objective, its methods wrapped; one of the project itself stays as it is.

    Raises:
        ConfigError: an attribute of its class is of another type than it must be.
    """
    kind = type(objective)
    if kind.__module__.rpartition(".")[0] == "cl_mlm.objectives":
        return objective
    where = f"objective {label_of(kind)}"
    faults = [f"{where}: {name} must be a tuple of texts, got {getattr(kind, name)!r}" for name in _odd_texts(kind)]
    if not faults and (not kind.heads or not {*kind.heads} <= {*get_args(Head)}):
        faults.append(f"{where}: heads must be some of {', '.join(get_args(Head))}, got {kind.heads!r}")
    if faults:
        raise ConfigError(faults)
    for name in METHODS:
        setattr(objective, name, _wrapped(getattr(objective, name), f"{where}, method {name}", RULES.get(name)))
    return objective


def _odd_texts(kind: type[Objective]) -> list[str]:
    return [
        name
        for name in TEXTS
        if isinstance(getattr(kind, name), str)
        or not isinstance(getattr(kind, name), Sequence)
        or not all(isinstance(text, str) for text in getattr(kind, name))
    ]


def _wrapped(method: Callable[..., Any], who: str, rule: Callable[..., str | None] | None) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        with OwnCode(KIND, who):
            found = method(*arguments, **named)
        if isinstance(found, Iterator):
            return _guarded(found, who)
        fault = None if rule is None else rule(found, *arguments)
        if fault is not None:
            raise broken(KIND, who, fault, found)
        return found

    return call


def _guarded(found: Iterator[Any], who: str) -> Iterator[Any]:
    """Yields what a method of the user's yields; it works only now."""
    while True:
        with OwnCode(KIND, who):
            item = next(found, _guarded)
        if item is _guarded:
            return
        yield item


def _size(rows: Any) -> int:
    """Returns the number of rows of columns, or of a batch."""
    return len(next(iter(rows.values()), ())) if isinstance(rows, Mapping) else len(rows)


def _texts(found: Any, *_: Any) -> str | None:
    is_list = isinstance(found, list | tuple) and all(isinstance(text, str) for text in found)
    return None if is_list else "must be a list of texts"


def _one_a_row(found: Any, rows: Any, *_: Any) -> str | None:
    is_list = isinstance(found, Sequence) and not isinstance(found, str)
    return None if is_list and len(found) == _size(rows) else f"must be a list of {_size(rows)}, one for each row"


def _keys(found: Any, rows: Any, *_: Any) -> str | None:
    return _texts(found) or _one_a_row(found, rows)


def _labels(found: Any, rows: Any, *_: Any) -> str | None:
    fault = _one_a_row(found, rows)
    is_right = fault is None and all(isinstance(of_row, Sequence) and not isinstance(of_row, str) for of_row in found)
    return None if is_right else fault or "must be a list of labels for each row, not one label"


def _encoded(found: Any, rows: Any, *_: Any) -> str | None:
    rule = f"must be columns, each a list of {_size(rows)}, one value or list of tokens for each row"
    is_right = (
        isinstance(found, Mapping) and found and all(_one_a_row(values, rows) is None for values in found.values())
    )
    return None if is_right else rule


def _batch(found: Any, encoded: Any, ids: Any, *_: Any) -> str | None:
    is_right = isinstance(found, Batch) and len(found) == len(found.count) == len(ids)
    return None if is_right else f"must be a Batch with ids and count of {len(ids)} rows"


def _row_losses(found: Any, outputs: Any, batch: Batch) -> str | None:
    is_tensor = hasattr(found, "is_floating_point") and found.is_floating_point() and found.ndim == 1
    return None if is_tensor and len(found) == len(batch) else f"must be a float tensor of shape ({len(batch)},)"


def _predictions(found: Any, run: Any, batch: Batch) -> str | None:
    if not isinstance(found, Predictions) or len(found.values) != len(batch):
        return f"must be Predictions with {len(batch)} values, one for each row"
    known = [p for p in (found.probability, found.reference_probability) if p is not None]
    is_right = all(tuple(getattr(p, "shape", ())) == (len(batch),) for p in known)
    return None if is_right else f"probabilities must be tensors of shape ({len(batch)},)"


def _scores(found: Any, *_: Any) -> str | None:
    is_right = isinstance(found, Mapping) and all(
        isinstance(name, str) and isinstance(value, Real) for name, value in found.items()
    )
    if not is_right or "score" not in found:
        return "must be numbers by name, `score` among them"
    score = float(found["score"])
    return None if math.isfinite(score) and 0 <= score <= 1 else "`score` must be in 0-1"


def _instance(found: Any, *_: Any, kind: type) -> str | None:
    return None if isinstance(found, kind) else f"must be {kind.__name__}"


RULES: Final[Mapping[str, Callable[..., str | None]]] = {
    **dict.fromkeys(("faults", "validate", "tokenizer_faults"), _texts),
    "classes": _texts,
    "key": _keys,
    "references": _one_a_row,
    "labels_of": _labels,
    "encode": _encoded,
    "collate": _batch,
    "varied": partial(_instance, kind=Batch),
    "loss": _row_losses,
    "sites": partial(_instance, kind=Sites),
    "predict": _predictions,
    "score": _scores,
}
