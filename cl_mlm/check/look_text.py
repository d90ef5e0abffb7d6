"""Prints a `RunEstimate`: aligned tables of stages and of token lengths, then lines on steps, memory, time and disk."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from cl_mlm.check.look import SCORED_SPLITS
from cl_mlm.check.text_table import fitted
from cl_mlm.check.token_lengths import BLOCK
from cl_mlm.disk import shown
from cl_mlm.experiment.progress import duration
from cl_mlm.stream import SPLITS
from cl_mlm.training.ceiling import ceiling_notes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cl_mlm.check.look import RowPart, RunEstimate
    from cl_mlm.check.memory import MemoryNeed
    from cl_mlm.check.token_lengths import SplitAddress
    from cl_mlm.strategy import Strategy

SHOWN_DIGITS = 16  # of a fingerprint, as in tables of runs; JSON has all
MOST_LINES = 30  # of a table; of a longer one the first and the last lines are printed
FIRST_LINES, LAST_LINES = 10, 5
REGIMES = {
    "joint": "one training over the union of all stages",
    "cumulative": "each stage trains on the rows of all stages so far",
}


def look_lines(estimate: RunEstimate, width: int | None = None) -> list[str]:
    """Returns everything that `cl-mlm check` says of a run that may start; tables fit `width` columns (None: any)."""
    config, stream = estimate.prepared.config, estimate.prepared.stream
    lines = [
        f"{config.experiment}: {config.label}, model {config.model.name}, {config.finetuning.mode} fine-tuning",
        f"stream {stream.name}: {len(stream)} stages, {len(stream.labels)} labels, {stream.scenario}",
        f"fingerprint {stream.fingerprint[:SHOWN_DIGITS]}",
        "",
        *_stage_table(estimate, width),
        "",
    ]
    for part in estimate.row_parts:
        lines += [*_token_table(estimate, part, width), ""]
    lines.append("overlap: " + ", ".join(f"{name} {count}" for name, count in estimate.prepared.overlap.items()))
    notes = (*stream.notes, *estimate.prepared.notes, *ceiling_notes(estimate.ceilings or {}))
    lines += [f"note: {note}" for note in notes]
    lines += [*_prompting_lines(estimate), _step_line(estimate)]
    if estimate.memory is not None:
        lines += [_memory_line(estimate, estimate.memory), *_time_lines(estimate), *estimate.disk]
    lines += estimate.limits
    if estimate.lengths is None:
        unknown = "tokens, memory and disk" if estimate.memory is None else "tokens"
        lines.append(f"{unknown}: not known without the model")
    provided = f", if the model can be had: {estimate.unreachable}" if estimate.unreachable else ""
    return [*lines, f"run folder: {estimate.folder}", f"good to run{provided}"]


def _stage_table(estimate: RunEstimate, width: int | None) -> list[str]:
    """Returns a table of the stages, and below it what is scored beside them and what is packed."""
    stages, labels = estimate.prepared.stream.stages, estimate.prepared.stream.labels
    splits = [split for _, split in estimate.splits_of_stage(0)]
    rows = [
        [
            _stage_name(estimate, i),
            *(f"{len(stages[i].split(split)):,}" for split in splits),
            f"{len(stages[i].labels):,}",
            _number(estimate.work[i].steps),
            _number(estimate.work[i].scored),
        ]
        for i in _printed_lines(len(stages))
    ]
    split_totals = [f"{sum(len(stage.split(split)) for stage in stages):,}" for split in splits]
    totals = ["  all", *split_totals, f"{len(labels):,}", _number(estimate.steps), _number(estimate.scored_rows)]
    table = _shortened(["rows", *splits, "labels", "steps", "rows scored"], rows, len(stages), [totals], width)
    return [*table, *_column_table(estimate, width), *_packed_lines(estimate)]


def _column_table(estimate: RunEstimate, width: int | None) -> list[str]:
    """Returns a table of the columns that belong to no stage."""
    columns = [estimate.prepared.stream.columns[j] for j in estimate.other_columns]
    if not columns:
        return []
    rows = []
    for k in _printed_lines(len(columns)):
        column = columns[k]
        learned_after = "a probe" if column.home is None else f"stage {column.home + 1}"
        num_rows = [f"{len(column.split(split)):,}" for split in SCORED_SPLITS]
        rows.append([f"  {column.name}", *num_rows, f"{len(column.labels):,}", learned_after])
    return ["", *_shortened(["scored on", *SCORED_SPLITS, "labels", "learned after"], rows, len(columns), [], width)]


def _packed_lines(estimate: RunEstimate) -> list[str]:
    """Returns a line for each task whose texts are joined and cut into blocks."""
    lines = []
    for task in estimate.tasks:
        if not task.objective.packs:
            continue
        num_texts = _num_rows(estimate, task.key)
        if estimate.lengths is None:
            lines.append(f"packed: {num_texts:,} texts become blocks; how many is not known, nor the steps")
            continue
        num_blocks: Counter[str] = Counter()
        for i, split in _splits_of_task(estimate, task.key):
            by_part = estimate.lengths.get((i, split))
            num_blocks[split] += len(by_part[BLOCK].whole) if by_part else 0
        listed = " / ".join(f"{num_blocks[split]:,}" for split in SPLITS)
        block_size = estimate.prepared.config.training.row_length
        lines.append(
            f"packed: {num_texts:,} texts become {listed} blocks ({' / '.join(SPLITS)}) of {block_size:,} tokens; "
            "steps and rows scored are counted in blocks, and no text is cut"
        )
    return lines


def _token_table(estimate: RunEstimate, part: RowPart, width: int | None) -> list[str]:
    """Returns a table of the token lengths of one part of rows: a line for each stage and column, then all."""
    stages = [i for i, task in enumerate(estimate.tasks.keys) if task == part.task]
    columns = [j for j in estimate.other_columns if estimate.tasks.column_keys[j] == part.task]
    total = estimate.token_figures(part)
    assert total is not None
    has_windows = total["windows"] > total["counted_rows"]

    def row(name: str, splits: Sequence[SplitAddress] | None) -> list[str]:
        return _token_row(name, estimate.token_figures(part, splits), has_windows)

    rows = [
        row(_stage_name(estimate, i), estimate.splits_of_stage(i))
        for i in (stages[k] for k in _printed_lines(len(stages)))
    ]
    below = [
        row(f"  on {estimate.prepared.stream.columns[j].name}", [(j, split) for split in SCORED_SPLITS])
        for j in (columns[k] for k in _printed_lines(len(columns)))
    ]
    below.append(row("  all", None))
    table = _shortened(_token_header(estimate, part, total["limit"], has_windows), rows, len(stages), below, width)
    num_rows = _num_rows(estimate, part.task)
    if part.name != BLOCK and total["counted_rows"] < num_rows:
        table.append(f"counted in {total['counted_rows']:,} of {num_rows:,} rows, evenly spread over the large splits")
    return table


def _token_header(estimate: RunEstimate, part: RowPart, limit: int, has_windows: bool) -> list[str]:
    title = "tokens of a row" if part.name == "text" else f"tokens of a {part.name}"
    if len(estimate.tasks) > 1:
        title += f" ({part.task})"
    header = [title, "50 %", "90 %", "99 %", "most", f"longer than {limit:,}", "tokens cut"]
    return [*header, "windows"] if has_windows else header


def _token_row(name: str, figures: Mapping[str, Any] | None, has_windows: bool) -> list[str]:
    if figures is None:
        return [name, *["-"] * (7 if has_windows else 6)]
    longer = f"{figures['longer_rows']:,} ({100 * figures['longer_share']:.1f} %)"
    cut = f"{figures['cut_tokens']:,} ({100 * figures['cut_tokens'] / max(1, figures['tokens']):.1f} %)"
    cells = [name, *(f"{number:,}" for number in figures["percentiles"].values()), longer, cut]
    return [*cells, f"{figures['windows']:,}"] if has_windows else cells


def _prompting_lines(estimate: RunEstimate) -> list[str]:
    """Returns what is prompted, and the first prompt as the model will read it."""
    prompting = estimate.prepared.prompting
    if prompting is None:
        return []
    shots = ", ".join(map(str, prompting.config.shots))
    summary = (
        f"prompting: {shots} shots, {len(prompting.columns)} columns of {prompting.stream.name}, "
        "before and after every stage"
    )
    return [summary, "  the first prompt:", *(f"  | {line}" for line in prompting.example().split("\n"))]


def _step_line(estimate: RunEstimate) -> str:
    """Returns the number of steps, and what makes it what it is."""
    prepared, training = estimate.prepared, estimate.prepared.config.training
    unit = "blocks" if all(task.objective.packs for task in estimate.tasks) else "rows"
    # A step trains on rows of one task; the last one of a task or of a chunk may be smaller.
    at_most = "at most " if len(estimate.tasks) > 1 or prepared.stream.scenario == "online" else ""
    of_stages = [prepared.training(i) for i in range(len(prepared.stream))]
    sizes = {of_stage.step_rows for of_stage in of_stages}
    of_step = f"{min(sizes):,} to {max(sizes):,}" if len(sizes) > 1 else f"{max(sizes):,}"
    remarks = [f"{at_most}{of_step} {unit} each"]
    if training.stages:
        count = len(training.stages)
        remarks.append(f"{count} stage{'s have' if count > 1 else ' has'} settings of training.stages")
    for strategy in prepared.strategies:
        remarks += _strategy_remarks(strategy)
    if training.may_stop_early:
        waits = sorted({of_stage.patience for of_stage in of_stages if of_stage.patience is not None})
        epochs = "1 epoch" if waits == [1] else f"{' or '.join(map(str, waits))} epochs"
        remarks.append(f"at most: a stage ends after {epochs} without a better validation score")
    if prepared.config.limit:
        remarks.append("a smoke run")
    number = "not known before" if estimate.steps is None else f"{estimate.steps:,}"
    return f"steps: {number} ({'; '.join(remarks)})"


def _strategy_remarks(strategy: Strategy) -> list[str]:
    """Returns what a strategy does to the number of steps and to their rows."""
    remarks = []
    if strategy.regime in REGIMES:
        remarks.append(REGIMES[strategy.regime])
    if strategy.overrides("memory"):
        remarks.append(f"{strategy.name} brings further rows back in them")
    if strategy.overrides("training_data"):
        remarks.append(f"{strategy.name} chooses the rows of a stage")
    return remarks


def _memory_line(estimate: RunEstimate, need: MemoryNeed) -> str:
    optimizer = estimate.prepared.config.training.optimizer
    sizes = {
        "weights": need.weights,
        "gradients": need.gradients,
        f"moments of {optimizer}": need.moments,
        "best weights for early stopping": need.best_weights,
        "strategies' copies": need.strategies,
    }
    listed = ", ".join(f"{name} {shown(size)}" for name, size in sizes.items() if size)
    unknown = f"; what {' and '.join(need.unknown)} keeps is not counted" if need.unknown else ""
    return f"memory: {shown(need.total)} ({listed}) without activations{unknown}"


def _time_lines(estimate: RunEstimate) -> list[str]:
    """Returns what was timed, and the time of the run computed from it."""
    timed, seconds = estimate.timed, estimate.seconds
    if timed is None or seconds is None:
        return []
    steps = "1 step" if timed.steps == 1 else f"{timed.steps} steps"
    later = "" if timed.later_step is None else f", of a later one {timed.later_step:.3f} s"
    training_seconds, evaluation_seconds = seconds
    if training_seconds is None:
        training = "not known"
    else:
        at_most = "at most " if estimate.prepared.config.training.may_stop_early else ""
        training = f"{at_most}{duration(training_seconds)}"
    return [
        f"timed: {steps} a stage on {timed.device}: a step of the first stage {timed.step:.3f} s{later}; scoring a row "
        f"{1000 * timed.scored_row:.1f} ms; peak memory of this process {shown(timed.peak_bytes)}",
        f"time: training {training}, evaluation {duration(evaluation_seconds)}, by these steps",
    ]


def _splits_of_task(estimate: RunEstimate, task: str) -> list[SplitAddress]:
    """Returns the splits whose rows belong to a task."""
    return [(i, split) for split in SPLITS for i, key in enumerate(estimate.tasks.keys_of(split)) if key == task]


def _num_rows(estimate: RunEstimate, task: str) -> int:
    """Returns the rows of all splits of a task."""
    stream = estimate.prepared.stream
    return sum(len(stream.owners(split)[i].split(split)) for i, split in _splits_of_task(estimate, task))


def _printed_lines(number: int) -> list[int]:
    """Returns which of `number` lines of a table are printed: all of a few, else the first and the last."""
    if number <= MOST_LINES:
        return [*range(number)]
    return [*range(FIRST_LINES), *range(number - LAST_LINES, number)]


def _shortened(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    number: int,
    below: Sequence[Sequence[str]],
    width: int | None,
) -> list[str]:
    """Returns a table of the `_printed_lines` of `number` rows, a line `...` for the others, and the rows `below`."""
    if len(rows) < number:
        left_out = [f"  ... {number - len(rows):,} more", *[""] * (len(header) - 1)]
        rows = [*rows[:FIRST_LINES], left_out, *rows[FIRST_LINES:]]
    tables = fitted(header, [*rows, *below], width)
    return [line.rstrip() for i, table in enumerate(tables) for line in ([""] * (i > 0) + table)]


def _stage_name(estimate: RunEstimate, stage_index: int) -> str:
    """Returns a stage's number, counted from 1, and its name."""
    return f"{stage_index + 1:3d}. {estimate.prepared.stream.stages[stage_index].name}"


def _number(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
