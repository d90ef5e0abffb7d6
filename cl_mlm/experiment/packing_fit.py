"""Says where rows cannot run packed (`training.pack`), before a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cl_mlm.data.tasks import tasks_of
from cl_mlm.errors import ConfigError, UnreachableModelError
from cl_mlm.models.loading import model_settings
from cl_mlm.models.packed_rows import FAMILIES

if TYPE_CHECKING:
    from cl_mlm.config.schema import Config
    from cl_mlm.stream import Stream
    from cl_mlm.task import Task

# Modes that put trained vectors in front of a sequence: of several rows in it, only the first would have them.
IN_FRONT: Final[tuple[str, ...]] = ("prompt", "p_tuning", "prefix")


def packing_faults(config: Config, stream: Stream) -> list[str]:
    """Returns why rows of this stream cannot run packed with this model; `[]` also where the model is out of reach."""
    if not config.training.pack:
        return []
    reasons = [reason for task in tasks_of(stream) if (reason := _reason(config, task))]
    if config.finetuning.mode in IN_FRONT:
        reasons.append(f"with finetuning.mode {config.finetuning.mode}, whose vectors stand in front of one row")
    return [f"training.pack: must be false {reason}; got true" for reason in dict.fromkeys(reasons)]


def _reason(config: Config, task: Task) -> str:
    """Returns why rows of a task cannot run packed, `for ...`; empty where they can."""
    objective = task.objective
    if objective.packs:
        return f"for objective {objective.name} with stream.options.pack, whose blocks are full"
    try:
        kind, settings = model_settings(config.model, task.labels.names, config.training.max_length, objective)
    except UnreachableModelError:  # told when it is loaded
        return ""
    except ConfigError:  # told by who asks for the model's form
        return ""
    if not objective.packable or kind != "causal":
        shape = {"causal": "a decoder", "seq2seq": "an encoder-decoder"}.get(kind, f"a model of the form {kind}")
        return (
            f"for objective {objective.name} on {shape}: rows run packed where a decoder learns tokens "
            "(text_to_text, language_modelling of kind causal)"
        )
    if settings.model_type not in FAMILIES:
        return (
            f"for {config.model.name!r} of the family {settings.model_type}, whose rows in one sequence were not found "
            f"to be as if alone; allowed: {', '.join(FAMILIES)}"
        )
    return ""
