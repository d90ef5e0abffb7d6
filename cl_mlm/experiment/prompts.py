"""Prompts within a run: scored before any training and after every stage, recorded and journalled."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from cl_mlm.prompting.reader import Reader
from cl_mlm.prompting.scoring import score_columns
from cl_mlm.tokens.chat import Chat
from cl_mlm.tracking.slugs import slugs
from cl_mlm.training import hooks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cl_mlm.experiment.record import Record
    from cl_mlm.prompting.columns import Prompting
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.training.run import Run

FILLED = "its score before training is that of zero-shot prompts, as the model did not know all its labels"


def measure_prompts(prompting: Prompting, run: Run, record: Record, journal: Journal, after: int) -> None:
    """Scores every prompted column for every number of demonstrations; mutates `record`, writes to the journal.

    Args:
        prompting: what to ask.
        run: the run, whose model is read as it is.
        record: gets row `after + 1` of every matrix, and, before training, baselines that it lacks.
        journal: gets `prompt/<shots>-shot/<column>` at step `after`, before training `baseline_prompt/...` at step 0.
        after: the last stage that was trained; -1: none.
    """
    backbone = run.network.backbone
    model: PreTrainedModel = backbone.model
    config = prompting.config
    chat = Chat(backbone.tokenizer, config.chat_template) if config.chat else None
    prompting = replace(prompting, chat=chat)
    reader = Reader(
        model,
        backbone.tokenizer,
        backbone.kind,
        run.network.autocast,
        run.config.evaluation.batch_size,
        config.max_length,
        chat,
    )
    names = slugs([column.name for column in prompting.columns])
    with ExitStack() as stack:
        for strategy in run.strategies:
            stack.enter_context(hooks.evaluation(run, strategy, [column.name for column in prompting.columns]))
        for shots in config.shots:
            row, flags = _row(reader, prompting, shots, after)
            matrix = record.prompting.setdefault(
                str(shots), [[math.nan] * len(names) for _ in range(len(run.stream) + 1)]
            )
            matrix[after + 1] = row
            record.flags += [flag for flag in flags if flag not in record.flags]
            key = "baseline_prompt" if after < 0 else "prompt"
            values = {f"{key}/{shots}-shot/{name}": score for name, score in zip(names, row, strict=True)}
            journal.metrics(values, max(0, after))
    if after < 0:
        _fill_baseline(prompting, record)


def _row(reader: Reader, prompting: Prompting, shots: int, after: int) -> tuple[list[float], list[str]]:
    """Returns the score of every column, and flags of what was cut."""
    scores, flags = [], []
    for column, found in zip(prompting.columns, score_columns(reader, prompting, shots, after), strict=True):
        scores.append(found.metrics["score"])
        if found.num_cut:
            flags.append(
                f"{column.name}: {found.num_cut} of {found.num_rows} {shots}-shot prompts lost their beginning "
                f"(longer than {reader.max_length} tokens)"
            )
    return scores, flags


def _fill_baseline(prompting: Prompting, record: Record) -> None:
    """Gives columns of the run's own stream that have no score before training that of zero-shot prompts."""
    zero_shot = record.prompting.get("0")
    if zero_shot is None or not prompting.is_own or prompting.config.split != "test":
        return
    for column, score in zip(prompting.columns, zero_shot[0], strict=True):
        if math.isnan(record.baseline[column.index]):
            record.baseline[column.index] = score
            record.flags.append(f"{column.name}: {FILLED}")
