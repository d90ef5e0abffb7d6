"""Training settings of single stages (`training.stages`): their keys become texts, their values are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from cl_mlm.config.checking import check, unknown_keys
from cl_mlm.config.schema import STAGE_SETTINGS, TrainingConfig
from cl_mlm.errors import ConfigError


def with_stage_keys(training: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a section `training` whose `stages` have texts as keys: YAML reads an index as a number.

    Raises:
        ConfigError: two keys are one text.
    """
    stages = training.get("stages")
    if not isinstance(stages, Mapping):
        return training
    twice = [str(key) for key in stages if not isinstance(key, str) and str(key) in stages]
    if twice:
        raise ConfigError(
            [f"training.stages.{key}: must be given once, got it as a number and as a text" for key in twice]
        )
    renamed = {str(key): own for key, own in stages.items()}
    # What takes the place of all that is below goes on doing so.
    return {**training, "stages": type(stages)(renamed) if isinstance(stages, dict) else renamed}


def checked_stages(stages: Any, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Returns the settings of every stage that has some, each in its type; adds faults to `problems`.

    Whether there are such stages is known only when the stream is.
    """
    hints = get_type_hints(TrainingConfig)
    known = {field.name: field for field in fields(TrainingConfig) if field.name in STAGE_SETTINGS}
    checked: dict[str, dict[str, Any]] = {}
    if not isinstance(stages, Mapping):
        return checked  # told with the section
    for stage, own in stages.items():
        path = f"training.stages.{stage}"
        if not isinstance(own, Mapping):
            problems.append(f"{path}: must be a mapping of {', '.join(STAGE_SETTINGS)}, got {own!r}")
            continue
        unknown_keys(path, own, {name: known[name] for name in STAGE_SETTINGS}, problems)
        checked[stage] = {
            name: check(f"{path}.{name}", own[name], hints[name], known[name].metadata, problems)
            for name in STAGE_SETTINGS
            if name in own
        }
        if own.get("epochs") is not None and own.get("steps") is not None:
            problems.append(f"{path}: must have epochs or steps, which replaces epochs, got {dict(own)}")
    return {stage: own for stage, own in checked.items() if own}
