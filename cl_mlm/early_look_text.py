"""An early look in words: aligned tables of stages and of token lengths, then steps, memory, time and disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cl_mlm.api import run_folder
from cl_mlm.disk import shown
from cl_mlm.early_look import EarlyLook
from cl_mlm.memory import MemoryNeed
from cl_mlm.stream import SPLITS


def look_lines(look: EarlyLook) -> list[str]:
    """Returns everything that `cl-mlm check` says of a run that may start."""
    config, stream = look.prepared.config, look.prepared.stream
    lines = [
        f"{config.experiment}: {config.label}, model {config.model.name}, {config.finetuning.mode} fine-tuning",
        f"stream {stream.name}: {len(stream)} stages, {len(stream.labels)} labels, {stream.scenario}",
        f"fingerprint {stream.fingerprint}",
        "",
        *_stage_table(look),
        "",
    ]
    for part in look.parts:
        lines += [*_token_table(look, part), ""]
    lines.append("overlap: " + ", ".join(f"{name} {count}" for name, count in look.prepared.overlap.items()))
    lines += [f"note: {note}" for note in stream.notes]
    lines += _step_lines(look)
    if look.memory is not None:
        lines += [*_memory_lines(look, look.memory), *_time_lines(look), *look.disk]
    if look.lengths is None:
        lines.append(f"tokens{', memory and disk' * (look.memory is None)}: not known: {look.unreachable}")
    return [*lines, f"run folder: {run_folder(config)}", "good to run"]


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a table in lines: the first column flush left, the others flush right, two spaces between them."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in (header, *rows)
    ]


def duration(seconds: float) -> str:
    """Returns seconds in the units that suit them, such as `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _stage_table(look: EarlyLook) -> list[str]:
    stages = look.prepared.stream.stages
    rows = [
        [
            _place(i, stage.name),
            *(f"{len(stage.split(split)):,}" for split in SPLITS),
            f"{len(stage.labels):,}",
            _number(work.steps),
            f"{work.scored:,}",
        ]
        for i, (stage, work) in enumerate(zip(stages, look.work, strict=True))
    ]
    totals = [f"{sum(len(stage.split(split)) for stage in stages):,}" for split in SPLITS]
    scored = f"{sum(work.scored for work in look.work):,}"
    rows.append(["  all", *totals, f"{len(look.prepared.stream.labels):,}", _number(look.steps), scored])
    return aligned(["rows", "train", "validation", "test", "labels", "steps", "rows scored"], rows)


def _token_table(look: EarlyLook, part: str) -> list[str]:
    """Returns the token lengths of one part of rows, a stage a line."""
    stages: list[int | None] = [*range(len(look.work)), None]
    figures = [look.tokens(part, i) for i in stages]
    windows = any(found["windows"] > found["counted_rows"] for found in figures)
    names = [_place(i, stage.name) for i, stage in enumerate(look.prepared.stream.stages)]
    rows = [_token_row(name, found, windows) for name, found in zip([*names, "  all"], figures, strict=True)]
    limit = figures[0]["limit"]
    what = "a row" if part == "text" else f"a {part}"
    header = [f"tokens of {what}", "50 %", "90 %", "99 %", "most", f"longer than {limit:,}", "tokens cut"]
    lines = aligned([*header, "windows"] if windows else header, rows)
    every, counted = sum(len(s.split(split)) for s in look.prepared.stream.stages for split in SPLITS), figures[-1]
    if counted["counted_rows"] < every:
        lines.append(f"counted in {counted['counted_rows']:,} of {every:,} rows, evenly spread over the large splits")
    return lines


def _token_row(name: str, found: Mapping[str, Any], windows: bool) -> list[str]:
    longer = f"{found['longer_rows']:,} ({100 * found['longer_share']:.1f} %)"
    cut = f"{found['cut_tokens']:,} ({100 * found['cut_tokens'] / max(1, found['tokens']):.1f} %)"
    cells = [name, *(f"{number:,}" for number in found["percentiles"].values()), longer, cut]
    return [*cells, f"{found['windows']:,}"] if windows else cells


def _step_lines(look: EarlyLook) -> list[str]:
    config, strategies = look.prepared.config, look.prepared.strategies
    training = config.training
    remarks = [f"{training.batch_size * training.accumulation:,} rows each"]
    regimes = {
        "joint": "one training over the union of all stages",
        "cumulative": "each stage trains on the rows of all stages so far",
    }
    for strategy in strategies:
        remarks += [regimes[strategy.regime]] if strategy.regime in regimes else []
        remarks += [f"{strategy.name} brings further rows back in them"] * strategy.overrides("memory")
        remarks += [f"{strategy.name} chooses the rows of a stage"] * strategy.overrides("training_data")
    if training.patience:
        epochs = f"{training.patience} epoch{'s' * (training.patience > 1)}"
        remarks.append(f"at most: a stage ends after {epochs} without a better validation score")
    if config.limit:
        remarks.append("a smoke run")
    number = "not known before" if look.steps is None else f"{look.steps:,}"
    return [f"steps: {number} ({'; '.join(remarks)})"]


def _memory_lines(look: EarlyLook, need: MemoryNeed) -> list[str]:
    training = look.prepared.config.training
    parts = {"weights": need.weights, "gradients": need.gradients, f"moments of {training.optimizer}": need.moments}
    parts |= {"best weights for early stopping": need.best_weights, "strategies' copies": need.strategies}
    listed = ", ".join(f"{name} {shown(size)}" for name, size in parts.items() if size)
    unknown = f"; what {' and '.join(need.unknown)} keeps is not counted" if need.unknown else ""
    return [f"memory: {shown(need.total)} ({listed}) without activations{unknown}"]


def _time_lines(look: EarlyLook) -> list[str]:
    timed, seconds = look.timed, look.seconds
    if timed is None or seconds is None:
        return []
    later = "" if timed.later_step is None else f", of a later one {timed.later_step:.3f} s"
    number = f"{timed.steps} step{'s' * (timed.steps > 1)} a stage"
    lines = [
        f"timed: {number} on {timed.device}: a step of the first stage {timed.step:.3f} s{later}; scoring a row "
        f"{1000 * timed.scored_row:.1f} ms; peak memory of this process {shown(timed.peak_bytes)}"
    ]
    training, evaluation = seconds
    told = "not known" if training is None else duration(training)
    most = "at most " * bool(look.prepared.config.training.patience and training is not None)
    return [*lines, f"time: training {most}{told}, evaluation {duration(evaluation)}, by these steps"]


def _place(stage_index: int, name: str) -> str:
    return f"{stage_index + 1:3d}. {name}"


def _number(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
