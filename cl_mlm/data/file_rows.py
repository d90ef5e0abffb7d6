"""Reads the rows of a file in any of the formats, one by one, and collects its faults with their lines."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

BLOCK_ROWS = 1000  # rows that are in memory at once

Lines = Iterator[tuple[int, dict[str, Any], int]]  # line, row, size in bytes


class FileFaults:
    """Faults of one file; raises them as soon as there are `most`, so that a hopeless file is not read to its end."""

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.most = path, most
        self.problems: list[str] = []

    def add(self, line: int | None, text: str) -> None:
        """Adds a fault of a line; None: of the whole file.

        Raises:
            DataError: this is one fault too many.
        """
        self.problems.append(f"{self.path}: {text}" if line is None else f"{self.path}:{line}: {text}")
        if len(self.problems) == self.most:
            raise DataError([*self.problems, f"{self.path}: stopped after {self.most} faults"])

    def raise_any(self) -> None:
        """Raises DataError where there are faults."""
        if self.problems:
            raise DataError(self.problems)


def rows_of_file(path: Path, columns: Mapping[str, str], faults: FileFaults) -> Lines:
    """Yields line, row and size of every row, with our names of columns.

    A renamed column replaces one that has its new name in the file.
    """
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows, ".txt": _document_rows}
    for line, row, size in readers.get(path.suffix, _json_rows)(path, faults):
        if not columns:
            yield line, row, size
            continue
        renamed = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
        rest = {name: value for name, value in row.items() if name not in columns.values() and name not in columns}
        yield line, renamed | rest, size


def _json_rows(path: Path, faults: FileFaults) -> Lines:
    with path.open("rb") as file:  # a whole array may be one line: look before reading it
        if file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            faults.add(1, "must hold one JSON object a line, got a JSON array")
            return
    for number, raw in _text_lines(path, faults):
        line = raw.strip()
        if not line:
            continue
        try:
            row = json.loads(line)
            if "\\ud" in line.lower():  # half a surrogate pair is valid JSON and no valid text
                json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            faults.add(number, f"not valid JSON: {error.msg} at column {error.colno}")
        except UnicodeEncodeError:
            faults.add(number, "not valid text: half a surrogate pair")
        except (ValueError, RecursionError) as error:
            faults.add(number, f"not valid JSON: {error}")
        else:
            if isinstance(row, dict):
                yield number, row, len(line)
            else:
                faults.add(number, f"must be a JSON object, got {type(row).__name__}")


def _csv_rows(path: Path, faults: FileFaults) -> Lines:
    name, delimiter = ("TSV", "\t") if path.suffix == ".tsv" else ("CSV", ",")
    reader = csv.reader((line for _, line in _text_lines(path, faults)), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # it is unknown where the next row begins
            hint = "a field that begins with a quotation mark must be quoted, marks in it doubled"
            faults.add(start, f"not valid {name}: {error} ({hint})")
            return
        if not header:
            header = fields
            for column in sorted({column for column in fields if fields.count(column) > 1}):
                faults.add(start, f"must name every column once, got {column!r} twice")
        elif len(fields) == len(header):
            yield start, dict(zip(header, fields, strict=True)), sum(map(len, fields))
        elif fields:
            faults.add(start, f"must have {len(header)} fields as the header has, got {len(fields)}")


def _document_rows(path: Path, faults: FileFaults) -> Lines:
    for number, line in _text_lines(path, faults):
        if line.strip():
            text = line.rstrip("\r\n")
            yield number, {"text": text}, len(text)


def _text_lines(path: Path, faults: FileFaults) -> Iterable[tuple[int, str]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                faults.add(number, f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}")
                text = line.decode(errors="replace")  # so that the lines after it are checked too
            yield number, text


def _parquet_rows(path: Path, faults: FileFaults) -> Lines:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features

    number = 0
    try:
        file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        features = Features.from_arrow_schema(file.schema_arrow)
        classes = {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}
        for batch in file.iter_batches(BLOCK_ROWS):
            for row in batch.to_pylist():
                number += 1
                for name, names in classes.items():  # -1 is how `datasets` writes an unknown label
                    row[name] = names[row[name]] if row[name] is not None and row[name] >= 0 else None
                yield number, row, batch.nbytes // len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        faults.add(number + 1, f"not valid Parquet: {error}")
