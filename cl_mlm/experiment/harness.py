"""Tasks of EleutherAI's lm-evaluation-harness, asked of the model of a run as it is."""

from __future__ import annotations

import copy
import math
import random
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cl_mlm.config.probes import LmEvalConfig
    from cl_mlm.models.backbone import Backbone


def task_faults(section: LmEvalConfig) -> list[str]:
    """Returns which tasks the harness does not know; it must be installed."""
    if not section.tasks:
        return ["probes.lm_eval.tasks: must name tasks, got []"]
    folder = section.task_folder
    if folder is not None and not Path(folder).is_dir():
        return [f"probes.lm_eval.task_folder: must be a folder of task files, got {folder!r}"]
    known = _manager(section).all_tasks
    unknown = [name for name in section.tasks if name not in known]
    if not unknown:
        return []
    where = "lm-eval" if folder is None else repr(folder)
    listed = f"; allowed: {', '.join(sorted(known))}" if len(known) <= 20 else f" ({len(known):,} tasks)"
    return [f"probes.lm_eval.tasks: must be tasks of {where}, got {', '.join(unknown)}{listed}"]


def harness_scores(backbone: Backbone, section: LmEvalConfig, batch_size: int) -> dict[str, float]:
    """Returns what the harness measures, by `lm_eval/<task>/<metric>`.

    Args:
        backbone: a decoder or an encoder-decoder, in evaluation mode.
        section: which tasks.
        batch_size: sequences at once.
    """
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]  # an extra
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    with _same_randomness():
        model = HFLM(
            pretrained=backbone.model,
            tokenizer=copy.deepcopy(backbone.tokenizer),  # the harness sets its padding
            backend=backbone.kind,
            batch_size=batch_size,
        )
        found = simple_evaluate(
            model=model,
            tasks=list(section.tasks),
            task_manager=_manager(section),
            num_fewshot=section.num_fewshot,
            limit=section.limit,
            bootstrap_iters=0,
            log_samples=False,
        )
    return scores_of(found or {})


def scores_of(found: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers in the harness's results by `lm_eval/<task>/<metric>`, without errors and names.

    A metric is called `acc,none` there: behind the comma stands the filter, which is left out where it is none.
    """
    scores = {}
    for task, metrics in found.get("results", {}).items():
        for key, value in metrics.items():
            metric, _, of_filter = key.partition(",")
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
            if "," not in key or metric.endswith("_stderr") or not is_number:
                continue
            name = metric if of_filter == "none" else f"{metric}-{of_filter}"
            scores[f"lm_eval/{task}/{name}"] = float(value)
    return scores


def _manager(section: LmEvalConfig) -> Any:
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    return TaskManager(include_path=section.task_folder, include_defaults=section.task_folder is None)


@contextmanager
def _same_randomness() -> Iterator[None]:
    """Gives the generators of the process back the states that they had: the harness seeds them all."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
