"""A stream for a small decoder: pre-training on unlabelled requests, then intents as text, stage by stage."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.data import as_text, pick
from cl_mlm.errors import ConfigError
from cl_mlm.stream import Column, Stage, Stream, column_of
from streams.phrasebook import phrasebook

if TYPE_CHECKING:
    from datasets import Dataset

CORPUS = "pretraining"
HELD_OUT = "held-out text"


def pipeline(
    *,
    num_stages: int = 3,
    labels_per_stage: int = 4,
    order_seed: int | None = 0,
    seed: int = 0,
    corpus_rows: int = 60,
    train_rows: int = 40,
    held_out_rows: int = 10,
) -> Stream:
    """Returns a stage of pre-training, and behind it stages in which the model writes the intents of `phrasebook`.

    The first stage, `pretraining`, is causal language modelling on packed requests without labels. Each further stage
    brings new intents, whose names the model writes; they are the columns. The probe `held-out text` measures language
    modelling in every stage. No request is in more than one of corpus, probe and labelled rows.

    Args:
        num_stages: stages of intents.
        labels_per_stage: number of intents a stage.
        order_seed: shuffles the intents over the stages; None keeps them sorted.
        seed: of the rows.
        corpus_rows: unlabelled requests per intent to pre-train on.
        train_rows: labelled requests per intent.
        held_out_rows: unlabelled requests per intent of the probe.

    Raises:
        ConfigError: the grammar cannot give so many rows, or the intents cannot be cut like that.
    """
    sizes = {"num_stages": num_stages, "corpus_rows": corpus_rows, "held_out_rows": held_out_rows}
    problems = [f"stream.{name}: must be at least 1, got {number}" for name, number in sizes.items() if number < 1]
    if problems:
        raise ConfigError(problems)
    unlabelled = corpus_rows + held_out_rows
    whole = phrasebook(
        labels_per_stage=labels_per_stage, order_seed=order_seed, seed=seed, train_rows=train_rows + unlabelled
    )
    if num_stages > len(whole):
        raise ConfigError(f"stream.num_stages: must be at most {len(whole)}, got {num_stages}")
    corpus_parts: list[Dataset] = []
    held_out_parts: list[Dataset] = []
    stages = []
    for stage in whole.stages[:num_stages]:
        train, corpus_part, held_out_part = _cut(stage, (train_rows, corpus_rows, held_out_rows))
        stages.append(replace(stage, train=train))
        corpus_parts.append(corpus_part)
        held_out_parts.append(held_out_part)
    intents = as_text(replace(whole, stages=tuple(stages)))
    corpus, held_out = _texts(corpus_parts), _texts(held_out_parts)
    no_rows = held_out.select([])
    modelling: dict[str, Any] = {
        "task": "language_modelling",
        "objective": "language_modelling",
        "options": {"pack": True},
    }
    first = Stage(name=CORPUS, labels=(), train=corpus, language="en", validation=no_rows, test=no_rows, **modelling)
    columns = tuple(column_of(stage, i + 1) for i, stage in enumerate(intents.stages))
    probe = Column(name=HELD_OUT, labels=(), validation=no_rows, test=held_out, home=None, language="en", **modelling)
    return replace(
        intents,
        name="pipeline",
        stages=(first, *(replace(stage, validation=no_rows, test=no_rows) for stage in intents.stages)),
        given_columns=columns,
        probes=(probe,),
        notes=(*intents.notes, f"pre-training on {len(corpus)} requests without labels, in no other split"),
    )


def _cut(stage: Stage, sizes: tuple[int, ...]) -> list[Dataset]:
    """Returns the training rows cut into parts, the i-th with `sizes[i]` rows of every label; rows keep their order."""
    import numpy as np

    taken = dict.fromkeys(stage.labels, 0)
    parts: list[list[int]] = [[] for _ in sizes]
    for position, label in enumerate(stage.train["label"]):
        place = taken[label]
        taken[label] += 1
        for part, size in zip(parts, sizes, strict=True):
            if place < size:
                part.append(position)
                break
            place -= size
    return [pick(stage.train, np.array(positions)) for positions in parts]


def _texts(parts: list[Dataset]) -> Dataset:
    """Returns the column `text` of several splits, joined."""
    from datasets import concatenate_datasets

    return concatenate_datasets([part.select_columns(["text"]) for part in parts])
