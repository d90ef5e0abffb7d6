"""Tells runs apart by their settings: in which keys they differ, and labels that say so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cl_mlm.results.runs import RunSummary


def unique_labels(groups: Sequence[tuple[RunSummary, ...]]) -> list[str]:
    """Returns a label for every group; to equal labels the settings are added in which their groups differ."""
    labels = [group[0].label for group in groups]
    unique = list(labels)
    for label in {label for label in labels if labels.count(label) > 1}:
        places = [k for k, other in enumerate(labels) if other == label]
        settings = [dict(_flatten(groups[k][0].settings)) for k in places]
        keys = _unequal_keys(settings)
        short = _shortest_unique(keys)
        for k, values in zip(places, settings, strict=True):
            unique[k] = f"{label} ({', '.join(f'{short[key]}={values[key]}' for key in keys if key in values)})"
    return unique


def differing(groups: Sequence[Sequence[RunSummary]]) -> list[str]:
    """Returns the dotted keys of the settings in which the rows of a table differ, those of strategies left out."""
    return _unequal_keys(
        [
            dict(_flatten({key: value for key, value in group[0].settings.items() if key != "strategies"}))
            for group in groups
        ]
    )


def _unequal_keys(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the keys that do not have one value in all flat settings; a missing key counts as a value."""
    keys = dict.fromkeys(key for values in settings for key in values)
    return [key for key in keys if len({values.get(key) for values in settings}) > 1]


def _flatten(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields `(dotted key, value as text)` for every leaf of nested settings."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _shortest_unique(keys: Sequence[str]) -> dict[str, str]:
    """Returns the last part of every dotted key, or the whole key if another key has the same last part."""
    last_parts = [key.rpartition(".")[2] for key in keys]
    return {key: last if last_parts.count(last) == 1 else key for key, last in zip(keys, last_parts, strict=True)}
