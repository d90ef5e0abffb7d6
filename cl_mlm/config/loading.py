"""From YAML files and `key=value` overrides to a `Config`: schema < file < arm < command line, every error at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cl_mlm.config.checking import build, check, defaults, describe, unknown_keys
from cl_mlm.config.components import find, parameters
from cl_mlm.config.schema import Config, Overlap, PromptingConfig
from cl_mlm.config.stream_keys import SECTION, prefixed, take_keys
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.strategy import Strategy

ARMS = "arms"


def read_layer(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a YAML file (or a mapping), interpolations as they are written.

    Raises:
        ConfigError: no such file, broken YAML (with line), or no mapping.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not isinstance(source, Mapping) and not Path(source).is_file():
        raise ConfigError(f"config: no such file: {source}")
    try:
        node = OmegaConf.create(dict(source)) if isinstance(source, Mapping) else OmegaConf.load(source)
        values = OmegaConf.to_container(node, resolve=False)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else str(source)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    except (OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{source}: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: must be a mapping of settings, got {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def read_override(text: str) -> dict[str, Any]:
    """Returns the nested mapping of one `key.path=value`; the value is read as YAML.

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
        values = OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=False)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{text}: not a valid override: {str(error).splitlines()[0]}") from error
    return dict(values)  # type: ignore[arg-type]


def load_config(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str | Mapping[str, Any]] = (),
    arm: str | None = None,
    needs_stream: bool = True,
) -> Config:
    """Returns the config that `source`, one of its arms, and the overrides give together.

    `needs_stream=False` leaves the stream section unread: the stream is handed over as an object.

    Raises:
        ConfigError: every fault found, each by key path.
    """
    layer = read_layer(source)
    arms = arm_layers(layer)
    layer.pop(ARMS, None)
    values = merge(defaults(Config), layer)
    if arm is not None:
        if arm not in arms:
            raise ConfigError(
                f"arms: no arm is called {arm!r}{nearest(arm, arms)}; allowed: {', '.join(arms) or 'none'}"
            )
        values = merge(values, arms[arm])
    problems: list[str] = []
    for override in overrides:
        try:
            values = merge(values, read_override(override) if isinstance(override, str) else override)
        except ConfigError as error:
            problems += error.problems
    config = _validated(_resolved(values, problems), problems, needs_stream)
    if problems:
        raise ConfigError(problems)
    return config


def _resolved(values: dict[str, Any], problems: Sequence[str]) -> dict[str, Any]:
    """Returns `values` with interpolations replaced; last of all, so that they show what the command line has set.

    Raises:
        ConfigError: an interpolation leads nowhere or calls a resolver; what was found before (`problems`) is told with
            it.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    # `${oc.env:...}` would carry a secret of the environment into everything that a run writes and sends.
    calls = [
        f"{path}: an interpolation may name another setting only, such as ${{seed}}, got {text!r}"
        for path, text in _texts(values)
        if _calls_resolver(text)
    ]
    if calls:
        raise ConfigError([*problems, *calls])
    try:
        return dict(OmegaConf.to_container(OmegaConf.create(values), resolve=True))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or "config"
        raise ConfigError([*problems, f"{where}: {str(error).splitlines()[0]}"]) from error


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields every text in nested values with its key path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _texts(item, f"{path}[{i}]")


def _calls_resolver(text: str) -> bool:
    """Says whether a `:` stands within an interpolation, however deep: that is how OmegaConf's resolvers are called."""
    depth = 0
    for i, character in enumerate(text):
        if text.startswith("${", i):
            depth += 1
        elif character == "}" and depth:
            depth -= 1
        elif character == ":" and depth:
            return True
    return False


def arm_layers(layer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the named variants that a config file declares under `arms`."""
    arms = layer.get(ARMS) or {}
    if not isinstance(arms, Mapping) or not all(isinstance(value or {}, Mapping) for value in arms.values()):
        raise ConfigError(f"arms: must be a mapping from a name to settings, got {arms!r}")
    return {str(name): dict(value or {}) for name, value in arms.items()}


def merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with `layer` on top; nothing is mutated.

    A bare name for `stream` or `model`, another name there, or a list for `strategies`, replaces the section.
    """
    merged = deepcopy(dict(base))
    for key, value in layer.items():
        old = merged.get(key)
        if key in ("stream", "model") and isinstance(value, str):
            merged[key] = {"name": value}
        elif key == "strategies" and not isinstance(value, Mapping):
            merged[key] = _strategy_section(value)
        elif key in ("stream", "model") and isinstance(value, Mapping) and value.get("name", _name(old)) != _name(old):
            merged[key] = deepcopy(dict(value))
        elif isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = deepcopy(value)
    return merged


def _name(section: Any) -> Any:
    return section.get("name") if isinstance(section, Mapping) else None


def _strategy_section(value: Any) -> Any:
    if value is None:
        return {}
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, list) and len(set(map(str, value))) < len(value):
        raise ConfigError(f"strategies: must name each strategy once, got {value}")
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: {} for name in value}
    return value


def _validated(values: dict[str, Any], problems: list[str], needs_stream: bool) -> Config:
    strategies = values.get("strategies")
    if isinstance(strategies, Mapping):
        values["strategies"] = {
            name: {} if args is None else args for name, args in strategies.items() if name != "naive" or args
        }
    config: Config = build("", values, Config, problems)
    sections = config.strategies.values() if isinstance(config.strategies, dict) else [None]
    if not config.evaluation.splits:
        problems.append("evaluation.splits: must name at least one of validation, test, got []")
    if not isinstance(config.stream, dict) or not all(isinstance(arguments, dict) for arguments in sections):
        return config
    stream = (_validated_stream if needs_stream else _beside_object)(config.stream, problems)
    made = {name: _validated_strategy(name, args, problems) for name, args in config.strategies.items()}
    kept = {f.name: getattr(config, f.name) for f in fields(Config)}
    prompting = _validated_prompting(config.prompting, problems)
    return Config(**{**kept, "stream": stream, "strategies": made, "prompting": prompting})


def _validated_prompting(section: PromptingConfig | None, problems: list[str]) -> PromptingConfig | None:
    """Returns the section with a complete `data`; labels that YAML reads as numbers are texts again."""
    if not isinstance(section, PromptingConfig):
        return section
    data = {"name": section.data} if isinstance(section.data, str) else section.data
    if isinstance(data, dict):
        found: list[str] = []
        data = _validated_stream(data, found)
        problems += [f"prompting.data{line.removeprefix('stream')}" for line in found]
    named = section.verbaliser
    words = {str(label): value for label, value in named.items()} if isinstance(named, dict) else named
    return replace(section, data=data, verbaliser=words)


def _validated_stream(section: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    arguments = dict(section)
    name = arguments.pop("name", None)
    handling = _handling(arguments, problems)
    if not isinstance(name, str):
        problems.append(f"stream.name: must name a stream, got {name!r}; see `cl-mlm list streams`")
        return section
    found = _component("stream", name, "stream.name", problems)
    if found is None:
        return section
    own = take_keys(arguments, parameters(found), problems)
    if "probes" in own:
        own["probes"] = {name: _validated_probe(name, probe, problems) for name, probe in own["probes"].items()}
    complete = _arguments("stream", arguments, found, problems, SECTION)
    return {"name": name, **handling, **complete, **own}


def _handling(arguments: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Returns, checked, what the gate does to a stream whatever it is; takes it out of `arguments`."""
    overlap = check("stream.overlap", arguments.pop("overlap", "error"), Overlap, {}, problems)
    first_stages = check("stream.first_stages", arguments.pop("first_stages", None), int | None, {"min": 1}, problems)
    return {"overlap": overlap, "first_stages": first_stages}


def _beside_object(section: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Returns what is read of a section beside a stream object: what is done to any stream."""
    arguments = dict(section)
    handling = _handling(arguments, problems)
    writes = check("stream.as_text", arguments.get("as_text", False), bool, {}, problems)
    # Named only where it is set, as in `section.take_keys`.
    return {**handling, **({"as_text": True} if writes else {})}


def _validated_probe(name: str, probe: Any, problems: list[str]) -> Any:
    """Returns the resolved section of a probe, or the path of its folder; faults get its key path."""
    if isinstance(probe, str):
        return probe
    if not isinstance(probe, Mapping):
        problems.append(f"stream.probes.{name}: must be a path or a stream section, got {probe!r}")
        return probe
    found: list[str] = []
    section = _validated_stream({str(key): value for key, value in probe.items()}, found)
    for key in ("probes", "overlap", "scenario_seed"):
        if key in (probe if key == "overlap" else section):
            shown = "scenario" if key == "scenario_seed" else key
            found.append(f"stream.{shown}: must not be set for a probe, got {probe.get(shown)!r}")
    problems += [prefixed(fault, name) for fault in found]
    return {key: value for key, value in section.items() if key != "overlap"}


def _validated_strategy(name: str, arguments: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    path = f"strategies.{name}"
    found = _component("strategy", name, path, problems)
    if found is None:
        return arguments
    before = len(problems)
    complete = _arguments(path, arguments, found, problems)
    if len(problems) == before:
        strategy: Strategy = found(**complete)
        problems += [f"{path}.{fault}" for fault in strategy.validate()]
    return complete


def _component(kind: str, name: str, path: str, problems: list[str]) -> Any:
    try:
        return find(kind, name)
    except ConfigError as error:
        problems += [f"{path}: {fault.partition(': ')[2]}" for fault in error.problems]
        return None


def _arguments(
    path: str, given: Mapping[str, Any], component: Any, problems: list[str], beside: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns all arguments of `component`, defaults filled in, each checked against its annotation.

    `beside` are keys that may stand beside them, and have been taken out of `given`.
    """
    known = parameters(component)
    unknown_keys(path, given, {**known, **dict.fromkeys(beside)}, problems)
    complete = {}
    for name, parameter in known.items():
        if name in given:
            complete[name] = check(f"{path}.{name}", given[name], parameter.annotation, {}, problems)
        elif parameter.default is parameter.empty:
            problems.append(f"{path}.{name}: is needed ({describe(parameter.annotation)})")
        else:
            complete[name] = parameter.default
    return complete
