"""The command that asks a finished run about new rows: `predict`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cl_mlm.cli.arguments import RunArgument
from cl_mlm.cli.printing import print_lines
from cl_mlm.errors import ConfigError
from cl_mlm.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OUTPUTS = (".csv", ".jsonl")


def predict(
    folder: RunArgument,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="New texts; tagging cuts them at blanks.", metavar="[TEXT]..."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Rows: .txt (a line a row), .csv, .tsv, .jsonl, .json, .parquet.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Of the file; default: UTF-8, or where it is not, that of the run's own files.")
    ] = None,
    stage: Annotated[int, typer.Option(help="The model after this stage, from 0; -1: after the last.")] = -1,
    task: Annotated[str | None, typer.Option(help="Of a run with several objectives, which one.")] = None,
    column: Annotated[str | None, typer.Option(help="Of a task-incremental run, whose labels rows may get.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: an accelerator if there is one.")] = None,
    output: Annotated[Path | None, typer.Option(help="Writes the answers to a .csv or .jsonl file instead.")] = None,
) -> None:
    """Predicts new texts with a finished run: answer, probability and text, a line each, cut by tabs."""
    from cl_mlm.experiment.result import load_result

    if bool(texts) == (file is not None):
        given = "both" if texts else "neither"
        raise ConfigError(f"predict: needs texts, or --file with rows: one of the two, got {given}")
    if encoding is not None and file is None:
        raise ConfigError(f"--encoding: is that of --file, which is not given; got {encoding!r}")
    runs = [text for text in texts or () if text.strip() and _is_run(text)]
    if runs:  # a shell has put several runs in the place of `runs/x/replay-*`
        raise ConfigError(f"predict: asks one run, got {', '.join([str(folder), *runs])}")
    for text in texts or ():
        _check_text(text)
    if output is not None:
        _check_output(output, file)
    result = load_result(folder)
    rows: Any = texts if file is None else result.read_rows(file, stage, task, encoding)
    answers = result.predict(rows, stage, task=task, column=column, device=device, scores=True)
    table: Mapping[str, Sequence[Any]] = {"text": texts} if texts else rows
    if output is None:
        print_lines(_line(answer, [values[i] for values in table.values()]) for i, answer in enumerate(answers))
        return
    _write(output, table, answers)
    print_lines([f"written: {output} ({len(answers)} rows)"])


def _is_run(text: str) -> bool:
    try:
        return RunFolder(Path(text)).config.is_file()
    except (OSError, ValueError):  # a text that is too long for a path, or holds a zero byte
        return False


def _check_text(text: str) -> None:
    """Refuses what a terminal of another encoding has typed.

    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"predict: a text must be UTF-8, got {text!r}") from error


def _check_output(output: Path, file: Path | None) -> None:
    """Refuses a file that cannot be written, before anything is predicted.

    Raises:
        ConfigError: it has another ending, is the input itself, or has no folder.
    """
    if output.suffix not in OUTPUTS:
        raise ConfigError(f"--output: must end in {' or '.join(OUTPUTS)}, got {str(output)!r}")
    if file is not None and output.resolve() == file.resolve():
        raise ConfigError(f"--output: must not be the file that is read, got {str(output)!r}")
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output: must lie in a folder that exists, got {str(output)!r}")


def _line(answer: tuple[Any, float | None], row: Sequence[Any]) -> str:
    """Returns answer, probability and row of one line; what is no text is JSON."""
    value, probability = answer
    cells = [_cell(value), "" if probability is None else f"{probability:.4f}", *map(_cell, row)]
    return "\t".join(" ".join(cell.split()) for cell in cells)


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write(output: Path, table: Mapping[str, Sequence[Any]], answers: Sequence[tuple[Any, float | None]]) -> None:
    """Writes a row for each answer: the columns that were read, `prediction` and `probability`.

    Raises:
        ConfigError: the file cannot be written.
    """
    rows = [
        {**{name: values[i] for name, values in table.items()}, "prediction": value, "probability": probability}
        for i, (value, probability) in enumerate(answers)
    ]
    try:
        with output.open("w", encoding="utf-8", newline="") as file:
            if output.suffix == ".jsonl":
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                return
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*table, "prediction", "probability"])
            writer.writerows(["" if v is None else _cell(v) for v in row.values()] for row in rows)
    except OSError as error:
        raise ConfigError(f"--output: cannot write {str(output)!r}: {error}") from error
