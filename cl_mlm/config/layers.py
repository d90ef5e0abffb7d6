"""Reads the layers of a config, files, arms and `key=value` overrides, and merges them; nothing is checked here."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from cl_mlm.config.shipped import config_file
from cl_mlm.config.stage_settings import with_stage_keys
from cl_mlm.config.undecodable import unveiled, veiled, veiled_yaml
from cl_mlm.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# Arms name variants of one experiment: a comparison is then one file and one command, and settings of one arm cannot
# leak into another. The resolved config of a run does not contain them.
ARMS = "arms"
DATA_FILES = (".csv", ".tsv", ".jsonl", ".parquet", ".txt", ".xlsx", ".xls")


class Whole(dict[str, Any]):
    """A mapping that takes the place of what the layers below have under its key, instead of being merged into it."""


def read_layer(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a YAML file (or a mapping); interpolations such as `${seed}` are left as they are written.

    Args:
        source: a file, the bare name of a shipped config (`quickstart`), or a mapping.

    Raises:
        ConfigError: there is no such file, it is not valid YAML (with the line), or it holds no mapping.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not isinstance(source, Mapping):
        source = config_file(source)
        if source.suffix.lower() in DATA_FILES:
            raise ConfigError(
                f"config: must be a YAML file of settings, got the data file {str(source)!r}; `cl-mlm init own_data` "
                "writes a config, whose stream.path can name it"
            )
    try:
        node = OmegaConf.create(dict(source)) if isinstance(source, Mapping) else _node(source)
        values = unveiled(OmegaConf.to_container(node, resolve=False))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else str(source)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    except (OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{source}: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: must be a mapping of settings, got {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _node(path: Path) -> Any:
    """Returns a YAML file as OmegaConf reads it; one with bytes of a path that is no text as `undecodable` veils it."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        return OmegaConf.load(path)
    except YAMLError:
        text = path.read_text(encoding="utf-8")
        if (veiled_text := veiled_yaml(text)) == text:
            raise
        return OmegaConf.create(veiled_text)


def read_override(text: str) -> dict[str, Any]:
    """Returns one `key.path=value` as a nested mapping; the value is read as YAML.

    A value that is a mapping itself is `Whole`: single keys are set by key paths (`stream.path=my_folder`), so what is
    given in braces is meant as all that there is.

    Raises:
        ConfigError: there is no `=`, or the value is not valid YAML.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text}: an override is key=value, such as training.epochs=5")
    try:
        values = unveiled(OmegaConf.to_container(OmegaConf.from_dotlist([veiled(text)]), resolve=False))
        path = unveiled(OmegaConf.to_container(OmegaConf.from_dotlist([f"{veiled(key)}=0"])))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{text}: not a valid override: {str(error).splitlines()[0]}") from error
    layer: dict[str, Any] = _with_whole(values, path)
    return layer


def _with_whole(values: Any, path: Any) -> Any:
    """Returns nested `values` with the mapping at the end of a key path as `Whole`.

    Args:
        values: nested mappings, one key each along the path.
        path: the same mappings with a plain value at the end.
    """
    if isinstance(path, Mapping):
        return {key: _with_whole(value, path[key]) for key, value in values.items()}
    return Whole(values) if isinstance(values, Mapping) else values


def arm_layers(layer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the settings of every arm that a config file declares.

    Raises:
        ConfigError: `arms` is no mapping from names to mappings.
    """
    arms = layer.get(ARMS) or {}
    if not isinstance(arms, Mapping) or not all(isinstance(value or {}, Mapping) for value in arms.values()):
        raise ConfigError(f"arms: must be a mapping from a name to settings, got {arms!r}")
    return {str(name): dict(value or {}) for name, value in arms.items()}


def merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with `layer` on top; neither is mutated.

    Sections are merged key by key, except that a layer replaces `stream` or `model` as a whole where it gives a bare
    name or names another stream or model, and `strategies` where it gives a list or a bare name; a mapping that is
    `Whole` replaces any section.
    """
    merged = deepcopy(dict(base))
    for key, given in layer.items():
        value = with_stage_keys(given) if key == "training" and isinstance(given, Mapping) else given
        old = merged.get(key)
        if key in ("stream", "model") and isinstance(value, str):
            merged[key] = {"name": value}
        elif key == "strategies" and not isinstance(value, Mapping):
            merged[key] = _strategy_section(value)
        elif isinstance(value, Whole):
            _refuse_nameless(key, value, old)
            merged[key] = deepcopy(dict(value))
        elif key in ("stream", "model") and isinstance(value, Mapping) and value.get("name", _name(old)) != _name(old):
            # The old section's arguments are those of another factory.
            merged[key] = deepcopy(dict(value))
        elif isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = deepcopy(value)
    return merged


def _refuse_nameless(key: str, value: Whole, old: Any) -> None:
    """Refuses a whole `stream` or `model` that does not say which: it would silently be another one, or none.

    Raises:
        ConfigError: with the way to set single keys.
    """
    if key in ("stream", "model") and "name" not in value and _name(old) is not None:
        single = next(iter(value), "name")
        raise ConfigError(
            f"{key}: a mapping replaces the whole section, so it must have a name, got {dict(value)}; "
            f"single keys are set by {key}.{single}=..."
        )


def _name(section: Any) -> Any:
    return section.get("name") if isinstance(section, Mapping) else None


def _strategy_section(value: Any) -> Any:
    """Returns a bare name or a list of names as a mapping from names to no arguments; anything else as it is."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, list) and len(set(map(str, value))) < len(value):
        raise ConfigError(f"strategies: must name each strategy once, got {value}")
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: {} for name in value}
    return value
