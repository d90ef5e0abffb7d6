"""Summarises prompts and their scores for the files of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cl_mlm.prompting.columns import Prompting


def prompting_summary(prompting: Prompting | None, scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the settings of prompts and their scores as plain values; None where nothing was prompted.

    Args:
        prompting: the prompts.
        scores: of all columns, by number of demonstrations.
    """
    if prompting is None:
        return None
    config = prompting.config
    return {
        "template": config.template,
        "templates": config.templates,
        "verbaliser": config.verbaliser,
        "delimiter": config.delimiter,
        "separator": config.separator,
        "split": config.split,
        "normalise": config.normalise,
        "per_class": config.per_class,
        "max_rows": config.max_rows,
        "seed": config.seed,
        "stream": {"name": prompting.stream.name, "fingerprint": prompting.stream.fingerprint},
        **({"chat": True, "system": config.system} if config.chat else {}),
        "columns": [column.name for column in prompting.columns],
        "shots": scores,
    }
