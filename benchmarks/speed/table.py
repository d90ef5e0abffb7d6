"""What was measured, kept as JSON and shown as a table and a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IDENTITY = ("name", "setting", "processor", "cores", "threads", "device", "precision", "model")
HEADER = ("row", "what", "setting", "value", "95 % interval", "target", "met", "quads", "note")


def is_met(value: float, target: float | None, *, at_least: bool) -> bool | None:
    """Says whether a value reaches its target; None where there is none."""
    if target is None:
        return None
    return value >= target if at_least else value <= target


def merge(path: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Writes rows into `path`: each replaces the one of the same identity, all others stay; returns all."""
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    fresh = {identity(row) for row in rows}
    together = [row for row in kept if identity(row) not in fresh] + [*rows]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps({"rows": [_finite(row) for row in together]}, indent=1, allow_nan=False) + "\n")
    temporary.replace(path)
    return together


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what a second measurement of the same thing on the same machine has in common."""
    return tuple(row[key] for key in IDENTITY)


def _finite(value: Any) -> Any:
    """Returns a value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cells(row: dict[str, Any]) -> list[str]:
    """Returns one line of the table."""
    has_interval = row["low"] is not None and math.isfinite(row["low"])
    sign = "≥" if row["at_least"] else "≤"
    notes = [row["note"]] if row["note"] else []
    if has_interval and not row["reached"]:
        notes.append("interval wider than asked")
    return [
        row["name"],
        row["title"],
        row["setting"],
        _number(row["value"]),
        f"{_number(row['low'])} to {_number(row['high'])}" if has_interval else "-",
        "-" if row["target"] is None else f"{sign} {row['target']:g}",
        {True: "yes", False: "NO", None: "-"}[row["met"]],
        str(row["quads"]),
        "; ".join(notes),
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def plain(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table in columns."""
    lines = [list(HEADER), *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table as Markdown, a line for what both settings measure.

    In brackets the 95 % interval and the number of quads where there are several; bold: the target is missed; †: of
    stages and splits cut with `--rows`.
    """
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    found = {(row["name"], row["setting"]): row for row in rows}
    head = ["what", *(heading for setting in settings for heading in ("target", setting))]
    lines = [head, ["---"] * len(head)]
    for name, title in {row["name"]: row["title"] for row in rows}.items():
        of_settings = [found.get((name, setting)) for setting in settings]
        lines.append([title, *(cell for row in of_settings for cell in _short(row))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(row: dict[str, Any] | None) -> tuple[str, str]:
    """Returns a row's target and what was measured."""
    if row is None:
        return "", ""
    *_, value, interval, target, met, quads, _ = cells(row)
    value = f"**{value}**" if met == "NO" else value
    cut = "†" if "--rows" in row.get("command", "") else ""
    within = [interval] if interval != "-" else []
    if quads != "1":
        within.append(f"{quads} quads")
    return target, value + cut + (f" ({'; '.join(within)})" if within else "")


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a figure: values with their intervals and targets on a logarithmic axis, one panel a setting."""
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(row["setting"] for row in rows))
    tallest = max(sum(row["setting"] == setting for row in rows) for setting in settings)
    figure = Figure(figsize=(8 * len(settings), 1.5 + 0.35 * tallest), layout="constrained")
    for axes, setting in zip(figure.subplots(1, len(settings), squeeze=False)[0], settings, strict=True):
        # A slope in percent, a share and seconds have no place on an axis of ratios.
        own = [row for row in rows if row["setting"] == setting and row["is_ratio"]][::-1]
        for y, row in enumerate(own):
            value, low, high = row["value"], row["low"], row["high"]
            bounds = [[0], [0]] if low is None or math.isnan(low) else [[value - low], [high - value]]
            axes.errorbar([value], [y], xerr=bounds, fmt="o", color="C1" if row["met"] is False else "C0", capsize=3)
            if row["target"] is not None:
                axes.plot([row["target"]], [y], marker=">" if row["at_least"] else "<", color="0.3", fillstyle="none")
        axes.axvline(1.0, color="0.8", linewidth=1, zorder=0)
        axes.set_xscale("log")
        axes.set_yticks(range(len(own)), [row["title"] for row in own])
        axes.set_xlabel("ratio (> at least, < at most)")
        axes.set_title(setting)
    figure.savefig(path)
