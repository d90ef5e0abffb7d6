"""What is measured of a language model beside the columns: divergence from its base, and tasks of lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cl_mlm.experiment.assembly import load_base
from cl_mlm.experiment.harness import harness_scores
from cl_mlm.experiment.readings import add_readings
from cl_mlm.training.divergence import base_of, column_divergence, text_divergence
from cl_mlm.training.evaluation import as_scored

if TYPE_CHECKING:
    from cl_mlm.experiment.record import Record
    from cl_mlm.tracking.journal import Journal
    from cl_mlm.training.run import Run


def measure_probes(run: Run, record: Record, journal: Journal, after: int) -> None:
    """Measures what the section `probes` asks for; mutates `record`, writes to the journal.

    Args:
        run: whose model is read as it is.
        record: gets the readings `kl/task`, `kl/text` and `lm_eval/<task>/<metric>`.
        journal: gets them, too.
        after: the last stage that was trained; -1: none.
    """
    section = run.config.probes
    if section is None or ((after + 1) % section.every and after + 1 < len(run.stream)):
        return
    values: dict[str, float] = {}
    if section.kl is not None and after >= 0:
        values |= _divergences(run, after)
    if section.lm_eval is not None:
        with as_scored(run), run.network.autocast():
            values |= harness_scores(run.network.backbone, section.lm_eval, run.config.evaluation.batch_size)
    add_readings(record, journal, values, after)


def _divergences(run: Run, after: int) -> dict[str, float]:
    """Returns how far the model is from its base on the new task's rows that are held out, and on held-out text."""
    assert run.config.probes is not None
    section = run.config.probes.kl
    assert section is not None
    splits, columns = run.config.evaluation.splits, list(enumerate(run.stream.columns))
    split = "test" if "test" in splits else splits[0]
    own = [j for j, column in columns if after in column.trained_in and len(column.split(split))]
    texts = [j for j, column in columns if column.home is None and column.objective == "language_modelling"]
    values = {}
    with base_of(run, lambda: load_base(run.config, run.tasks)) as base:
        values["kl/task"] = column_divergence(run, base, own, split, section.max_rows)
        if section.text is not None:
            text = Path(section.text).read_text(encoding="utf-8")
            values["kl/text"] = text_divergence(run, base, text, section.max_rows)
        elif texts:
            values["kl/text"] = column_divergence(run, base, texts, split, section.max_rows)
    return values
