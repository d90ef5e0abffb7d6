"""How a run shows itself in a notebook: a line, an HTML table, a pandas frame, a figure."""

from __future__ import annotations

from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from cl_mlm.metrics import as_matrix
from cl_mlm.results.run_report import hundredths, is_probe, is_undefined, notes, stage_names, unit_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.figure import Figure
    from pandas import DataFrame

MOST_ROWS: Final = 20  # of a table in a notebook
MOST_COLUMNS: Final = 20
STYLE: Final = "text-align: right; padding: 0.1em 0.6em"


def run_line(summary: Mapping[str, Any]) -> str:
    """Returns stages, average accuracy and forgetting of a run in a line."""
    stages = len(stage_names(summary))
    figures = [
        f"{name.replace('_', ' ')} {hundredths(value)} {unit_of(name)}"
        for name in ("average_accuracy", "forgetting")
        if not is_undefined(value := summary["metrics"].get(name))
    ]
    return ", ".join([f"{stages} stage{'s' * (stages != 1)}", *figures])


def run_frame(summary: Mapping[str, Any]) -> DataFrame:
    """Returns a row for each stage and column; see `cl_mlm.Result.frame`."""
    from pandas import DataFrame

    accuracy, validation = as_matrix(summary["accuracy_matrix"]), as_matrix(summary["validation_matrix"])
    rows = [
        (i, stage, column, home, float(accuracy[i, j]), float(validation[i, j]))
        for i, stage in enumerate(stage_names(summary))
        for j, (column, home) in enumerate(zip(summary["columns"], summary["home"], strict=True))
    ]
    frame = DataFrame(rows, columns=["stage_index", "stage", "column", "home", "accuracy", "validation"])
    return frame.astype({"home": "Int64"})


def run_figure(summary: Mapping[str, Any]) -> Figure:
    """Returns the forgetting curves of a run."""
    from cl_mlm.results.figures import forgetting_curves

    matrix = as_matrix(summary["accuracy_matrix"])
    return drawn(forgetting_curves(matrix, stage_names(summary), marked_columns(summary), summary["home"]))


def run_html(summary: Mapping[str, Any], title: str) -> str:
    """Returns accuracy matrix, metrics and notes of a run as HTML without any outside resource."""
    stages, columns, matrix = stage_names(summary), marked_columns(summary), as_matrix(summary["accuracy_matrix"])
    shown_rows = _ends(len(stages), MOST_ROWS)
    shown = columns[:MOST_COLUMNS]
    rows = [[stages[i], *(hundredths(score) for score in matrix[i, : len(shown)])] for i in shown_rows]
    left_out = [
        f"{number} more {what}: frame() has them all"
        for number, what in (
            (len(stages) - len(shown_rows), "stages"),
            (len(columns) - len(shown), "columns"),
        )
        if number > 0
    ]
    metrics = [
        [name.replace("_", " "), f"{hundredths(value)} {'' if is_undefined(value) else unit_of(name)}"]
        for name, value in summary["metrics"].items()
    ]
    parts = [
        html_table(["score (%) after stage", *shown], rows, title),
        html_list(left_out),
        html_table(["metric", "value"], metrics),
        html_list(notes(summary)),
    ]
    return "<div>" + "".join(parts) + "</div>"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> str:
    """Returns an HTML table; every text is escaped."""
    caption = f"<caption style='text-align: left'>{escape(title)}</caption>" if title else ""
    head = "".join(f"<th style='{STYLE}'>{escape(str(cell))}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td style='{STYLE}'>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_list(lines: Sequence[str]) -> str:
    """Returns lines as an HTML list; nothing where there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def marked_columns(summary: Mapping[str, Any]) -> list[str]:
    """Returns the names of the columns, probes marked."""
    pairs = zip(summary["columns"], summary["home"], strict=True)
    return [f"{name} (probe)" if is_probe(home) else str(name) for name, home in pairs]


def drawn(figure: Figure) -> Figure:
    """Returns the figure, which a notebook now shows; Jupyter knows only figures of pyplot by itself."""

    def png() -> bytes:
        file = BytesIO()
        figure.savefig(file, format="png", dpi=100)
        return file.getvalue()

    vars(figure)["_repr_png_"] = png
    return figure


def _ends(number: int, most: int) -> list[int]:
    """Returns the first and the last of `number` positions, at most `most` of them."""
    positions = list(range(number))
    return positions if number <= most else [*positions[: most // 2], *positions[-most // 2 :]]
