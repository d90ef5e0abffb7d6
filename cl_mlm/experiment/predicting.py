"""Predicts new rows with a kept model: encoded, masked and decoded as the run's own test rows were."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cl_mlm.config.components import make_objective
from cl_mlm.data.file_format import Reading
from cl_mlm.data.row_forms import new_rows, new_rows_of_file
from cl_mlm.errors import ConfigError, DataError, RunFolderError, nearest
from cl_mlm.models.loading import load_kept
from cl_mlm.models.modes import evaluation_mode
from cl_mlm.models.positions import position_limits
from cl_mlm.objective import UNCUT
from cl_mlm.stream import Stage, Stream
from cl_mlm.task import LabelSpace
from cl_mlm.tokens.batching import sorted_batches
from cl_mlm.tokens.encoding import LENGTHS
from cl_mlm.training.hardware import choose_device

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from cl_mlm.batch import Batch, Outputs
    from cl_mlm.models.backbone import PlainBackbone
    from cl_mlm.objective import Objective, RawRows

CHUNK_ROWS = 1000  # encoded at once, so that memory holds no more
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Asked:
    """What a kept model of a run is asked.

    Attributes:
        objective: what a row means.
        labels: those of the objective's task, counted up to the stage.
        inputs: columns that a new row must have.
        optional: columns that new rows may have.
        choices: labels that a row may be given; None: all that the model knows.
        settings: the run's.
    """

    objective: Objective
    labels: LabelSpace
    inputs: Sequence[str]
    optional: Sequence[str]
    choices: Sequence[str] | None
    settings: Mapping[str, Any]


def ask(summary: Mapping[str, Any], stage: int, task: str, column: str | None = None) -> Asked:
    """Returns what the model after `stage` is asked.

    Args:
        summary: of the run.
        stage: from 0.
        task: a key of `summary["tasks"]`.
        column: where a row is given the labels of its own column only (task-incremental): which one.

    Raises:
        ConfigError: the column is missing, unknown, or needless, or no stage has trained the task yet.
    """
    section, stream = summary["tasks"][task], summary["stream"]
    first = min(section["stages"])
    if stage < first:
        raise ConfigError(f"stage: must be at least {first} for task {task}, which no stage before trains; got {stage}")
    objective = make_objective(section["objective"], section["options"])
    nothing: Any = None  # rows play no part here
    stages = tuple(
        Stage(name, nothing, nothing, nothing, tuple(stream["labels"][name]) if i in section["stages"] else ())
        for i, name in enumerate(stream["stages"])
    )
    labels = LabelSpace(Stream(stream["name"], stages), objective.classes)
    labels.count(stage, -1)
    return Asked(
        objective,
        labels,
        section["inputs"],
        section["optional_inputs"],
        _choices(stream, labels, column),
        summary["settings"],
    )


def _choices(stream: Mapping[str, Any], labels: LabelSpace, column: str | None) -> Sequence[str] | None:
    """Returns the labels of the column; None where rows may be given any."""
    choices = stream.get("choices")
    if not labels.names or choices is None:
        if column is not None:
            raise ConfigError(
                f"column: must be left out, as every row is given any label that is known; got {column!r}"
            )
        return None
    fitting = [name for name, own in choices.items() if set(own) <= set(labels.names) and labels.knows_any(own)]
    if column not in fitting:
        rule = "in this stream a row is given labels of its own column only, so that its column must be named"
        hint = "" if column is None else nearest(column, fitting)
        raise ConfigError(f"column: {rule}: one of {', '.join(fitting)}, got {column!r}{hint}")
    own_labels: Sequence[str] = choices[column]
    return own_labels


def rows_of_file(
    path: Path, task: Mapping[str, Any], stream: Mapping[str, Any], encoding: str | None = None
) -> dict[str, list[Any]]:
    """Returns the new rows of a file, whose columns may be named as those of the run's own files.

    Args:
        path: of the file.
        task: of `summary["tasks"]`.
        stream: the section of the run's config.
        encoding: of the file; None: UTF-8 where its bytes are that, else the encoding of the run's own files. A file
            of another encoding with letters beyond ASCII is hardly ever valid UTF-8.

    Raises:
        DataError: the faults of the file.
    """
    if encoding is None and not _is_utf8(path):
        encoding = stream.get("encoding")
    reading = Reading(stream.get("columns") or {}, stream.get("delimiter"), encoding)
    return new_rows_of_file(path, task["inputs"], task["optional_inputs"], reading)


def _is_utf8(path: Path) -> bool:
    """Says whether all bytes of a file are UTF-8; False where it cannot be read, which is told when it is."""
    try:
        with path.open(encoding="utf-8") as file:
            return all(True for _ in file)
    except (OSError, ValueError):
        return False


def predict_rows(folder: Path, asked: Asked, rows: Any, device: str | None = None) -> list[tuple[Any, float | None]]:
    """Returns what the model in `folder` says of every row, and its probability; None: it is no choice among classes.

    Raises:
        DataError: rows that the objective cannot read.
        ConfigError: there is no such device.
    """
    place = torch.device(choose_device(device, "device"))
    if not asked.inputs:
        asked.objective.unanswered({}, ())  # says so
    table = new_rows(rows, asked.inputs, asked.optional)
    whole = checked(asked, table)
    num_rows = len(next(iter(table.values()), []))
    if not num_rows:
        return []
    backbone = load_kept(folder, asked.settings["model"]["dtype"], asked.objective)
    torch.nn.Module.to(backbone.model, place)
    answers: list[tuple[Any, float | None]] = []
    with evaluation_mode(backbone.model), torch.inference_mode():
        for start in range(0, num_rows, CHUNK_ROWS):
            chunk = {name: values[start : start + CHUNK_ROWS] for name, values in whole.items()}
            answers += _predict_chunk(backbone, asked, chunk)
    return answers


def checked(asked: Asked, table: RawRows) -> dict[str, Sequence[Any]]:
    """Returns new rows in the form that the objective encodes.

    Raises:
        DataError: every kind of fault, with the first row that has it.
    """
    choices = asked.labels.seen if asked.choices is None else asked.choices
    whole = asked.objective.unanswered(table, choices)
    answers = tuple(f"rows: {name} " for name in asked.objective.reference_columns if name not in asked.inputs)
    faults = [line for line in asked.objective.validate(whole, "rows") if not line.startswith(answers)]
    if faults:
        raise DataError(faults)
    return whole


def _predict_chunk(backbone: PlainBackbone, asked: Asked, rows: RawRows) -> list[tuple[Any, float | None]]:
    objective = asked.objective
    encoded = _encoded(backbone, asked, rows)
    lengths = np.fromiter(map(len, encoded["input_ids"]), dtype=np.int32)
    answers: list[tuple[Any, float | None]] = [(None, None)] * len(lengths)
    for positions in sorted_batches(lengths, asked.settings["evaluation"]["batch_size"]):
        batch = objective.collate(_picked(encoded, positions), torch.from_numpy(positions), backbone.tokenizer)
        batch = replace(batch, split="test")
        if asked.choices is not None:
            allowed = torch.zeros(len(positions), asked.labels.num_classes, dtype=torch.bool)
            allowed[:, asked.labels.allowed(asked.choices)] = True
            batch = batch.with_allowed(allowed)
        found = objective.predict(KeptPredictor(backbone, asked, rows), batch.to(backbone.model.device))
        probability = [None] * len(positions) if found.probability is None else found.probability.float().tolist()
        for position, *answer in zip(positions.tolist(), found.values, probability, strict=True):
            answers[position] = (answer[0], answer[1])
    return answers


def _encoded(backbone: PlainBackbone, asked: Asked, rows: RawRows) -> dict[str, list[Any]]:
    """Returns rows encoded as in the run; those that the model could not read to their end are cut further.

    Where all rows of a run are short, its `training.max_length` may be more than the model has positions for.
    """
    objective, tokenizer, kind = asked.objective, backbone.tokenizer, backbone.kind
    max_length = asked.settings["training"]["max_length"]
    encoded: dict[str, list[Any]] = {**objective.encode(rows, tokenizer, asked.labels.index, max_length)}
    limit = position_limits(backbone.model).input
    if limit is None:
        return encoded
    lengths = {
        name: np.minimum([len(tokens) for tokens in encoded[name]], max_length if name == "input_ids" else UNCUT)
        for name in LENGTHS
        if name in encoded
    }
    written = objective.written_length(tokenizer) or None
    too_long = np.flatnonzero(objective.input_length(lengths, tokenizer, kind, written) > limit).tolist()
    if too_long:
        picked = {name: [values[i] for i in too_long] for name, values in rows.items()}
        room = limit - objective.extra_length(tokenizer, kind)
        cut = objective.encode(picked, tokenizer, asked.labels.index, room)
        for name, values in cut.items():
            for i, value in zip(too_long, values, strict=True):
                encoded[name][i] = value
    return encoded


def _picked(encoded: Mapping[str, Any], positions: Any) -> dict[str, list[Any]]:
    """Returns rows of encoded columns in the form in which they are kept on disk: token columns as arrays."""
    return {
        name: [np.asarray(values[i], dtype=np.int32) if isinstance(values[i], list) else values[i] for i in positions]
        for name, values in encoded.items()
    }


class KeptPredictor:
    """What an objective needs to predict, of a kept model; fulfils `cl_mlm.objective.Predictor`."""

    def __init__(self, backbone: PlainBackbone, asked: Asked, rows: RawRows) -> None:
        self._backbone, self._asked, self._rows = backbone, asked, rows

    @property
    def model(self) -> torch.nn.Module:
        """The plain transformers model."""
        return self._backbone.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._backbone.tokenizer

    @property
    def classes(self) -> Sequence[str]:
        """The classes that the model knows, in the order of its outputs."""
        return self._asked.labels.classes[: self._asked.labels.num_classes]

    def forward(self, batch: Batch) -> Outputs:
        """Runs the model in the run's precision."""
        with self.autocast():
            return self._backbone.forward(batch)

    def raw(self, batch: Batch, column: str) -> list[Any]:
        """Returns what a column holds for every row of the batch, (R,)."""
        return [self._rows[column][i] for i in batch.ids.tolist()]

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns a context in which the model runs in the run's precision; fp16, which no CPU has, is fp32 there."""
        precision, kind = self._asked.settings["training"]["precision"], self._backbone.model.device.type
        if precision not in AUTOCAST or (precision == "fp16" and kind == "cpu"):
            return nullcontext()
        return torch.autocast(kind, dtype=AUTOCAST[precision])


def task_of_stage(summary: Mapping[str, Any], stage: int, task: str | None) -> str:
    """Returns the key of the task that is asked: `task`, else the stage's own.

    Raises:
        ConfigError: there is no such task.
        RunFolderError: the summary does not tell its tasks: it is an older version's.
    """
    tasks = summary.get("tasks") or {}
    if not tasks or any("inputs" not in section for section in tasks.values()):
        raise RunFolderError(
            "summary.json: does not say what a row of this run is, as an earlier version has written it; "
            "run it again (--again)"
        )
    if task is None:
        return next(str(key) for key, section in tasks.items() if stage in section["stages"])
    if task not in tasks:
        raise ConfigError(f"task: must be one of {', '.join(tasks)}, got {task!r}{nearest(task, tasks)}")
    return task
