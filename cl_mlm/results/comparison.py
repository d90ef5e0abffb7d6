"""Compares finished runs: `compare` reads those below a folder and writes tables and curves.

Runs that differ only by seed are one `Group`, a row of a table. Runs on the same rows and columns are one
`StreamTable`; runs on different streams never share a table, and limited runs (`--limit`) none with full ones.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from cl_mlm.errors import ClMlmError
from cl_mlm.metrics import DEFINITIONS, mean_interval
from cl_mlm.results.run_report import (
    PROBE,
    PROBE_PREFIX,
    UNDEFINED,
    hundredths,
    is_probe,
    is_undefined,
    unit_of,
    write_csv,
)
from cl_mlm.results.runs import (
    MAX_DEPTH,
    RunSummary,
    differing_sources,
    load_run,
    load_runs,
    newest_runs,
    unfinished_runs,
)
from cl_mlm.results.settings_differences import differing, unique_labels
from cl_mlm.results.terminal_tables import tables_that_fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from rich.table import Table

RANKED_BY: Final = "average_accuracy"
BEST: Final = "*"
MOST_NAMED: Final = 3
SHORT_NAMES: Final[dict[str, str]] = {
    "average_accuracy": "ACC",
    "average_incremental_accuracy": "AIA",
    "backward_transfer": "BWT",
    "forward_transfer": "FWT",
    "forgetting": "FGT",
    "learning_accuracy": "LA",
}
# Title, key in the summary's `cost`, and the number that a cost is divided by to be shown.
COSTS: Final = (
    ("train s", "train_seconds", 1),
    ("eval s", "eval_seconds", 1),
    ("peak MiB", "peak_memory_bytes", 2**20),
    ("buffer KiB", "buffer_bytes", 2**10),
)


@dataclass(frozen=True)
class Group:
    """Runs that differ only by seed, one run a seed."""

    label: str
    runs: tuple[RunSummary, ...]

    def metric(self, name: str) -> tuple[float, float]:
        """Returns the mean over seeds, 0-1, and the half width of its 95 % interval; NaN: undefined."""
        return mean_interval([run.metrics.get(name, np.nan) for run in self.runs])

    def cost(self, name: str) -> float:
        """Returns the mean over seeds of a key of `COSTS`, in the unit of the key; NaN: not measured."""
        return mean_interval([run.cost.get(name, np.nan) for run in self.runs])[0]

    def prompted(self) -> list[str]:
        """Returns a line for each number of demonstrations: the mean score of prompts before and after all training."""
        lines = []
        for shots in dict.fromkeys(shots for run in self.runs for shots in run.prompting):
            by_run = [run.prompting[shots] for run in self.runs if shots in run.prompting]
            before = hundredths(mean_interval(_with_nan([scores[0] for scores in by_run]))[0])
            after = hundredths(mean_interval(_with_nan([scores[-1] for scores in by_run]))[0])
            lines.append(
                f"{self.label}: {shots}-shot prompts {before} % before training, {after} % after the last stage "
                "(mean of the prompted columns)"
            )
        return lines

    def reason(self, name: str) -> str:
        """Returns why the metric called `name` is undefined."""
        return next((run.reasons[name] for run in self.runs if name in run.reasons), "not measured by every run")


@dataclass(frozen=True)
class StreamTable:
    """Groups on one stream: trained on the same rows, scored on the same columns.

    Attributes:
        stream: its name.
        fingerprint: of its rows.
        columns: their names, probes marked.
        groups: the rows of the table, the highest average accuracy first.
        limit: of rows a split, where the runs are smoke runs.
    """

    stream: str
    fingerprint: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    limit: int | None = None

    @property
    def title(self) -> str:
        """The stream's name, the first characters of its fingerprint, the number of columns, and a limit."""
        smoke = "" if self.limit is None else f", limit {self.limit}"
        return f"{self.stream} ({self.fingerprint[:8]}, {len(self.columns)} columns{smoke})"

    @cached_property
    def best(self) -> tuple[Group, ...]:
        """The group with the highest average accuracy, and those whose mean lies within its interval."""
        ranked = [group for group in self.groups if not is_undefined(group.metric(RANKED_BY)[0])]
        if len(self.groups) == 1 or not ranked:
            return ()
        mean, half_width = ranked[0].metric(RANKED_BY)
        least = mean if is_undefined(half_width) else mean - half_width
        return tuple(group for group in ranked if group.metric(RANKED_BY)[0] >= least)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that any run has: those of `DEFINITIONS` in its order, then the others (probes)."""
        names = dict.fromkeys(name for group in self.groups for run in group.runs for name in run.metrics)
        return (*(name for name in DEFINITIONS if name in names), *(name for name in names if name not in DEFINITIONS))

    def score_cells(self, group: Group) -> list[str]:
        """Returns label (marked: of the best), number of seeds, and `mean ±half width` of every metric in percent."""
        mark = f" {BEST}" if group in self.best else ""
        cells = [group.label + mark, str(len(group.runs))]
        for mean, half_width in map(group.metric, self.metrics):
            interval = "" if is_undefined(half_width) else f" ±{hundredths(half_width)}"
            cells.append(hundredths(mean) + interval)
        return cells

    def legend(self) -> list[str]:
        """Returns what is printed below the table: definitions, differing settings, prompts, why values are missing."""
        lines = [f"{_short(n)}: {n.replace('_', ' ')}: {DEFINITIONS[n]}" for n in self.metrics if n in DEFINITIONS]
        lines += [f"{name}: {PROBE}" for name in self.metrics if name.startswith(PROBE_PREFIX)]
        if self.best:
            has_interval = len(self.best[0].runs) > 1
            within = "and every ACC within its 95 % interval" if has_interval else "of one seed, which has no interval"
            lines.append(f"{BEST}: the highest ACC, {within}")
        if any(len(group.runs) > 1 for group in self.groups):
            lines.append("±: half width of the 95 % interval of the mean over seeds (Student's t)")
        unequal = differing([group.runs for group in self.groups])
        if unequal:
            lines.append(
                f"not all rows share these settings: {', '.join(unequal)}; differences are not strategies' alone"
            )
        sources = differing_sources([run for group in self.groups for run in group.runs])
        if sources:
            lines.append(f"not all runs were made with the same source of {', '.join(sources)}; `run` makes them anew")
        lines += [line for group in self.groups for line in group.prompted()]
        return lines + self._undefined_lines()

    def _undefined_lines(self) -> list[str]:
        """Returns why values are missing: a line for all metrics that the same groups lack for the same reason."""
        lacking: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in self.metrics:
            without = [group for group in self.groups if is_undefined(group.metric(name)[0])]
            for reason in dict.fromkeys(group.reason(name) for group in without):
                labels = [group.label for group in without if group.reason(name) == reason]
                of_groups = "" if len(labels) == len(self.groups) else f" of {', '.join(labels)}"
                lacking[of_groups, reason].append(_short(name))
        return [f"{', '.join(names)} {UNDEFINED}{groups}: {reason}" for (groups, reason), names in lacking.items()]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found and wrote.

    Attributes:
        sections: one table a stream.
        paths: the files written.
        notes: runs that were left out, and why there are several tables.
    """

    sections: tuple[StreamTable, ...]
    paths: tuple[Path, ...]
    notes: tuple[str, ...]

    @property
    def tables(self) -> list[Table]:
        """The tables to print, each at most 60 characters wide: scores, then costs, of every stream."""
        return [table for section in self.sections for table in (*_score_tables(section), *_cost_tables(section))]

    @property
    def lines(self) -> list[str]:
        """The lines to print below the tables: all legends, each line once, then the notes."""
        legends = dict.fromkeys(line for section in self.sections for line in section.legend())
        return [*legends, *self.notes]

    def markdown(self) -> str:
        """Returns everything as Markdown: a table of scores and costs for each stream, its legend, the notes."""
        blocks: list[str] = []
        for section in self.sections:
            header = [*_score_header(section), *(title for title, _, _ in COSTS)]
            rows = [[*section.score_cells(group), *_cost_cells(group)] for group in section.groups]
            rule = ["---", *["---:"] * (len(header) - 1)]
            lines = ["| " + " | ".join(_escape_cell(cell) for cell in row) + " |" for row in (header, rule, *rows)]
            blocks += [f"**{section.title}**", "\n".join(lines), "\n".join(f"- {line}" for line in section.legend())]
        return "\n\n".join([*blocks, *self.notes]) + "\n"


def compare(folder: Path, output: Path | None = None, runs_of: Sequence[Path] | None = None) -> Comparison:
    """Compares finished runs and writes tables and curves.

    Writes `compare.csv` (a row a group), `curves.csv` (a row a measured score) and `compare.png` into `output`, by
    default `folder`; scores are in 0-1. If the runs are on several streams, the one with most runs gets these files,
    and the others `compare-2.csv` and so on. Limited runs are left out where there are full ones.

    Args:
        folder: the runs below it are compared.
        output: where the files go.
        runs_of: run folders that are compared instead of all those below `folder`.

    Raises:
        ClMlmError: there is no finished run, or one that cannot be read.
    """
    if runs_of is None:
        unfinished = [f"unfinished, left out: {path}" for path in unfinished_runs(folder)]
        runs = load_runs(folder)
    else:
        unfinished, runs = [], [load_run(path) for path in dict.fromkeys(runs_of)]
    if not runs:
        raise ClMlmError(
            "\n".join([f"{folder}: no finished run (summary.json) at most {MAX_DEPTH} below", *unfinished])
        )
    found = compare_runs(runs, unfinished)
    paths: list[Path] = []
    for number, section in enumerate(found.sections, start=1):
        paths += _write(section, output or folder, "" if number == 1 else f"-{number}")
    return replace(found, paths=tuple(paths))


def compare_runs(runs: list[RunSummary], notes: Sequence[str] = ()) -> Comparison:
    """Returns the comparison of runs, and writes nothing; `notes` come last."""
    runs, smoke = _without_limited(runs)
    distinct, repeated = _one_per_seed(runs)
    by_stream: dict[tuple[object, ...], list[RunSummary]] = defaultdict(list)
    for run in distinct:
        by_stream[_table_key(run)].append(run)
    sections = tuple(make_table(members) for members in sorted(by_stream.values(), key=len, reverse=True))
    several = f"{len(sections)} tables: the runs differ in stream rows or columns, so they cannot share one"
    return Comparison(sections, (), (*([several] if len(sections) > 1 else []), *smoke, *repeated, *notes))


def make_table(runs: Sequence[RunSummary]) -> StreamTable:
    """Returns the table of runs on one stream: a row a group, the highest average accuracy first.

    Raises:
        ClMlmError: the runs differ in stream rows or columns.
    """
    first = runs[0]
    for run in runs:
        if _table_key(run) != _table_key(first):
            raise ClMlmError(f"{run.folder} and {first.folder} differ in stream rows or columns: not comparable")
    by_settings: dict[tuple[str, str], list[RunSummary]] = defaultdict(list)
    for run in runs:
        by_settings[_group_key(run)].append(run)
    members = [tuple(sorted(group, key=lambda run: run.seed)) for group in by_settings.values()]
    groups = [Group(label, group) for label, group in zip(unique_labels(members), members, strict=True)]
    names = tuple(f"{name} (probe)" if is_probe(h) else name for name, h in zip(first.columns, first.home, strict=True))
    return StreamTable(first.stream, first.fingerprint, names, tuple(sorted(groups, key=_rank)), first.limit)


def _rank(group: Group) -> tuple[bool, float, str]:
    """Returns what groups are sorted by; one whose average accuracy is undefined comes last, equal ones by name."""
    mean = group.metric(RANKED_BY)[0]
    return is_undefined(mean), 0.0 if is_undefined(mean) else -mean, group.label


def _table_key(run: RunSummary) -> tuple[object, ...]:
    """Returns what the runs of one table have in common."""
    return run.fingerprint, run.columns, run.matrix.shape, run.limit


def _group_key(run: RunSummary) -> tuple[str, str]:
    """Returns what the runs of one group have in common."""
    # The order of the strategies matters. Sorting the keys loses it, the label keeps it.
    return run.label, json.dumps(run.settings, sort_keys=True)


def _without_limited(runs: list[RunSummary]) -> tuple[list[RunSummary], list[str]]:
    """Returns the full runs, or all where none is full, and a line on those that a limit made smoke runs."""
    full = [run for run in runs if run.limit is None]
    num_limited = len(runs) - len(full)
    if not num_limited:
        return runs, []
    if not full:
        return runs, ["smoke runs: their limit of rows and steps makes these numbers no results"]
    names = [run.folder.name for run in runs if run.limit is not None]
    shown = ", ".join(names[:MOST_NAMED]) + (", ..." if num_limited > MOST_NAMED else "")
    return full, [f"left out, for smoke runs (limit) are no results: {num_limited}: {shown}"]


def _one_per_seed(runs: Sequence[RunSummary]) -> tuple[list[RunSummary], list[str]]:
    """Returns one run for each group and seed, and a line for each run left out.

    Of the runs of one config the newest stays (`newest_runs`), of equal ones in several folders the last by path.
    """
    last = {(_table_key(run), _group_key(run), run.seed): run for run in newest_runs(runs)[0]}
    distinct = list(last.values())
    repeated = [run for run in runs if run not in distinct]
    return distinct, [f"same settings and seed as a later run, left out: {run.folder}" for run in repeated]


def _write(section: StreamTable, folder: Path, suffix: str) -> list[Path]:
    """Writes the three files of one table and returns their paths; `suffix` is added to their names."""
    from cl_mlm.results import figures

    header = ["stream", "fingerprint", "group", "seeds", "best"]
    header += [column for name in section.metrics for column in (name, f"{name}_ci95")]
    rows = [_csv_row(section, group) for group in section.groups]
    return [
        write_csv(folder / f"compare{suffix}.csv", [*header, *(key for _, key, _ in COSTS)], rows),
        write_csv(folder / f"curves{suffix}.csv", ["group", "seed", "stage", "column", "score"], _curve_rows(section)),
        figures.save(section_figure(section), folder / f"compare{suffix}.png"),
    ]


def section_figure(section: StreamTable) -> Figure:
    """Returns the forgetting curves of a table's groups in one figure."""
    from cl_mlm.results import figures

    curves = [
        figures.Curves(group.label, np.stack([run.matrix for run in group.runs]), group.runs[0].home)
        for group in section.groups
    ]
    return figures.comparison_curves(curves, section.columns)


def _csv_row(section: StreamTable, group: Group) -> list[str | float]:
    """Returns the row of a group in `compare.csv`."""
    numbers = [number for name in section.metrics for number in group.metric(name)]
    costs = [group.cost(key) for _, key, _ in COSTS]
    best = BEST if group in section.best else ""
    return [section.stream, section.fingerprint, group.label, len(group.runs), best, *numbers, *costs]


def _curve_rows(section: StreamTable) -> Iterator[tuple[str | int | float, ...]]:
    """Yields a row of `curves.csv` for each measured score; stages are counted from 0."""
    for group in section.groups:
        for run in group.runs:
            for (i, j), score in np.ndenumerate(run.matrix):
                if not np.isnan(score):
                    yield group.label, run.seed, i, run.columns[j], float(score)


def _score_header(section: StreamTable) -> list[str]:
    units = {"%": "%", "points": "pt"}
    return ["strategy", "seeds", *(f"{_short(name)} {units[unit_of(name)]}" for name in section.metrics)]


def _score_tables(section: StreamTable) -> list[Table]:
    rows = [section.score_cells(group) for group in section.groups]
    return tables_that_fit(section.title, _score_header(section), rows)


def _cost_tables(section: StreamTable) -> list[Table]:
    rows = [[group.label, *_cost_cells(group)] for group in section.groups]
    return tables_that_fit("mean cost of a run", ["strategy", *(title for title, _, _ in COSTS)], rows)


def _cost_cells(group: Group) -> list[str]:
    costs = [(group.cost(key), scale) for _, key, scale in COSTS]
    return [UNDEFINED if is_undefined(cost) else f"{cost / scale:,.1f}" for cost, scale in costs]


def _with_nan(scores: Sequence[float | None]) -> list[float]:
    return [np.nan if score is None else score for score in scores]


def _short(name: str) -> str:
    return SHORT_NAMES.get(name, name)


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|")
