"""Says whether summary, tables and predictions of a finished run agree with each other and with the journal."""

from __future__ import annotations

import csv
import json
import math
from typing import TYPE_CHECKING, Any

from PIL import Image

from cl_mlm.errors import RunFolderError
from cl_mlm.metrics import as_matrix, summarise
from cl_mlm.results.summary_file import read_summary_file
from cl_mlm.tracking.slugs import slugs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cl_mlm.check.findings import Findings
    from cl_mlm.check.kept_journal import KeptJournal
    from cl_mlm.run_folder import RunFolder

CLOSE = 1e-9  # of metrics, whose last bit may differ between versions of numpy


def check_summary(
    found: Findings, path: Path, journal: KeptJournal, settings: Mapping[str, Any], *, is_finished: bool
) -> dict[str, Any] | None:
    """Adds whether `summary.json` is a summary, and says what journal and config say; returns it, None: it is damaged.

    Args:
        found: mutated.
        path: of the file.
        journal: of the run.
        settings: of the run's config, by key path.
        is_finished: False where the run was cut off after it had written its summary.
    """
    try:
        summary = read_summary_file(path)
    except RunFolderError as error:
        found.add("summary", "", [str(error).replace(f"{path.parent}/", "")], found.resume())
        return None
    faults = [f"summary.json: {fault}" for fault in _contradictions(summary, journal, settings, is_finished)]
    seen = f"{len(summary['accuracy_matrix'])} x {len(summary['columns'])} scores, {len(summary['metrics'])} metrics"
    found.add("summary", seen, faults, found.resume())
    return summary


def check_tables(found: Findings, folder: RunFolder, summary: Mapping[str, Any], journal: KeptJournal) -> None:
    """Adds whether the tables of a finished run hold the matrices of its summary, and its figures are images."""
    paths = [folder.path / name for name in journal.artifacts]
    faults = [f"{path.relative_to(folder.path)}: is missing" for path in paths if not path.exists()]
    for name in ("accuracy_matrix", "validation_matrix"):
        faults += _wrong_table(folder.path / f"{name}.csv", summary.get(name))
    faults += _wrong_matrices(folder.path / "matrices.json", summary)
    for path in sorted(folder.figures.glob("*.png")):
        try:
            with Image.open(path) as image:
                image.verify()
        except (OSError, ValueError, SyntaxError) as error:
            faults.append(f"figures/{path.name}: is no whole image: {error}".replace(f"{folder.path}/", ""))
    try:
        if folder.per_class.is_file() and len({len(row) for row in _rows(folder.per_class)}) != 1:
            faults.append("per_class.csv: is no table")
    except (OSError, ValueError, csv.Error) as error:
        faults.append(f"per_class.csv: cannot be read: {error}")
    found.add("tables and figures", f"{len(paths)} files", list(dict.fromkeys(faults)), found.resume())


def test_rows(summary: Mapping[str, Any]) -> dict[str, int]:
    """Returns the number of test rows by column, as far as a summary tells it."""
    ceilings = summary.get("ceilings")
    found = {}
    for name, ceiling in ceilings.items() if isinstance(ceilings, dict) else ():
        if (
            isinstance(ceiling, dict)
            and ceiling.get("split") == "test"
            and isinstance(ceiling.get("rows_of_split"), int)
        ):
            found[name] = ceiling["rows_of_split"]
    return found


def _contradictions(
    summary: Mapping[str, Any], journal: KeptJournal, settings: Mapping[str, Any], is_finished: bool
) -> Iterator[str]:
    if journal.head is not None and summary.get("run_id", journal.head[1]) != journal.head[1]:
        yield f"is that of {summary['run_id']}, the journal that of {journal.head[1]}"
    then, now = journal.tags.get(None, {}).get("stream/fingerprint"), summary["stream"]["fingerprint"]
    if then is not None and then != now:
        yield f"stream.fingerprint must be {then[:12]} as in the journal, got {now[:12]}"
    if settings and summary["seed"] != settings.get("seed"):
        yield f"seed must be {settings.get('seed')!r} as in the config, got {summary['seed']!r}"
    yield from _other_points(summary, journal, is_finished)
    yield from _other_metrics(summary)


def _other_points(summary: Mapping[str, Any], journal: KeptJournal, is_finished: bool) -> Iterator[str]:
    """Yields the scores that are not the points of the journal."""
    if journal.faults:
        return
    names = slugs(summary["columns"])
    for key, prefix in (("accuracy_matrix", "accuracy/"), ("validation_matrix", "validation/")):
        if key not in summary:
            continue
        rows = enumerate(summary[key])
        scores = {(names[j], i): x for i, row in rows for j, x in enumerate(row) if x is not None}
        yield from _unequal(key, scores, journal.run_points(prefix))
    last = len(summary["accuracy_matrix"]) - 1
    metrics = {(name, last): value for name, value in summary["metrics"].items() if value is not None}
    points = {at: value for at, value in journal.run_points("summary/").items() if not at[0].startswith("probe/")}
    if is_finished:
        yield from _unequal("metrics", metrics, points)
    # Where prompts have given a score before training, the journal has it under their name.
    baseline = {(names[j], 0): x for j, x in enumerate(summary.get("baseline") or ()) if x is not None}
    points = journal.run_points("baseline/")
    yield from _unequal("baseline", {at: x for at, x in baseline.items() if at in points}, points)


def _unequal(
    what: str, values: Mapping[tuple[str, int], float], points: Mapping[tuple[str, int], float]
) -> Iterator[str]:
    unequal = [at for at in dict.fromkeys([*points, *values]) if values.get(at) != points.get(at)]
    if unequal:
        name, step = unequal[0]
        more = f"; {len(unequal) - 1} more differ" if len(unequal) > 1 else ""
        told, measured = values.get((name, step)), points.get((name, step))
        yield f"{what}: {name} after stage {step} is {told} here and {measured} in the journal{more}"


def _other_metrics(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yields the metrics that are not those of the matrix."""
    try:
        values, _ = summarise(
            summary["accuracy_matrix"], summary.get("baseline"), summary["home"], summary.get("start", summary["home"])
        )
    except (ValueError, IndexError) as error:
        yield f"its matrices contradict each other: {error}"
        return
    for name, value in values.items():
        told = summary["metrics"].get(name)
        if name in summary["metrics"] and not _is_close(math.nan if told is None else told, value):
            yield f"metrics.{name} must be {value:.6g} by the accuracy matrix, got {told}"


def _is_close(first: float, second: float) -> bool:
    return (math.isnan(first) and math.isnan(second)) or abs(first - second) <= CLOSE


def _wrong_table(path: Path, matrix: Any) -> Iterator[str]:
    if matrix is None:
        return
    try:
        rows = [[float(cell) if cell else None for cell in row[1:]] for row in _rows(path)[1:]]
    except FileNotFoundError:
        return  # told by its name in the journal
    except (OSError, ValueError, csv.Error) as error:
        yield f"{path.name}: cannot be read: {error}"
        return
    expected = [[None if math.isnan(x) else x for x in row] for row in as_matrix(matrix).tolist()]
    if rows != expected:
        yield f"{path.name}: does not hold the matrix of summary.json"


def _wrong_matrices(path: Path, summary: Mapping[str, Any]) -> Iterator[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        unequal = [key for key, value in content.items() if key in summary and value != summary[key]]
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        yield f"{path.name}: is damaged: {error}"
        return
    if unequal or not content:
        yield f"{path.name}: differs from summary.json in {', '.join(unequal) or 'everything'}"


def _rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))
