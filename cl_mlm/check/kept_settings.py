"""Says whether `config.yaml` and `versions.json` of a run folder are those that the run was started with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cl_mlm.config.layers import read_layer
from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import BESIDE_IDENTITY
from cl_mlm.errors import ConfigError
from cl_mlm.tracking.credentials import cleaned
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cl_mlm.check.findings import Findings
    from cl_mlm.check.kept_journal import KeptJournal

BACK = "bring it back as it was; or `cl-mlm run` with the config that the run was started with writes it again"
KINDS = (("version", "versions"), ("hardware", "hardware"))  # of a tag, and the section of versions.json


def check_config(found: Findings, path: Path, journal: KeptJournal) -> dict[str, Any]:
    """Adds whether a run's config is the one it was started with; returns its settings by key path.

    The journal holds the settings of the start, and the folder's name a hash of them. Code that is out of reach here,
    such as a class of a notebook, is no fault of the folder.
    """
    if not path.is_file():
        found.add("config", "", ["config.yaml: is missing"], BACK)
        return dict(journal.params)
    try:
        layer = read_layer(path)
        settings = _flat(layer)
    except (ConfigError, RecursionError) as error:
        fault = str(error).replace(str(path), "config.yaml")
        found.add("config", "", [fault if fault.startswith("config.yaml") else f"config.yaml: {fault}"], BACK)
        return dict(journal.params)
    faults = [*_edited(settings, journal)] if journal.params else []
    if _names_own_code(layer):
        # A folder may come from somebody else: loading the config would run the code that it names.
        found.notes.append("config.yaml names code of its own, so it is compared with the journal and not loaded")
    elif not faults:
        faults = _unlike_name(found, path, is_known=bool(journal.params))
    way_out = f"set it back; or `{shell_line('cl-mlm', 'run', path)}` makes a run of its own with what it says now"
    found.add("config", f"{len(settings)} settings", faults, way_out)
    return settings


def _unlike_name(found: Findings, path: Path, *, is_known: bool) -> list[str]:
    """Returns the fault of a config that cannot be loaded, or whose hash the folder's name does not have.

    Where the journal knows the settings (`is_known`), it is a note.
    """
    folder = path.parent.name
    try:
        name = load_config(path).run_name
    except ConfigError as error:
        fault = f"config.yaml: cannot be loaded: {error.problems[0]}"
    else:
        if folder == name or folder.startswith(f"{name}-"):
            return []
        fault = f"config.yaml: belongs to a folder {name}: it was edited, or the folder renamed"
    if is_known:
        found.notes.append(f"{fault}; its settings are those of the journal")
        return []
    return [fault]


def _names_own_code(layer: Mapping[str, Any]) -> bool:
    """Returns whether a config names modules that are not the project's."""

    def names(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from (item for key, item in value.items() if key in ("name", "objective"))
            for item in value.values():
                yield from names(item)
        elif isinstance(value, list):
            for item in value:
                yield from names(item)

    model = {"model"}  # a model's name may have a dot, and is no code
    found = [*names({key: value for key, value in layer.items() if key not in model})]
    strategies = layer.get("strategies")
    found += [*strategies] if isinstance(strategies, dict | list) else [strategies]
    return bool(layer.get("code")) or any("." in name for name in found if isinstance(name, str))


def check_versions(found: Findings, path: Path, journal: KeptJournal) -> None:
    """Adds whether `versions.json` can be read, and names the versions that the journal names."""
    faults: list[str] = []
    versions: Mapping[str, Any] = {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        versions = {f"{prefix}/{name}": value for prefix, key in KINDS for name, value in content[key].items()}
        tags = journal.tags.get(None, {})
        recorded = {key: value for key, value in tags.items() if key.startswith(tuple(f"{kind}/" for kind, _ in KINDS))}
        faults = [
            f"versions.json: {name} must be {value!r} as in the journal, got {versions.get(name)!r}"
            for name, value in recorded.items()
            if str(versions.get(name)) != value
        ]
    except FileNotFoundError:
        faults = ["versions.json: is missing"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        faults = [f"versions.json: is damaged: {type(error).__name__}: {error}"]
    found.add("versions", f"{len(versions)} entries", faults, found.again())


def _edited(settings: Mapping[str, Any], journal: KeptJournal) -> Iterator[str]:
    """Yields the settings that are not those of the start; those that change no result may be others."""
    is_resumed_elsewhere = "inexact" in journal.tags.get(None, {})  # then the file knows the keys of another version
    for key in dict.fromkeys([*journal.params, *settings]):
        then, now = journal.params.get(key, "not set"), settings.get(key, "not set")
        if key.partition(".")[0] in BESIDE_IDENTITY and now != "not set":
            continue
        if then != now and not (is_resumed_elsewhere and "not set" in (then, now)):
            yield f"config.yaml: {key} was {then!r} at the start, got {now!r}"


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings by key path, in the form in which the journal has them."""
    flat: dict[str, Any] = {}

    def add(path: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                add(f"{path}.{key}" if path else str(key), item)
        else:
            flat[path] = value if value != {} else "{}"

    add("", dict(values))
    return dict(cleaned(json.loads(json.dumps(flat, default=str), parse_constant=str)))
