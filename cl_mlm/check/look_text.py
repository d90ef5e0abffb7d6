"""An early look in words: aligned tables of stages and of token lengths, then steps, memory, time and disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cl_mlm.check.disk import shown
from cl_mlm.check.look import EarlyLook
from cl_mlm.check.memory import MemoryNeed
from cl_mlm.check.token_lengths import BLOCK
from cl_mlm.storage.run_lookup import run_folder
from cl_mlm.stream import SPLITS

MOST_LINES = 30  # of a table; of more only so many:
FIRST_LINES, LAST_LINES = 10, 5


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
    lines += _prompting_lines(look)
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
    """Returns the rows of the stages, and below them those of what is scored beside them."""
    stream, splits = look.prepared.stream, [split for _, split in look.places(0)]
    rows = [
        [
            _place(i, stream.stages[i].name),
            *(f"{len(stream.stages[i].split(split)):,}" for split in splits),
            f"{len(stream.stages[i].labels):,}",
            _number(look.work[i].steps),
            _number(look.work[i].scored),
        ]
        for i in _shown(len(stream))
    ]
    totals = [f"{sum(len(stage.split(split)) for stage in stream.stages):,}" for split in splits]
    last = ["  all", *totals, f"{len(stream.labels):,}", _number(look.steps), _number(look.scored)]
    lines = _elided(["rows", *splits, "labels", "steps", "rows scored"], rows, len(stream), [last])
    return [*lines, *_column_table(look), *_packed_lines(look)]


def _column_table(look: EarlyLook) -> list[str]:
    """Returns the rows of columns that are no stage's own."""
    columns = [look.prepared.stream.columns[j] for j in look.columns]
    if not columns:
        return []
    rows = [
        [
            f"  {columns[k].name}",
            *(f"{len(columns[k].split(split)):,}" for split in SPLITS[1:]),
            f"{len(columns[k].labels):,}",
            "a probe" if (home := columns[k].home) is None else f"stage {home + 1}",
        ]
        for k in _shown(len(columns))
    ]
    return ["", *_elided(["scored on", *SPLITS[1:], "labels", "learned after"], rows, len(columns), [])]


def _packed_lines(look: EarlyLook) -> list[str]:
    """Returns what rows become that are joined and cut into blocks."""
    lines = []
    for task in look.tasks:
        if not task.objective.packs:
            continue
        stream = look.prepared.stream
        places = [(i, split) for split in SPLITS for i, key in enumerate(look.tasks.keys_of(split)) if key == task.key]
        texts = sum(len(stream.owners(split)[i].split(split)) for i, split in places)
        if look.lengths is None:
            lines.append(f"packed: {texts:,} texts become blocks; how many is not known, nor the steps")
            continue
        counts = {
            split: sum(
                len(own[BLOCK].whole) for i, name in places if name == split and (own := look.lengths.get((i, name)))
            )
            for split in SPLITS
        }
        listed = " / ".join(f"{count:,}" for count in counts.values())
        size = look.prepared.config.training.max_length
        lines.append(
            f"packed: {texts:,} texts become {listed} blocks ({' / '.join(SPLITS)}) of {size:,} tokens; "
            "steps and rows scored are counted in blocks, and no text is cut"
        )
    return lines


def _token_table(look: EarlyLook, part: tuple[str, str]) -> list[str]:
    """Returns the token lengths of one part of rows, a stage or column a line."""
    stream = look.prepared.stream
    own = [i for i, key in enumerate(look.tasks.keys) if key == part[0]]
    columns = [j for j in look.columns if look.tasks.column_keys[j] == part[0]]
    every = look.tokens(part)
    assert every is not None
    windows = every["windows"] > every["counted_rows"]
    found = [
        (_place(i, stream.stages[i].name), look.tokens(part, look.places(i)))
        for i in (own[k] for k in _shown(len(own)))
    ]
    rows = [_token_row(name, figures, windows) for name, figures in found]
    scored = [
        (f"  on {stream.columns[j].name}", look.tokens(part, [(j, split) for split in SPLITS[1:]]))
        for j in (columns[k] for k in _shown(len(columns)))
    ]
    below = [_token_row(name, figures, windows) for name, figures in [*scored, ("  all", every)]]
    what = {"text": "a row"}.get(part[1], f"a {part[1]}") + f" ({part[0]})" * (len(look.tasks) > 1)
    header = [f"tokens of {what}", "50 %", "90 %", "99 %", "most", f"longer than {every['limit']:,}", "tokens cut"]
    lines = _elided([*header, "windows"] if windows else header, rows, len(own), below)
    places = [(i, split) for split in SPLITS for i, key in enumerate(look.tasks.keys_of(split)) if key == part[0]]
    number = sum(len(stream.owners(split)[i].split(split)) for i, split in places)
    if part[1] != BLOCK and every["counted_rows"] < number:
        lines.append(f"counted in {every['counted_rows']:,} of {number:,} rows, evenly spread over the large splits")
    return lines


def _token_row(name: str, found: Mapping[str, Any] | None, windows: bool) -> list[str]:
    if found is None:
        return [name, *"------", *("-" * windows)]
    longer = f"{found['longer_rows']:,} ({100 * found['longer_share']:.1f} %)"
    cut = f"{found['cut_tokens']:,} ({100 * found['cut_tokens'] / max(1, found['tokens']):.1f} %)"
    cells = [name, *(f"{number:,}" for number in found["percentiles"].values()), longer, cut]
    return [*cells, f"{found['windows']:,}"] if windows else cells


def _prompting_lines(look: EarlyLook) -> list[str]:
    """Returns what is prompted, and the first prompt as the model will read it."""
    found = look.prepared.prompting
    if found is None:
        return []
    shots = ", ".join(map(str, found.config.shots))
    head = (
        f"prompting: {shots} shots, {len(found.columns)} columns of {found.stream.name}, before and after every stage"
    )
    return [head, "  the first prompt:", *(f"  | {line}" for line in found.example().split("\n"))]


def _step_lines(look: EarlyLook) -> list[str]:
    config, strategies = look.prepared.config, look.prepared.strategies
    training = config.training
    what = "blocks" if all(task.objective.packs for task in look.tasks) else "rows"
    most = "at most " * (len(look.tasks) > 1 or look.prepared.stream.scenario == "online")
    remarks = [f"{most}{training.batch_size * training.accumulation:,} {what} each"]
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


def _shown(number: int) -> list[int]:
    """Returns which of so many lines are printed: all of a few, else the first and the last."""
    if number <= MOST_LINES:
        return [*range(number)]
    return [*range(FIRST_LINES), *range(number - LAST_LINES, number)]


def _elided(
    header: Sequence[str], rows: Sequence[Sequence[str]], number: int, below: Sequence[Sequence[str]]
) -> list[str]:
    """Returns a table of the `_shown` of so many rows, `...` where others are left out, and of the rows below them."""
    lines = aligned(header, [*rows, *below])
    if len(rows) < number:
        lines.insert(1 + FIRST_LINES, f"  ... {number - len(rows):,} more")
    return lines


def _place(stage_index: int, name: str) -> str:
    return f"{stage_index + 1:3d}. {name}"


def _number(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
