"""Figures of accuracy matrices; every function returns a Matplotlib Figure and touches no global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cl_mlm.metrics import FloatArray, Home, stage_averages

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette without black (kept for averages) and yellow (too light on white).
PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINE_STYLES: Final = ("-", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS: Final = "osD^vP"
MAX_PANELS: Final = 16
MAX_NUMBERED_COLUMNS: Final = 20
MAX_INCHES: Final = 32.0
MAX_TICKS: Final = 64
SCORE: Final = "Score (%)"


@dataclass(frozen=True, eq=False)
class Curves:
    """One group of runs that differ only by seed: their matrices, `(seeds, stages, columns)` in 0-1."""

    label: str
    matrices: FloatArray
    home: tuple[int, ...]

    @property
    def averages(self) -> FloatArray:
        """Mean score over the columns learned so far, `(seeds, stages)`."""
        return np.stack([stage_averages(matrix, self.home) for matrix in self.matrices])


def forgetting_curves(matrix: FloatArray, stages: Sequence[str], columns: Sequence[str], home: Home = None) -> Figure:
    """Returns one line per column over stages, and their average over the columns learned so far.

    Args:
        matrix: `(stages, columns)` in 0-1; may have fewer rows than there are stages.
        stages: names of all stages.
        columns: names of the columns.
        home: stage after which each column counts as learned; probes are dotted.
    """
    from matplotlib.figure import Figure

    num_rows, num_columns = matrix.shape
    homes = range(num_columns) if home is None else [-1 if h is None else h for h in home]
    figure = Figure(
        figsize=_size(max(6.5, 3.6 + 0.45 * num_rows), max(4.2, 1.6 + 0.24 * num_columns)), layout="constrained"
    )
    axes = figure.add_subplot()
    places = np.flatnonzero(~np.isnan(matrix).all(axis=1))  # lines join what is measured
    handles: list[Artist] = []
    for j, color in enumerate(_column_colors(num_columns)):
        style = ":" if homes[j] < 0 else "-"
        marker = MARKERS[j % len(MARKERS)]
        handles += axes.plot(
            places, 100 * matrix[places, j], style, color=color, marker=marker, markersize=4.5, linewidth=1.5
        )
    averages = 100 * stage_averages(matrix, home)[places]
    handles += axes.plot(places, averages, "--", color="black", linewidth=2.4, marker="x")
    _score_axis(axes)
    _stage_axis(axes, [shorten(name) for name in stages[:num_rows]])
    axes.set_ylabel(SCORE)
    names = [shorten(name) for name in columns]
    axes.legend(
        handles, [*names, "average over learned"], title="Scored on", loc="center left", bbox_to_anchor=(1.01, 0.5)
    )
    return figure


def accuracy_matrix(matrix: FloatArray, stages: Sequence[str], columns: Sequence[str]) -> Figure:
    """Returns a heat map of the matrix, with numbers up to 20 columns; what was not measured is grey."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    num_rows, num_columns = matrix.shape
    figure = Figure(figsize=_size(3.6 + 0.42 * num_columns, 2.4 + 0.36 * num_rows), layout="constrained")
    axes = figure.add_subplot()
    palette = colormaps["cividis"].with_extremes(bad="#d9d9d9")
    image = axes.imshow(np.ma.masked_invalid(100 * matrix), cmap=palette, vmin=0, vmax=100, aspect="auto")
    _stage_axis(axes, [shorten(name) for name in columns])
    axes.set_xlabel("Scored on (grey: not measured)")
    places = _ticks(num_rows)
    axes.set_yticks(places, [shorten(stages[i]) for i in places])
    axes.set_ylabel("After training on stage")
    figure.colorbar(image, ax=axes, label=SCORE)
    if num_columns <= MAX_NUMBERED_COLUMNS:
        for (i, j), score in np.ndenumerate(100 * matrix):
            if not math.isnan(score):
                ink = "black" if score > 55 else "white"
                axes.text(j, i, f"{score:.0f}", ha="center", va="center", color=ink, fontsize=8)
    return figure


def comparison_curves(groups: Sequence[Curves], columns: Sequence[str]) -> Figure:
    """Returns overlaid forgetting curves: a panel for the average, and one per column (at most 15 of them).

    Lines are means over seeds, bands reach from the lowest to the highest seed. A group of which only the last row
    is measured (joint) is a horizontal dashed line.
    """
    from matplotlib.figure import Figure

    spread = np.linspace(0, len(columns) - 1, min(len(columns), MAX_PANELS - 1))
    shown = [round(float(place)) for place in spread]
    num_panels = len(shown) + 1
    width = math.ceil(math.sqrt(num_panels))
    height = math.ceil(num_panels / width)
    figure = Figure(figsize=(1.0 + 2.7 * max(width, 2), 1.7 + 2.1 * height), layout="constrained")
    grid = figure.subplots(height, width, sharex=True, sharey=True, squeeze=False)
    panels = [axes for row in grid for axes in row]
    handles = _panel(panels[0], "average over learned", groups, [group.averages for group in groups])
    for axes, j in zip(panels[1:], shown, strict=False):
        _panel(axes, shorten(columns[j]), groups, [group.matrices[:, :, j] for group in groups])
    for k, axes in enumerate(panels):
        axes.set_visible(k < num_panels)
        # A shared axis labels its lowest row only; above an empty place the lowest panel is one row higher.
        axes.tick_params(labelbottom=k + width >= num_panels)
    figure.supxlabel("After training on stage (index)", fontsize=10)
    figure.supylabel(SCORE, fontsize=10)
    some = f"; {len(shown)} of {len(columns)} columns" if len(shown) < len(columns) else ""
    names = [shorten(group.label, 48) for group in groups]
    # A name takes about eight characters more for its line, and a panel is about 32 wide.
    one_row = sum(len(name) + 8 for name in names) <= 32 * width
    per_row = len(names) if one_row else max(1, 32 * width // (max(map(len, names)) + 8))
    title = f"Mean over seeds (band: lowest to highest seed){some}"
    figure.legend(handles, names, title=title, loc="outside upper center", ncols=per_row, frameon=False)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure as PNG and returns its path; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=130)
    return path


def shorten(name: str, length: int = 22) -> str:
    """Returns `name` safe for Matplotlib (no formulas, not hidden from legends), cut to `length` characters."""
    cut = name if len(name) <= length else name[: length - 1] + "…"
    return (" " if cut.startswith("_") else "") + cut.replace("$", r"\$")


def _panel(axes: Axes, title: str, groups: Sequence[Curves], scores: Sequence[FloatArray]) -> list[Artist]:
    """Draws `scores`, `(seeds, stages)` for every group, and returns a line of each for the legend."""
    from matplotlib.ticker import MaxNLocator

    handles: list[Artist] = []
    for k, (group, runs) in enumerate(zip(groups, scores, strict=True)):
        color, mean = PALETTE[k % len(PALETTE)], 100 * runs.mean(axis=0)
        if _only_last_row(group):
            handles.append(axes.axhline(mean[-1], color=color, linestyle="--", linewidth=1.5))
            continue
        style = LINE_STYLES[k // len(PALETTE) % len(LINE_STYLES)]
        marker = MARKERS[k % len(MARKERS)]
        places = np.flatnonzero(~np.isnan(group.matrices).all(axis=(0, 2)))  # lines join what is measured
        look: dict[str, Any] = {
            "linestyle": style,
            "color": color,
            "marker": marker,
            "markersize": 3.5,
            "linewidth": 1.5,
        }
        handles += axes.plot(places, mean[places], **look)
        if len(runs) > 1:
            low, high = (100 * extreme(runs[:, places], axis=0) for extreme in (np.min, np.max))
            axes.fill_between(places, low, high, color=color, alpha=0.18, linewidth=0)
    axes.set_title(title, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(-0.5, scores[0].shape[1] - 0.5)
    _score_axis(axes)
    return handles


def _only_last_row(group: Curves) -> bool:
    """Says whether the group's runs measured nothing before the last of several stages (joint training)."""
    return group.matrices.shape[1] > 1 and bool(np.isnan(group.matrices[:, :-1]).all())


def _size(width: float, height: float) -> tuple[float, float]:
    """Returns a figure's size in inches, no side longer than a PNG file of many stages can be read at."""
    return min(width, MAX_INCHES), min(height, MAX_INCHES)


def _ticks(number: int) -> list[int]:
    """Returns which of so many places get a name, evenly, so that names do not lie over each other."""
    return list(range(0, number, math.ceil(number / MAX_TICKS) or 1))


def _score_axis(axes: Axes) -> None:
    axes.set_ylim(-2, 102)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _stage_axis(axes: Axes, names: Sequence[str]) -> None:
    """Labels the horizontal axis with names, slanted where they would touch."""
    slanted = max(map(len, names), default=0) > 6
    places = _ticks(len(names))
    axes.set_xticks(
        places, [names[i] for i in places], rotation=40 if slanted else 0, ha="right" if slanted else "center"
    )
    if slanted:
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    axes.set_xlabel("After training on stage")


def _column_colors(num_columns: int) -> list[str]:
    """Returns one colour per column: distinct up to six, above that from dark (early) to light (late)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if num_columns <= len(PALETTE):
        return list(PALETTE[:num_columns])
    return [to_hex(colormaps["viridis"](place)) for place in np.linspace(0, 0.92, num_columns)]
