"""Reads the rows of a file in any of the formats, one by one, and collects its faults with their lines."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from cl_mlm.config.undecodable import named_in_text
from cl_mlm.data.file_format import EXCEL_HINT, sound_text, text_lines, unlike_text
from cl_mlm.data.json_arrays import ArrayFault, array_items

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from cl_mlm.data.file_faults import FileFaults
    from cl_mlm.data.file_format import Reading

BLOCK_ROWS = 1000  # rows that are in memory at once
BLOCK_BYTES = 4 << 20
LONGEST_FIELD = (1 << 31) - 1  # the most that `csv` can be told on every platform
LIMIT = threading.Lock()  # of `csv.field_size_limit`, which is one for the whole process

Lines = Iterator[tuple[int, dict[str, Any], int]]  # line, row, size in bytes


def rows_of_file(path: Path, reading: Reading, separator: str | None, faults: FileFaults) -> Lines:
    """Yields line, row and size of every row, with the file's names of columns.

    Args:
        path: a file, or a folder that `datasets` has saved a data set in.
        reading: how it is read.
        separator: between the columns of a table; None: this is no table.
        faults: gets what cannot be read.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _saved_rows(path)
    if suffix == ".parquet":
        return _parquet_rows(path, faults)
    if separator is not None:
        return _table_rows(path, reading.encoding, separator, faults)
    read_rows = _document_rows if suffix == ".txt" else _json_rows
    return read_rows(path, reading.encoding, faults)


def _json_rows(path: Path, encoding: str | None, faults: FileFaults) -> Lines:
    if _is_array(path, encoding):
        return _array_rows(path, encoding, faults)
    return _json_lines(path, encoding, faults)


def _is_array(path: Path, encoding: str | None) -> bool:
    """Says whether a file begins with `[`; a whole array may be one line, which must not be read to see that."""
    if unlike_text(path, encoding):
        return False
    with path.open(encoding=encoding or "utf-8", errors="replace") as file:
        return file.read(64).removeprefix("\ufeff").lstrip().startswith("[")


def _json_lines(path: Path, encoding: str | None, faults: FileFaults) -> Lines:
    is_first = True
    for number, raw in text_lines(path, encoding, faults):
        line = raw.strip()
        if not line:
            continue
        try:
            row = json.loads(line)
            _check_surrogates(row, line)
        except json.JSONDecodeError as error:
            if is_first and line == "{":
                faults.add(number, "must hold one JSON object a line, or an array of objects; got one over many lines")
                return
            faults.add(number, "not valid JSON", f": {error.msg} at column {error.colno}")
        except UnicodeEncodeError:
            faults.add(number, "not valid text: half a surrogate pair")
        except (ValueError, RecursionError) as error:
            faults.add(number, "not valid JSON", f": {error}")
        else:
            if isinstance(row, dict):
                yield number, row, len(line)
            else:
                faults.add(number, "must be a JSON object", f", got {type(row).__name__}")
        is_first = False


def _check_surrogates(row: object, source: str) -> None:
    """Refuses half a surrogate pair, which is valid JSON and no valid text.

    Raises:
        UnicodeEncodeError: there is one.
    """
    if "\\ud" in source.lower():
        json.dumps(row, ensure_ascii=False).encode()


def _array_rows(path: Path, encoding: str | None, faults: FileFaults) -> Lines:
    with path.open(encoding=encoding or "utf-8", errors="surrogateescape") as file:
        if file.read(1) != "\ufeff":
            file.seek(0)
        try:
            for number, value, source in _numbered(array_items(file), faults):
                row = value
                text = sound_text(number, source, encoding, faults)
                if text != source:
                    row = json.loads(text)  # so that what else is wrong is told, too
                if not isinstance(row, dict):
                    faults.add(number, "must be a JSON object", f", got {type(row).__name__}")
                    continue
                try:
                    _check_surrogates(row, source)
                except UnicodeEncodeError:
                    faults.add(number, "not valid text: half a surrogate pair")
                    continue
                yield number, row, len(source)
        except ArrayFault as error:
            where = f" in line {error.line}" if faults.counts_items else ""
            faults.add(None if where else error.line, f"not valid JSON: {error}{where}")
        except UnicodeError as error:
            faults.add(None, f"not {encoding}", f": {error}")


def _numbered(items: Iterator[tuple[int, Any, str]], faults: FileFaults) -> Iterator[tuple[int, Any, str]]:
    """Yields the items of an array with their lines, or with their numbers where the first two are in one line."""
    first = next(items, None)
    if first is None:
        return
    try:
        second = next(items, None)
    except ArrayFault:
        yield first
        raise
    if second is None or second[0] != first[0]:
        yield from chain([first], [] if second is None else [second], items)
        return
    faults.count_items()
    for number, (_, value, source) in enumerate(chain([first, second], items), 1):
        yield number, value, source


def _table_rows(path: Path, encoding: str | None, separator: str, faults: FileFaults) -> Lines:
    header: list[str] = []
    for start, fields in _fields(path, encoding, separator, faults):
        if not header and start == 1 and EXCEL_HINT.fullmatch(separator.join(fields)):
            continue
        if not header:
            header = [name.strip() for name in fields]
            for column in sorted({column for column in header if header.count(column) > 1}):
                faults.add(start, f"must name every column once, got {column!r} twice")
        elif len(fields) == len(header):
            yield start, dict(zip(header, fields, strict=True)), sum(map(len, fields))
        elif fields:
            remedy = f"a field that holds {separator!r} must be quoted" if len(fields) > len(header) else ""
            rule = f"must have {len(header)} fields as the header has"
            faults.add(start, rule, f", got {len(fields)}", remedy=remedy)


def _fields(path: Path, encoding: str | None, separator: str, faults: FileFaults) -> Iterator[tuple[int, list[str]]]:
    """Yields the line on which a row begins and its fields; nothing behind a row that is not valid."""
    lines = (line for _, line in text_lines(path, encoding, faults))
    reader = csv.reader(lines, delimiter=separator, strict=True)
    is_done = False
    while not is_done:
        block: list[tuple[int, list[str]]] = []
        size, start = 0, 0
        with _long_fields():
            try:
                while len(block) < BLOCK_ROWS and size < BLOCK_BYTES:
                    start = reader.line_num + 1
                    fields = next(reader)
                    block.append((start, fields))
                    size += sum(map(len, fields))
            except StopIteration:
                is_done = True
            except csv.Error as error:  # it is unknown where the next row begins
                name = "TSV" if separator == "\t" else "CSV"
                hint = "a field that begins with a quotation mark must be quoted, marks in it doubled"
                faults.add(start, f"not valid {name}", f": {error} ({hint})")
                is_done = True
        yield from block


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lets `csv` read fields of any length, in place of 131,072 characters, until the block ends."""
    with LIMIT:
        before = csv.field_size_limit(LONGEST_FIELD)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _document_rows(path: Path, encoding: str | None, faults: FileFaults) -> Lines:
    for number, line in text_lines(path, encoding, faults):
        if line.strip():
            text = line.rstrip("\r\n")
            yield number, {"text": text}, len(text)


def _parquet_rows(path: Path, faults: FileFaults) -> Lines:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    number = 0
    try:
        with named_in_text(path.parent) as folder:
            file = pq.ParquetFile(folder / path.name, memory_map=True, pre_buffer=False)
        namers = _namers(Features.from_arrow_schema(file.schema_arrow))
        for batch in file.iter_batches(BLOCK_ROWS):
            for row in _named(batch, namers):
                number += 1
                yield number, row, batch.nbytes // len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        faults.add(number + 1, "not valid Parquet", f": {error}")


def _saved_rows(folder: Path) -> Lines:
    from datasets import Dataset

    from cl_mlm.arrow import arrow_batches

    dataset = Dataset.load_from_disk(str(folder))
    namers = _namers(dataset.features)
    rows = (
        (row, table.nbytes // len(table))
        for table in arrow_batches(dataset, BLOCK_ROWS, BLOCK_BYTES)
        for row in chain.from_iterable(_named(batch, namers) for batch in table.to_batches())
    )
    for number, (row, size) in enumerate(rows, 1):
        yield number, row, size


def _named(batch: pa.RecordBatch, namers: Mapping[str, Callable[[Any], Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = batch.to_pylist()
    for row in rows:
        for name, namer in namers.items():
            row[name] = namer(row[name])
    return rows


def _namers(features: Mapping[str, Any]) -> dict[str, Callable[[Any], Any]]:
    """Returns for each column of class numbers, or of lists of them, what makes names of a value."""
    return {name: namer for name, feature in features.items() if (namer := _namer(feature)) is not None}


def _namer(feature: Any) -> Callable[[Any], Any] | None:
    from datasets import ClassLabel

    if isinstance(feature, ClassLabel):
        names = feature.names
        # -1 is how `datasets` writes an unknown label.
        return lambda code: None if code is None or code < 0 else names[code]
    inner = _namer(feature.feature) if hasattr(feature, "feature") else None
    if inner is None:
        return None
    return lambda codes: None if codes is None else [inner(code) for code in codes]
