"""`ComparedRuns`: a comparison in Python and in notebooks; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from cl_mlm.errors import ConfigError
from cl_mlm.results.comparison import COSTS, RANKED_BY, compare_runs, section_figure
from cl_mlm.results.notebook import drawn, html_list, html_table
from cl_mlm.results.run_report import hundredths
from cl_mlm.results.runs import load_runs, unfinished_runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from pandas import DataFrame

    from cl_mlm.results.comparison import Comparison


@dataclass(frozen=True, repr=False)
class ComparedRuns:
    """Finished runs side by side: one row for all seeds of a setting, one table for each stream.

    Attributes:
        comparison: tables, and notes on runs that were left out.
    """

    comparison: Comparison

    @override
    def __repr__(self) -> str:
        tables = []
        for section in self.comparison.sections:
            scores = [f"{group.label} {hundredths(group.metric(RANKED_BY)[0])} %" for group in section.groups]
            tables.append(f"{section.title}: {', '.join(scores)}")
        return f"ComparedRuns({'; '.join(tables)})"

    def _repr_html_(self) -> str:
        parts = []
        for section in self.comparison.sections:
            names = [name.replace("_", " ") for name in section.metrics]
            rows = [section.score_cells(group) for group in section.groups]
            parts.append(html_table(["strategy", "seeds", *names], rows, section.title))
        return "<div>" + "".join(parts) + html_list(self.comparison.lines) + "</div>"

    def frame(self) -> DataFrame:
        """Returns a pandas frame with a row for each group of runs that differ only by seed, the best first.

        Its columns are `stream`, `fingerprint`, `group`, `seeds`, `best`, every metric (mean over seeds, 0-1) with its
        `_ci95` (half width of the 95 % interval), and costs, whose names hold the unit; NaN: undefined.
        """
        from pandas import DataFrame

        rows = []
        for section in self.comparison.sections:
            for group in section.groups:
                row: dict[str, object] = {"stream": section.stream, "fingerprint": section.fingerprint}
                row |= {"group": group.label, "seeds": len(group.runs), "best": group in section.best}
                for name in section.metrics:
                    row[name], row[f"{name}_ci95"] = group.metric(name)
                rows.append(row | {key: group.cost(key) for _, key, _ in COSTS})
        return DataFrame(rows)

    def plot(self, table: int = 0) -> Figure:
        """Returns the forgetting curves of all groups of a table, from 0, as a Matplotlib figure.

        Raises:
            ConfigError: there is no such table.
        """
        sections = self.comparison.sections
        if not 0 <= table < len(sections):
            raise ConfigError(f"table: must be 0 to {len(sections) - 1}, got {table}")
        return drawn(section_figure(sections[table]))

    def markdown(self) -> str:
        """Returns tables, legends and notes as Markdown."""
        return self.comparison.markdown()


def compared_runs(folders: Sequence[Path]) -> ComparedRuns:
    """Returns the comparison of all finished runs in and below these folders.

    Raises:
        ConfigError: there is none.
        RunFolderError: a folder is missing, or a run is damaged.
    """
    runs = {run.folder.resolve(): run for folder in folders for run in load_runs(folder)}
    notes = [f"unfinished, left out: {path}" for folder in folders for path in unfinished_runs(folder)]
    if not runs:
        listed = ", ".join(map(str, folders)) or "nothing"
        raise ConfigError(f"compare: must be given finished runs, or folders that hold some; got {listed}")
    return ComparedRuns(compare_runs(list(runs.values()), notes))
