"""Merges the layers of a config (`layers.py`) into a checked `Config`.

Later layers win: defaults of the schema, file, arm of the file, command line. All faults are raised together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from cl_mlm.config.checking import build, check, defaults, describe, unknown_keys
from cl_mlm.config.components import find, make_strategy, parameters, told_faults
from cl_mlm.config.layers import ARMS, arm_layers, merge, read_layer, read_override
from cl_mlm.config.mode_rules import mode_faults
from cl_mlm.config.own_modules import find_own_modules
from cl_mlm.config.schema import Config, FinetuningConfig, PromptingConfig, file_name, mode_options
from cl_mlm.config.shipped import config_file
from cl_mlm.config.stage_settings import checked_stages
from cl_mlm.config.stream_keys import (
    LATER_ARGUMENTS,
    SECTION_KEYS,
    TEMPLATE_KEYS,
    prefixed,
    take_handling,
    take_keys,
    take_switches,
)
from cl_mlm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pathlib import Path


def load_config(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str | Mapping[str, Any]] = (),
    arm: str | None = None,
    needs_stream: bool = True,
) -> Config:
    """Returns the checked config of `source`, one of its arms and the overrides, merged in this order.

    Args:
        source: a YAML file, its content, or the bare name of a shipped config.
        overrides: `key.path=value`, whose value replaces what was there, also where it is a mapping; or mappings, which
            are merged as the file is.
        arm: one of the file's `arms`; None: none of them.
        needs_stream: False where the stream is handed over as an object: the section then holds only what is done to
            the stream.

    Raises:
        ConfigError: every fault found, each with its key path.
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
    values["arm"] = _arm_name(arm, arms, values["arm"], problems)
    values = _resolved(values, problems)
    try:
        folder = None if isinstance(source, Mapping) else config_file(source).parent
        code = find_own_modules(values, folder)
    except ConfigError as error:  # what the names mean is then not known
        raise ConfigError([*problems, *error.problems]) from error
    config = _validated(values, problems, needs_stream)
    if problems:
        raise ConfigError(problems)
    return replace(config, code=list(dict.fromkeys([*config.code, *code])))


def _arm_name(chosen: str | None, declared: Mapping[str, Any], given: Any, problems: list[str]) -> Any:
    """Returns the name of the arm: the chosen one, or what the key `arm` gives; adds faults to `problems`."""
    if declared and given is not None:
        # It would look as if the key chose an arm.
        problems.append(f"arm: must not be set where a config has `arms`; --arm chooses one of them, got {given!r}")
    name = given if chosen is None else chosen
    if isinstance(name, str) and not file_name(name):
        problems.append(f"arm: must hold a letter or a digit, for folders are named after it, got {name!r}")
    return name


def _resolved(values: dict[str, Any], problems: Sequence[str]) -> dict[str, Any]:
    """Returns `values` with interpolations replaced, after all layers are merged: they see what overrides have set.

    Raises:
        ConfigError: an interpolation leads nowhere or calls a resolver; `problems`, found earlier, come first.
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
    """Says whether a `:` stands inside an interpolation, at any depth: OmegaConf then calls a resolver."""
    depth = 0
    for i, character in enumerate(text):
        if text.startswith("${", i):
            depth += 1
        elif character == "}" and depth:
            depth -= 1
        elif character == ":" and depth:
            return True
    return False


def _validated(values: dict[str, Any], problems: list[str], needs_stream: bool) -> Config:
    """Returns the config of merged and resolved values, with all defaults filled in; adds faults to `problems`."""
    strategies = values.get("strategies")
    if isinstance(strategies, Mapping):
        # `naive` does nothing: a run that names it has the hash of one that names none. It takes no arguments; where
        # it is given some, it stays, so that they are refused.
        values["strategies"] = {
            name: {} if arguments is None else arguments
            for name, arguments in strategies.items()
            if name != "naive" or arguments
        }
    config: Config = build("", values, Config, problems)
    if not config.evaluation.splits:
        problems.append("evaluation.splits: must name at least one of validation, test, got []")
    sections: list[Any] = [config.stream]
    sections += config.strategies.values() if isinstance(config.strategies, dict) else [None]
    if not all(isinstance(section, dict) for section in sections):
        return config  # told by `build`
    stream = _validated_stream(config.stream, problems) if needs_stream else _beside_object(config.stream, problems)
    checked = {name: _validated_strategy(name, arguments, problems) for name, arguments in config.strategies.items()}
    prompting = _validated_prompting(config.prompting, problems)
    finetuning = _with_mode_options(config.finetuning, problems, is_quantised=config.model.quantization is not None)
    problems += mode_faults(finetuning, config.training)
    settings = {field.name: getattr(config, field.name) for field in fields(Config)}
    settings |= {"stream": stream, "strategies": checked, "prompting": prompting, "finetuning": finetuning}
    settings["training"] = replace(config.training, stages=checked_stages(config.training.stages, problems))
    return Config(**settings)


def _with_mode_options(section: FinetuningConfig, problems: list[str], *, is_quantised: bool) -> FinetuningConfig:
    """Returns the section with the defaults of its mode's options; refuses options of other modes."""
    found: dict[str, Any] = {}
    for option, modes in mode_options().items():
        value = getattr(section, option)
        if section.mode in modes:
            default = "adapter" if option == "export" and is_quantised else modes[section.mode]
            found[option] = default if value is None else value
        elif value is not None:
            problems.append(
                f"finetuning.{option}: belongs to mode {' and '.join(modes)}, got {value!r} with mode {section.mode}"
            )
    if found.get("export") in ("merged", "both"):
        if mode_options()["export"][section.mode] == "adapter":
            problems.append(
                f"finetuning.export: must be adapter in mode {section.mode}, whose adapters cannot be merged into the "
                f"weights, got {found['export']}"
            )
        found["export"] = "merged"  # a run goes on from its adapter, which lies with the merged weights anyway
    return replace(section, **found)


def _validated_prompting(section: PromptingConfig | None, problems: list[str]) -> PromptingConfig | None:
    """Returns the section with a complete `data`, and with labels that YAML has read as numbers as texts again."""
    if not isinstance(section, PromptingConfig):
        return section
    data = {"name": section.data} if isinstance(section.data, str) else section.data
    if isinstance(data, dict):
        faults: list[str] = []
        data = _validated_stream(data, faults)
        if "withhold" in data:
            withheld = data["withhold"]
            faults.append(f"stream.withhold: must not be set for prompts, which no strategy sees, got {withheld!r}")
        problems += [f"prompting.data{fault.removeprefix('stream')}" for fault in faults]
    verbaliser = section.verbaliser
    if isinstance(verbaliser, dict):
        verbaliser = {str(label): words for label, words in verbaliser.items()}
    return replace(section, data=data, verbaliser=verbaliser)


def _validated_stream(section: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Returns a stream section with all arguments of its factory; faults begin with `stream`."""
    arguments = dict(section)
    name = arguments.pop("name", None)
    handling = take_handling(arguments, problems)
    if not isinstance(name, str):
        problems.append(f"stream.name: must name a stream, got {name!r}; see `cl-mlm list streams`")
        return section
    if "fingerprint" in arguments:
        problems.append(
            f"stream: {name!r} was handed over from Python as an object, which no name finds; hand it over again: "
            "stream=... of cl_mlm.run and cl_mlm.prompt"
        )
        return section
    factory = _component("stream", name, "stream.name", problems)
    if factory is None:
        return section
    known = parameters(factory)
    common = take_keys(arguments, known, problems)
    if "probes" in common:
        common["probes"] = {
            probe: _validated_probe(probe, source, problems) for probe, source in common["probes"].items()
        }
    complete = _arguments("stream", arguments, factory, problems, SECTION_KEYS)
    for key in LATER_ARGUMENTS:
        if key in complete and complete[key] == known[key].default:
            del complete[key]
    return {"name": name, **handling, **complete, **common}


def _beside_object(section: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Returns the keys that are read beside a stream object: what is done to a stream, whoever has built it."""
    arguments = dict(section)
    return {**take_handling(arguments, problems), **take_switches(arguments, problems)}


def _validated_probe(name: str, source: Any, problems: list[str]) -> Any:
    """Returns the resolved section of a probe, or the path of its folder; faults get the probe's key path."""
    if isinstance(source, str):
        return source
    if not isinstance(source, Mapping):
        problems.append(f"stream.probes.{name}: must be a path or a stream section, got {source!r}")
        return source
    faults: list[str] = []
    section = _validated_stream({str(key): value for key, value in source.items()}, faults)
    is_set = {
        "probes": "probes" in section,
        "overlap": "overlap" in source,  # a resolved section always has it
        "scenario": "scenario_seed" in section,  # one that deals out training rows, of which a probe has none
        **{key: key in section for key in ("withhold", *TEMPLATE_KEYS)},  # the stream's templates are its probes', too
    }
    faults += [
        f"stream.{key}: must not be set for a probe, got {source.get(key)!r}" for key, given in is_set.items() if given
    ]
    problems += [prefixed(fault, name) for fault in faults]
    return {key: value for key, value in section.items() if key != "overlap"}


def _validated_strategy(name: str, arguments: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Returns all arguments of a strategy; where their types are right, the strategy itself checks their values."""
    path = f"strategies.{name}"
    strategy_class = _component("strategy", name, path, problems)
    if strategy_class is None:
        return arguments
    num_before = len(problems)
    complete = _arguments(path, arguments, strategy_class, problems)
    if len(problems) == num_before:
        strategy = make_strategy(name, complete)
        problems += [f"{path}.{fault}" for fault in told_faults(strategy, "validate")]
    return complete


def _component(kind: str, name: str, path: str, problems: list[str]) -> Any:
    """Returns the class or function called `name`; None, with its faults in `problems`, where there is none."""
    try:
        return find(kind, name)
    except ConfigError as error:
        problems += [f"{path}: {fault.partition(': ')[2]}" for fault in error.problems]
        return None


def _arguments(
    path: str, given: Mapping[str, Any], component: Any, problems: list[str], beside: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns all arguments of `component`, defaults filled in, each checked against its annotation.

    Args:
        path: key path of the section.
        given: what the section sets.
        component: a strategy, or the factory of a stream.
        problems: faults are added here.
        beside: further keys that the section may have, named among the allowed ones; already taken out of `given`.
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
