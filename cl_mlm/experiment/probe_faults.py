"""Refuses probes that cannot be measured, before a model is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cl_mlm.errors import ConfigError, UnreachableModelError
from cl_mlm.experiment.harness import task_faults
from cl_mlm.models.loading import model_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cl_mlm.config.schema import Config
    from cl_mlm.objective import Head, Objective
    from cl_mlm.stream import Stream

NEXT_TOKEN: tuple[Head, ...] = ("causal", "seq2seq")  # models that say how likely the next token is


def probe_faults(config: Config, stream: Stream, objectives: Sequence[Objective]) -> list[str]:
    """Returns why the section `probes` cannot be measured; nothing is loaded but the model's config."""
    section = config.probes
    if section is None:
        return []
    if section.kl is None and section.lm_eval is None:
        return ["probes: must have kl or lm_eval, got neither"]
    other = [objective.name for objective in objectives if not {*objective.heads} <= {*NEXT_TOKEN}]
    if other:
        return [
            f"probes: must be null where a model does not write or predict the next token, as with objective "
            f"{other[0]}; got {', '.join(name for name in ('kl', 'lm_eval') if getattr(section, name) is not None)}"
        ]
    faults = []
    if section.kl is not None and section.kl.text is not None:
        faults += _text_faults(config, stream, objectives[0], section.kl.text)
    if section.lm_eval is not None:
        if find_spec("lm_eval") is None:
            faults.append(
                "probes.lm_eval: needs lm-eval, which is not installed: pip install 'cl-mlm[lm-eval]'; "
                f"got tasks {section.lm_eval.tasks}"
            )
        else:
            faults += task_faults(section.lm_eval)
    return faults


def _text_faults(config: Config, stream: Stream, objective: Objective, path: str) -> list[str]:
    try:
        if len(Path(path).read_text(encoding="utf-8").split()) < 2:
            return [f"probes.kl.text: must be a file of text, got {path!r}, which has fewer than two words"]
    except (OSError, UnicodeError, ValueError) as error:
        return [f"probes.kl.text: must be a UTF-8 file of text, got {path!r}: {error}"]
    try:
        kind, _ = model_settings(config.model, stream.labels, config.training.max_length, objective)
    except (ConfigError, UnreachableModelError):  # told elsewhere
        return []
    if kind != "causal":
        return [f"probes.kl.text: must be null for an encoder-decoder, which reads no text alone; got {path!r}"]
    return []
