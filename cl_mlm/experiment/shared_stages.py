"""Stages that several runs share: what is equal to the bit is trained and scored once.

An entry is named by a hash over all that training reads: the model's weights and config, the rows, the labels, the
settings, what the strategies say can change this stage (`Strategy.training_signature`) and the states they bring, the
versions and the processor. Scores are named by a hash over the weights that were scored and the rows.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cl_mlm.arrow import split_digest
from cl_mlm.config.own_source import own_source
from cl_mlm.disk import writing
from cl_mlm.errors import StorageError
from cl_mlm.run_folder import MANIFEST
from cl_mlm.storage.state_files import damage, read_entry, split_state, write_entry
from cl_mlm.storage.versions import versions
from cl_mlm.stream import unpack_row_ids
from cl_mlm.training import hooks
from cl_mlm.training.early_stopping import columns_in_training
from cl_mlm.training.evaluation import Evaluated
from cl_mlm.training.hardware import describe_hardware
from cl_mlm.training.network import caches_features
from cl_mlm.training.stage_state import changing_strategies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cl_mlm.training.run import Run

FOLDER = ".shared-stages"
VERSION = 2
log = logging.getLogger(__name__)


class SharedStages:
    """The stages below one `output` folder that any run may take over.

    Args:
        folder: where entries lie; made when the first is written.
        run_name: of the run that asks.
        num_stages: only stages before this one are shared; 0: none.
    """

    def __init__(self, folder: Path, run_name: str, num_stages: int) -> None:
        self._folder, self._run_name, self._num_stages = folder, run_name, num_stages
        self._key: str | None = None
        self._scored: tuple[int, str] | None = None  # the stage whose weights are scored, and their digest

    def look_up(self, run: Run) -> dict[str, Any] | None:
        """Returns what training the present stage ends with, where it was trained before; None: train."""
        if run.place.stage_index >= self._num_stages:
            return None
        self._key = _hash(_training_inputs(run))
        return self._read(f"{self._key}-trained")

    def store(self, run: Run, state: Mapping[str, Any]) -> None:
        """Writes what training the present stage ended with; `look_up` was called before."""
        if run.place.stage_index < self._num_stages and self._key is not None:
            self._write(f"{self._key}-trained", {**state, "run": self._run_name})

    def look_up_scores(self, run: Run, split: str, columns: Sequence[int]) -> Evaluated | None:
        """Returns the scores of the present weights, where they were taken before; None: evaluate."""
        name = self._scores_name(run, split, columns)
        state = None if name is None else self._read(name)
        return None if state is None else Evaluated.from_state(state)

    def store_scores(self, run: Run, split: str, columns: Sequence[int], evaluated: Evaluated) -> None:
        """Writes the scores of the present weights."""
        name = self._scores_name(run, split, columns)
        if name is not None:
            self._write(name, evaluated.to_state())

    def _scores_name(self, run: Run, split: str, columns: Sequence[int]) -> str | None:
        """Returns the name of an entry of scores; None where they are not shared."""
        if run.place.stage_index >= self._num_stages or any(s.overrides("evaluation") for s in run.strategies):
            return None
        inputs = {
            **_surroundings(run),
            "weights": self._scored_digest(run),
            "split": split,
            "columns": [*columns],
            "stream": run.stream.fingerprint,
            "batch_size": run.config.evaluation.batch_size,
        }
        return f"{_hash(inputs)}-scores"

    def _scored_digest(self, run: Run) -> str:
        """Returns the digest of the trained weights, which every split of a stage is scored with: made once."""
        stage_index = run.place.stage_index
        if self._scored is None or self._scored[0] != stage_index:
            self._scored = stage_index, _model_digest(run)
        return self._scored[1]

    def _read(self, name: str) -> dict[str, Any] | None:
        entry = self._folder / name
        if not (entry / MANIFEST).is_file():
            return None
        try:
            fault = damage(entry)
            found = None if fault else read_entry(entry)
            if found is not None and found.pop("name", None) != name:
                fault, found = f"{entry}: is not what its name says", None
        except Exception as error:  # another process may be writing it, and nothing here is worth a run
            fault, found = f"{entry}: cannot be read: {error}", None
        if fault:
            log.warning("%s; the stage is trained again", fault)
        return found

    def _write(self, name: str, state: Mapping[str, Any]) -> None:
        entry = self._folder / name
        try:
            with writing(entry):
                self._folder.mkdir(parents=True, exist_ok=True)
                lock = (self._folder / ".lock").open("w")
            with lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for half in self._folder.glob(".*.tmp"):  # only who has the lock writes: it is a killed process's
                    shutil.rmtree(half, ignore_errors=True)
                # Who trained the same stage at the same time has written the same; a reader must not find it gone.
                if self._read(name) is None:
                    write_entry(entry, {**state, "name": name})
        except StorageError as error:  # what only saves time to others must not end this run
            log.warning("%s; other runs do not share this stage", error)


def _training_inputs(run: Run) -> dict[str, Any]:
    """Returns all that training the present stage reads."""
    changing = changing_strategies(run)
    trained = [run.stream.stages[j].train for j in np.unique(unpack_row_ids(run.place.training_ids)[0]).tolist()]
    columns = run.stream.columns
    training = run.training  # of this stage alone: runs that differ in other stages share it
    stopping = columns_in_training(run) if training.patience else []
    return {
        **_surroundings(run),
        "weights": _model_digest(run),
        "trainable": sorted(run.network.trainable()),
        "settings": [training, run.config.finetuning, run.config.seed, run.config.limit],
        # A frozen body reads its rows in batches of one size for all stages.
        "frozen": run.config.training.batch_size if caches_features(run.config, run.network.backbone) else None,
        "evaluation": run.config.evaluation.batch_size if training.patience else None,
        "stage": run.place.stage_index,
        "ids": hashlib.sha256(run.place.training_ids.tobytes()).hexdigest(),
        "rows": [split_digest(rows) for rows in trained],
        "stopping": [[column.labels, split_digest(column.validation)] for column in map(columns.__getitem__, stopping)],
        "strategies": [
            [_code(type(strategy)), signature, _state_digest(hooks.state_of(run, strategy))]
            for strategy, signature in changing
        ],
    }


def _surroundings(run: Run) -> dict[str, Any]:
    """Returns what training and scoring both depend on beside weights and rows."""
    stage = run.stage
    training = run.config.training
    return {
        "version": VERSION,
        "versions": {name: value for name, value in versions().items() if name != "commit"},
        "hardware": [describe_hardware(), training.device, training.threads, training.precision],
        "model": [type(run.network.model).__name__, run.network.backbone.settings()],
        "max_length": training.row_length,
        "scenario": [run.stream.scenario, run.stream.masks],
        "labels": [
            [task.labels.seen, task.labels.old, [task.labels.of(j) for j in range(len(run.stream))]]
            for task in run.tasks
        ],
        "objective": [
            [stage.objective, stage.options],
            [[task.key, task.stages, _code(type(task.objective))] for task in run.tasks],
        ],
    }


def _code(kind: type) -> list[Any]:
    """Returns the name of a class and, where no version of this project covers it, digests of its code."""
    return [f"{kind.__module__}.{kind.__qualname__}", own_source([kind])]


def _model_digest(run: Run) -> str:
    return _tensors_digest(run.network.model.state_dict())


def _state_digest(state: Mapping[str, Any]) -> str:
    tensors: dict[str, torch.Tensor] = {}
    plain = split_state(dict(state), "", tensors)
    return _hash([plain, _tensors_digest(tensors)])


def _tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hash(inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=repr).encode()).hexdigest()[:32]
