"""Draws accuracy matrices: forgetting curves, heat maps, and the curves of several runs in one figure.

Every function returns a Matplotlib `Figure`. None uses pyplot, whose global state belongs to the user.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cl_mlm.metrics import FloatArray, Home, stage_averages
from cl_mlm.whole_files import written_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
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
    """The scores of runs that differ only by seed.

    Attributes:
        label: of the group.
        matrices: accuracy matrices, (seeds, stages, columns) in 0-1.
        home: stage after which each column counts as learned; -1: a probe.
    """

    label: str
    matrices: FloatArray
    home: tuple[int, ...]

    @property
    def averages(self) -> FloatArray:
        """Mean score over the columns learned so far, (seeds, stages)."""
        return np.stack([stage_averages(matrix, self.home) for matrix in self.matrices])


def forgetting_curves(matrix: FloatArray, stages: Sequence[str], columns: Sequence[str], home: Home = None) -> Figure:
    """Returns a figure with one line a column over the stages, and the average over the columns learned so far.

    Args:
        matrix: (stages, columns) in 0-1; may have fewer rows than there are stages.
        stages: names of all stages.
        columns: names of the columns.
        home: stage after which each column counts as learned; None or below 0: a probe, whose line is dotted.
    """
    from matplotlib.figure import Figure

    num_rows, num_columns = matrix.shape
    probes = _probes(home)
    figure = Figure(
        figsize=_size(max(6.5, 3.6 + 0.45 * num_rows), max(4.2, 1.6 + 0.24 * num_columns)), layout="constrained"
    )
    axes = figure.add_subplot()
    measured = np.flatnonzero(~np.isnan(matrix).all(axis=1))  # a line joins measured stages across unmeasured ones
    handles: list[Artist] = []
    for j, color in enumerate(_column_colors(num_columns)):
        style = ":" if j in probes else "-"
        marker = MARKERS[j % len(MARKERS)]
        handles += axes.plot(
            measured, 100 * matrix[measured, j], style, color=color, marker=marker, markersize=4.5, linewidth=1.5
        )
    averages = 100 * stage_averages(matrix, home)[measured]
    handles += axes.plot(measured, averages, "--", color="black", linewidth=2.4, marker="x")
    _score_axis(axes)
    _stage_axis(axes, [shorten(name) for name in stages[:num_rows]])
    axes.set_ylabel(SCORE)
    names = [shorten(name) for name in columns]
    axes.legend(
        handles, [*names, "average over learned"], title="Scored on", loc="center left", bbox_to_anchor=(1.01, 0.5)
    )
    return figure


def accuracy_matrix(matrix: FloatArray, stages: Sequence[str], columns: Sequence[str]) -> Figure:
    """Returns a heat map of the matrix; entries that were not measured are grey.

    Args:
        matrix: (stages, columns) in 0-1. Up to `MAX_NUMBERED_COLUMNS` columns the scores are written into it.
        stages: names of the rows.
        columns: names of the columns.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    num_rows, num_columns = matrix.shape
    figure = Figure(figsize=_size(3.6 + 0.42 * num_columns, 2.4 + 0.36 * num_rows), layout="constrained")
    axes = figure.add_subplot()
    palette = colormaps["cividis"].with_extremes(bad="#d9d9d9")
    image = axes.imshow(np.ma.masked_invalid(100 * matrix), cmap=palette, vmin=0, vmax=100, aspect="auto")
    _stage_axis(axes, [shorten(name) for name in columns])
    axes.set_xlabel("Scored on (grey: not measured)")
    named_rows = _ticks(num_rows)
    axes.set_yticks(named_rows, [shorten(stages[i]) for i in named_rows])
    axes.set_ylabel("After training on stage")
    figure.colorbar(image, ax=axes, label=SCORE)
    if num_columns <= MAX_NUMBERED_COLUMNS:
        for (i, j), score in np.ndenumerate(100 * matrix):
            if not math.isnan(score):
                ink = "black" if score > 55 else "white"
                axes.text(j, i, f"{score:.0f}", ha="center", va="center", color=ink, fontsize=8)
    return figure


def comparison_curves(groups: Sequence[Curves], columns: Sequence[str]) -> Figure:
    """Returns the forgetting curves of several groups: a panel for the average, and a panel for each column.

    Of many columns 15, evenly spread, get a panel. A line is the mean over seeds; a band reaches from the lowest to the
    highest seed. A group that measured its last stage only (joint training) is a horizontal dashed line.
    """
    from matplotlib.figure import Figure

    spread = np.linspace(0, len(columns) - 1, min(len(columns), MAX_PANELS - 1))
    drawn_columns = [round(float(position)) for position in spread]
    num_panels = len(drawn_columns) + 1
    width = math.ceil(math.sqrt(num_panels))
    height = math.ceil(num_panels / width)
    figure = Figure(figsize=(1.0 + 2.7 * max(width, 2), 1.7 + 2.1 * height), layout="constrained")
    grid = figure.subplots(height, width, sharex=True, sharey=True, squeeze=False)
    panels = [axes for row in grid for axes in row]
    handles = _panel(panels[0], "average over learned", groups, [group.averages for group in groups])
    for axes, j in zip(panels[1:], drawn_columns, strict=False):  # the grid may have more places than panels
        _panel(axes, shorten(columns[j]), groups, [group.matrices[:, :, j] for group in groups])
    for k, axes in enumerate(panels):
        axes.set_visible(k < num_panels)
        # Matplotlib labels the lowest row of a shared axis only. A panel above an empty place needs labels, too.
        axes.tick_params(labelbottom=k + width >= num_panels)
    figure.supxlabel("After training on stage (index)", fontsize=10)
    figure.supylabel(SCORE, fontsize=10)
    is_some = len(drawn_columns) < len(columns)
    some = f"; {len(drawn_columns)} of {len(columns)} columns" if is_some else ""
    names = [shorten(group.label, 48) for group in groups]
    # A panel is about 32 characters wide, and the line beside a name takes about 8.
    fits_in_one_row = sum(len(name) + 8 for name in names) <= 32 * width
    per_row = len(names) if fits_in_one_row else max(1, 32 * width // (max(map(len, names)) + 8))
    title = f"Mean over seeds (band: lowest to highest seed){some}"
    figure.legend(handles, names, title=title, loc="outside upper center", ncols=per_row, frameon=False)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure as PNG and returns its path; creates the folder."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path


def shorten(name: str, length: int = 22) -> str:
    """Returns `name` cut to `length` characters and shown by Matplotlib as it is.

    Matplotlib reads `$` as a formula, and leaves a name that begins with `_` out of the legend.
    """
    cut = name if len(name) <= length else name[: length - 1] + "…"
    return (" " if cut.startswith("_") else "") + cut.replace("$", r"\$")


def _panel(axes: Axes, title: str, groups: Sequence[Curves], scores: Sequence[FloatArray]) -> list[Artist]:
    """Draws one panel and returns a line of each group for the legend.

    Args:
        axes: the panel.
        title: of the panel.
        groups: what is drawn.
        scores: of every group, (seeds, stages) in 0-1.
    """
    from matplotlib.ticker import MaxNLocator

    handles: list[Artist] = []
    for k, (group, runs) in enumerate(zip(groups, scores, strict=True)):
        color = PALETTE[k % len(PALETTE)]
        mean = 100 * runs.mean(axis=0)
        if _only_last_row(group):
            handles.append(axes.axhline(mean[-1], color=color, linestyle="--", linewidth=1.5))
            continue
        style = LINE_STYLES[k // len(PALETTE) % len(LINE_STYLES)]
        marker = MARKERS[k % len(MARKERS)]
        measured = np.flatnonzero(~np.isnan(group.matrices).all(axis=(0, 2)))
        line_format: dict[str, Any] = {
            "linestyle": style,
            "color": color,
            "marker": marker,
            "markersize": 3.5,
            "linewidth": 1.5,
        }
        handles += axes.plot(measured, mean[measured], **line_format)
        if len(runs) > 1:
            low, high = 100 * runs[:, measured].min(axis=0), 100 * runs[:, measured].max(axis=0)
            axes.fill_between(measured, low, high, color=color, alpha=0.18, linewidth=0)
    axes.set_title(title, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(-0.5, scores[0].shape[1] - 0.5)
    _score_axis(axes)
    return handles


def _only_last_row(group: Curves) -> bool:
    """Returns whether the group's runs measured the last of several stages only (joint training)."""
    return group.matrices.shape[1] > 1 and bool(np.isnan(group.matrices[:, :-1]).all())


def _probes(home: Home) -> set[int]:
    """Returns the indices of the columns that no stage trains on."""
    return set() if home is None else {j for j, stage in enumerate(home) if stage is None or stage < 0}


def _size(width: float, height: float) -> tuple[float, float]:
    """Returns a figure's size in inches, cut to `MAX_INCHES`: viewers must be able to open the PNG of many stages."""
    return min(width, MAX_INCHES), min(height, MAX_INCHES)


def _ticks(number: int) -> list[int]:
    """Returns the positions, of `number`, that get a name: at most `MAX_TICKS`, evenly spread, so that none overlap."""
    return list(range(0, number, math.ceil(number / MAX_TICKS) or 1))


def _score_axis(axes: Axes) -> None:
    axes.set_ylim(-2, 102)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _stage_axis(axes: Axes, names: Sequence[str]) -> None:
    """Labels the horizontal axis with names; long names are slanted, so that they do not touch."""
    named = _ticks(len(names))
    labels = [names[i] for i in named]
    if max(map(len, names), default=0) > 6:
        axes.set_xticks(named, labels, rotation=40, ha="right")
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    else:
        axes.set_xticks(named, labels, rotation=0, ha="center")
    axes.set_xlabel("After training on stage")


def _column_colors(num_columns: int) -> list[str]:
    """Returns a colour for each column: up to six are distinct, more run from dark (early) to light (late)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if num_columns <= len(PALETTE):
        return list(PALETTE[:num_columns])
    return [to_hex(colormaps["viridis"](place)) for place in np.linspace(0, 0.92, num_columns)]
