"""Makes tables of predictions that are missing or damaged again, from the models of their time."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import RunFolderError
from cl_mlm.experiment.assembly import assemble
from cl_mlm.experiment.continuation import WAYS_BACK
from cl_mlm.experiment.predictions import write_predictions
from cl_mlm.experiment.scoring import baseline_columns
from cl_mlm.storage.checkpoint import read_stage
from cl_mlm.storage.inventory import BEFORE, lost_tables
from cl_mlm.training.evaluation import evaluate, scorable_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cl_mlm.experiment.preparation import Prepared
    from cl_mlm.run_folder import RunFolder

log = logging.getLogger(__name__)


def make_lost_tables(
    prepared: Prepared, folder: RunFolder, tables: Mapping[str, Mapping[str, Any]], *, is_exact: bool
) -> dict[str, dict[str, Any]]:
    """Makes lost tables again, each from the model as it was when the table was written; returns these as they are now.

    Args:
        prepared: the run.
        folder: of the run.
        tables: by name their length and digest.
        is_exact: a table that is made again must be what it was, to the bit.

    Raises:
        RunFolderError: a model is not kept, or is damaged, or gives another table.
    """
    made = {}
    for name, fault in lost_tables(folder, tables).items():
        log.warning("%s; it is made again from the model of that time", fault)
        made[name] = _make(prepared, folder, name)
        if is_exact and made[name] != tables[name]:
            folder.predictions(name).unlink()
            raise RunFolderError(f"{fault}; made again from the model of that time, it is another one{WAYS_BACK}")
    return made


def _make(prepared: Prepared, folder: RunFolder, name: str) -> dict[str, Any]:
    """Evaluates the model of the time of a table, and writes the table; returns its length and digest."""
    # The run's own strategies keep the states that they have now.
    own = replace(prepared, strategies=deepcopy(prepared.strategies))
    if name == BEFORE:
        run = assemble(own)
        run.begin(0)
        columns = baseline_columns(run)
    else:
        stage_index, checkpoint = int(name), folder.stage(int(name))
        states, _ = read_stage(checkpoint)
        for i, strategy in enumerate(own.strategies):
            strategy.load_state_dict(states[str(i)])
        run = assemble(own, checkpoint, stage_index + 1)
        run.begin(stage_index)
        run.tasks.count_labels(stage_index, -1 if own.is_joint else stage_index - 1)
        columns = scorable_columns(run.stream, run.tasks)
    return write_predictions(folder, run, evaluate(run, "test", columns), name)
