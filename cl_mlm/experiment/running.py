"""One run, stage by stage: train, measure, write down, keep; goes on where the run folder ends."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cl_mlm.config.schema import Config
from cl_mlm.data.tasks import Tasks
from cl_mlm.experiment.checkpoint import (
    MODELS,
    in_order,
    last_good,
    read_stage,
    read_step,
    state_bytes,
    write_stage,
    write_step,
    write_text_whole,
)
from cl_mlm.experiment.continuation import BETWEEN_NOTES, INEXACT_TAG, flat
from cl_mlm.experiment.interruption import Interruption
from cl_mlm.experiment.predictions import write_per_class, write_predictions
from cl_mlm.experiment.preparation import Prepared
from cl_mlm.experiment.progress import Progress
from cl_mlm.experiment.prompts import measure_prompts
from cl_mlm.experiment.record import Record, summary, versions
from cl_mlm.experiment.shared_stages import FOLDER as SHARED_FOLDER
from cl_mlm.experiment.shared_stages import SharedStages
from cl_mlm.models.backbone import Backbone, load_backbone
from cl_mlm.results.run_report import write_run_report
from cl_mlm.tracking.journal import Journal, without_credentials
from cl_mlm.tracking.slugs import slugs
from cl_mlm.training.evaluation import Evaluated, evaluate, known_columns
from cl_mlm.training.hardware import describe_hardware, make_accelerator, memory_advice, peak_memory_bytes
from cl_mlm.training.loop import train_stage
from cl_mlm.training.run import Run

log = logging.getLogger(__name__)

TRAINING_ADVICE = (
    "training.halve_on_oom=true (the same rows a step in smaller passes), or training.batch_size lower and "
    "training.accumulation higher by the same factor, training.max_length lower, training.gradient_checkpointing=true"
)
EVALUATION_ADVICE = "evaluation.batch_size lower, training.max_length lower"


class Experiment:
    """A prepared run and its folder.

    Files: `config.yaml`, `journal.jsonl`, `stages/<i>/` and, within a stage, `steps/<i>-<step>/` (checkpoints),
    `predictions/before.parquet` and `predictions/<i>.parquet`, and at the end `summary.json`, matrices, figures and
    `per_class.csv`.
    """

    def __init__(
        self,
        prepared: Prepared,
        folder: Path,
        journal: Journal,
        progress: Progress,
        notes: Sequence[str] = (),
        under_way: Callable[[], None] = lambda: None,
    ) -> None:
        self.prepared, self.folder, self.journal, self.progress = prepared, folder, journal, progress
        self.notes = notes  # what was not the same in this run's sessions
        self.under_way = under_way  # called whenever a step is done
        self.stages, self.steps = folder / "stages", folder / "steps"
        self.last_kept = time.monotonic()
        self.interruption = Interruption()
        # A run made again must not be handed what it is to make again.
        shared = prepared.config.checkpoint.reuse_stages if folder.name == prepared.config.run_name else 0
        shared = 0 if prepared.config.limit else shared
        self.shared = SharedStages(folder.parent.parent / SHARED_FOLDER, folder.name, shared)
        self.slugs = slugs([stage.name for stage in prepared.stream.stages])
        self.column_slugs = slugs([column.name for column in prepared.stream.columns])
        self.stage_index = 0

    def execute(self) -> dict[str, Any]:
        """Trains and measures every stage that is not yet kept; returns the summary."""
        self._write_head()
        run, record = self._restore()
        record.flags += [note for note in self.notes if note not in record.flags]
        last = len(run.stream) - 1
        joint = any(strategy.regime == "joint" for strategy in run.strategies)
        for stage_index in [last] if joint else range(last + 1):
            if stage_index >= record.next_stage:
                self._stage(run, record, stage_index, is_first=joint or stage_index == 0)
        return self._finish(record)

    def training(self, step: int, num_steps: int, epoch: int, rows: int, values: Mapping[str, float]) -> None:
        """Hears of every optimiser step."""
        self.under_way()
        self.progress.step(step, num_steps, epoch, rows, values)
        if values:
            self.journal.metrics(values, step, self.stage_index)

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Hears of every epoch that was validated."""
        self.journal.metrics(values, epoch, self.stage_index)

    def keep(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Writes a checkpoint where one is due, or where the run was asked to end, which it then does."""
        checkpoint, asked = self.prepared.config.checkpoint, self.interruption.asked
        minutes = (time.monotonic() - self.last_kept) / 60
        by_time = checkpoint.every_minutes is not None and minutes >= checkpoint.every_minutes
        by_steps = checkpoint.every_steps is not None and step % checkpoint.every_steps == 0
        if by_time or by_steps or asked:
            self.journal.sync()
            write_step(self.steps, self.stage_index, step, state())
            self.last_kept = time.monotonic()
        if asked:
            self.interruption.end()

    def _stage(self, run: Run, record: Record, stage_index: int, *, is_first: bool) -> None:
        self.stage_index = stage_index
        run.enter(stage_index)
        stage = run.stream.stages[stage_index]
        self.journal.stage_start(stage_index, self.slugs[stage_index])
        self.journal.tags({"stage": stage.name, "labels": ", ".join(stage.labels)}, stage_index)
        if is_first:
            with memory_advice(EVALUATION_ADVICE):
                self._measure_baseline(run, record)
                self._prompt(run, record, -1)
        self.progress.stage(stage_index, len(run.stream), stage.name)
        kept, faults = read_step(self.steps, stage_index)
        for fault in faults:
            log.warning("%s; the checkpoint before it is used", fault)
        with self.interruption.at_steps(), memory_advice(TRAINING_ADVICE):
            cost = train_stage(run, self, kept, self.shared)
        if cost.reused_from and cost.reused_from != self.folder.name:
            record.reused.append({"stage": stage.name, "run": cost.reused_from})
            self.journal.tags({"reused_from": cost.reused_from}, stage_index)
        started = time.perf_counter()
        is_measured = run.stream.is_measured(stage_index)
        with memory_advice(EVALUATION_ADVICE):
            splits: list[str] = [*run.config.evaluation.splits] if is_measured else []
            found = {split: self._evaluate(run, split) for split in splits}
            self._prompt(run, record, stage_index)
        record.add_cost(cost, time.perf_counter() - started, _sizes(run))
        record.flags += [f"{stage.name}: {flag}" for flag in cost.flags]
        self._note_scores(run, record, found)
        record.next_stage = stage_index + 1
        self.journal.metrics(
            {"time/train_seconds": cost.train_seconds, "cost/steps": cost.steps}, stage_index, stage_index
        )
        self.journal.status("FINISHED", stage_index)
        # A stage that is not measured is short: training it again costs less than a checkpoint of each of them.
        if not is_measured:
            return
        self.journal.sync()
        states = {str(i): strategy.state_dict() for i, strategy in enumerate(run.strategies)}
        own = run.backbone.part(run.tasks.keys[stage_index])
        others = {key: part for key, part in run.backbone.parts().items() if part is not own}
        write_stage(self.stages, stage_index, own, states, record.to_dict(), others)
        self._forget_stages()

    def _evaluate(self, run: Run, split: str) -> Evaluated:
        columns = known_columns(run, split)
        found = self.shared.find_scores(run, split, columns)
        if found is None:
            found = evaluate(run, split, columns)
            self.shared.keep_scores(run, split, columns, found)
        return found

    def _measure_baseline(self, run: Run, record: Record) -> None:
        """Scores, before any training, the columns whose labels the model all knows; the others have no baseline."""
        run.tasks.begin(0, -1)
        every = run.stream.columns
        columns = [j for j, column in enumerate(every) if run.tasks.of_column(j).labels.known(column.labels)[1]]
        if columns and "test" in run.config.evaluation.splits:
            found = evaluate(run, "test", columns)
            record.baseline = found.row(len(every))
            write_predictions(self.folder, run, found, "before")
            self.journal.metrics({f"baseline/{self.column_slugs[j]}": record.baseline[j] for j in columns}, 0)

    def _prompt(self, run: Run, record: Record, after: int) -> None:
        if self.prepared.prompting is not None:
            measure_prompts(self.prepared.prompting, run, record, self.journal, after)

    def _note_scores(self, run: Run, record: Record, found: Mapping[str, Evaluated]) -> None:
        if not found:
            return
        i, columns = run.stage_index, run.stream.columns
        for split, matrix, key in (
            ("test", record.matrix, "accuracy"),
            ("validation", record.validation, "validation"),
        ):
            if split not in found:
                continue
            matrix[i] = found[split].row(len(columns))
            self.journal.metrics({f"{key}/{self.column_slugs[j]}": matrix[i][j] for j in found[split].scores}, i)
            own = next((found[split].scores[j] for j in found[split].scores if i in columns[j].trained_in), {})
            self.journal.metrics({f"{split}/{name}": value for name, value in own.items()}, i, i)
        scored = found.get("test") or found.get("validation")
        if scored is not None:
            record.flags += _at_chance(run, scored)
            shown = record.matrix if "test" in found else record.validation
            self.progress.scores(run.stream.stages[i].name, shown[i])
        if "test" in found:
            write_predictions(self.folder, run, found["test"], str(i))

    def _write_head(self) -> None:
        """Writes the resolved config and what identifies the run; the same again when a run goes on."""
        from omegaconf import OmegaConf

        config, stream = self.prepared.config, self.prepared.stream
        path = self.folder / "config.yaml"
        write_text_whole(path, without_credentials(OmegaConf.to_yaml(OmegaConf.create(config.to_dict()))))
        self.journal.start(config.experiment, self.folder.name)
        self.journal.status("RUNNING")
        self.journal.params(flat(config.to_dict()))
        found = versions()
        tags = {f"version/{name}": value for name, value in found.items() if name != "commit"}
        hardware = {f"hardware/{name}": value for name, value in describe_hardware().items()}
        overlap = {f"overlap/{name}": count for name, count in self.prepared.overlap.items()}
        identity = {"stream": stream.name, "stream/fingerprint": stream.fingerprint, "strategies": config.label}
        self.journal.tags({**identity, "git_commit": found["commit"], **tags, **hardware, **overlap})
        if self.notes:
            self.journal.tags({INEXACT_TAG: BETWEEN_NOTES.join(self.notes)})
        self.journal.artifact("config.yaml")
        self.journal.sync()

    def _restore(self) -> tuple[Run, Record]:
        """Returns the run as its last good checkpoint left it, or a new one."""
        prepared = self.prepared
        kept, faults = last_good(self.stages)
        for fault in faults:
            log.warning("%s; the checkpoint before it is used", fault)
        if kept is None:
            return assemble(prepared), Record.empty(len(prepared.stream), len(prepared.stream.columns))
        states, values = read_stage(kept)
        record = Record.from_dict(values)
        for i, strategy in enumerate(prepared.strategies):
            strategy.load_state_dict(states[str(i)])
        return assemble(prepared, kept, record.next_stage), record

    def _forget_stages(self, num_kept: int = 2) -> None:
        """Removes the checkpoints that `checkpoint.keep_stages` does not want; a running run keeps two."""
        shutil.rmtree(self.steps, ignore_errors=True)
        if self.prepared.config.checkpoint.keep_stages == "all":
            return
        for older in in_order(self.stages.glob("[0-9]*"))[:-num_kept]:
            shutil.rmtree(older)

    def _finish(self, record: Record) -> dict[str, Any]:
        """Writes the summary, tables and figures, and hands them to the journal."""
        made = summary(self.prepared, record, self.folder.name)
        text = without_credentials(json.dumps(made, indent=1, allow_nan=False))
        write_text_whole(self.folder / "summary.json", text + "\n")
        paths = [
            self.folder / "summary.json",
            *write_run_report(self.folder, made),
            *write_per_class(self.folder, self.prepared.stream),
        ]
        for path in paths:
            self.journal.artifact(path.relative_to(self.folder))
        final = len(self.prepared.stream) - 1
        known = {name: value for name, value in made["metrics"].items() if value is not None}
        known |= {
            f"probe/{self.column_slugs[j]}": made["probes"][column.name]["change"]
            for j, column in enumerate(self.prepared.stream.columns)
            if made.get("probes", {}).get(column.name, {}).get("change") is not None
        }
        self.journal.metrics({f"summary/{name}": value for name, value in known.items()}, final)
        self.journal.metrics({f"cost/{name}": value for name, value in made["cost"].items()}, final)
        if made["flags"]:
            self.journal.tags({"flags": "; ".join(made["flags"])})
        # Before the run counts as finished, for then nobody tidies any more; one stage is enough to come back here.
        self._forget_stages(1)
        self.journal.status("FINISHED")
        self.journal.sync()
        if self.prepared.config.checkpoint.keep_stages == "none":
            for folder in self.stages.glob("[0-9]*"):
                shutil.rmtree(folder)
        return made


def assemble(prepared: Prepared, kept: Path | None = None, next_stage: int = 0) -> Run:
    """Returns a run with its model in place, ready for stage `next_stage`; nothing is written.

    Args:
        prepared: what is run.
        kept: the checkpoint of the stage before, whose model is taken; None: the config's own.
        next_stage: the first stage that is not trained yet.
    """
    import torch

    config, stream, strategies = prepared.config, prepared.stream, prepared.strategies
    accelerator = make_accelerator(config)
    tasks = Tasks.of_stream(stream, {prepared.objective.name: prepared.objective})
    last = max(0, next_stage - 1)
    tasks.begin(last, -1)
    backbone = _load(config, tasks, kept)
    backbone.set_trainable(config.finetuning.mode)
    torch.nn.Module.to(backbone.model, config.training.device)
    if config.training.gradient_checkpointing:
        backbone.checkpoint_activations()
    joint = any(strategy.regime == "joint" for strategy in strategies)
    last_trained = -1 if joint else next_stage - 1
    own = (tasks.at(last).objective, tasks.at(last).labels)
    run = Run(config, stream, strategies, backbone, *own, accelerator, last_trained, tasks=tasks)
    if kept is None:
        run.grow()
    return run


def _load(config: Config, tasks: Tasks, kept: Path | None) -> Backbone:
    """Returns the model with its head, or with one for every task, from a checkpoint where there is one."""
    training = config.training
    if len(tasks) > 1:
        from cl_mlm.models.shared_body import load_heads

        folders = None
        if kept is not None:
            own = {key: kept / MODELS / key for key in tasks.by_key}
            folders = {key: folder if folder.is_dir() else kept / "model" for key, folder in own.items()}
        return load_heads(config.model, tasks, config.seed, training.max_length, folders)
    (task,) = tasks
    model = config.model
    if kept is not None:
        model = replace(model, name=str(kept / "model"), revision=None, dropout=None)
    backbone = load_backbone(model, task.labels.seen, config.seed, training.max_length, task.objective)
    task.objective.bind(backbone.model, backbone.kind)
    return backbone


def _sizes(run: Run) -> dict[str, float]:
    return {
        "peak_memory_bytes": peak_memory_bytes(),
        "buffer_bytes": sum(strategy.buffer_bytes(run) for strategy in run.strategies),
        "strategy_state_bytes": sum(state_bytes(strategy.state_dict()) for strategy in run.strategies),
        "trainable_parameters": sum(p.numel() for p in run.trainable().values()),
    }


def _at_chance(run: Run, scored: Evaluated) -> list[str]:
    """Returns a flag for each column learned now that scores no better than always its most frequent label.

    Within 2 SE counts as no better.
    """
    import numpy as np

    from cl_mlm.stream import unpack_row_ids

    flags, owners = [], unpack_row_ids(scored.ids)[0]
    for j, column in enumerate(run.stream.columns):
        if column.home != run.stage_index or j not in scored.scores:
            continue
        where = np.flatnonzero(owners == j).tolist()
        chance = run.tasks.of_column(j).objective.chance([scored.references[i] for i in where])
        if chance is None:
            continue  # where one label is all there is, chance says nothing
        margin = 2 * math.sqrt(chance * (1 - chance) / len(where))
        accuracy = scored.scores[j]["score"]
        if accuracy <= chance + margin:
            reached = f"its own accuracy {accuracy:.3f} stays at chance ({chance:.3f} ± {margin:.3f})"
            flags.append(f"{column.name}: {reached} after it was trained")
    return flags
