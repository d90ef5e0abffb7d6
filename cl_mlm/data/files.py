"""From files to memory-mapped tables: JSON lines, CSV, TSV, Parquet and text become Arrow files in the cache.

That is done once. A file is read twice in blocks, first to find its faults and column types, then to write: memory
stays the same for any size, and faults are named with their lines (rows in Parquet) before anything is written.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.data.cache import building, cache_folder
from cl_mlm.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
SPLIT_FILES = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}
TEXTS = ("text", "text_pair")
MAX_FAULTS = 20
BLOCK_ROWS, BLOCK_BYTES = 1000, 4 << 20
LAYOUT = 1  # part of every cache address: raise it when the same file gives another table

Lines = Iterator[tuple[int, dict[str, Any], int]]  # line, row, size in bytes
Block = list[tuple[int, dict[str, Any]]]


def read_table(
    path: Path, *, columns: Mapping[str, str] | None = None, required: Sequence[str] = ("text", "label")
) -> Dataset:
    """Returns the rows of a file as a memory-mapped data set; converted at the first call for its content.

    Labels that are whole numbers become strings (`3` is `"3"`; names of classes stored by `datasets` are used).
    All columns of CSV and TSV are strings.

    Args:
        path: a .jsonl or .json (one object a line), .csv, .tsv (both with a header) or .parquet file; where only texts
            are asked for, also .txt: every line that is not blank is one.
        columns: our name of a column to its name in the file, such as `{"text": "sentence"}`.
        required: our names of columns that every row must fill.

    Raises:
        DataError: up to 20 faults of the file.
    """
    from datasets import Dataset

    columns = columns or {}
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    if path.suffix not in FORMATS:
        raise DataError(f"{path}: must end in {', '.join(FORMATS)}, got {path.suffix!r}")
    if path.suffix == ".txt" and set(required) != {"text"}:
        raise DataError(f"{path}: holds texts alone; must have the columns {', '.join(required)}, as other formats can")
    entry = cache_folder("tables") / _address(path, columns, required)
    if not entry.is_dir():
        schema = _scan(path, columns, required)
        with building(entry) as folder:
            _write(folder / "table.arrow", schema, _rows(path, columns, _Faults(path)))
    dataset: Dataset = Dataset.from_file(str(entry / "table.arrow"))
    return dataset


def read_splits(
    folder: Path,
    *,
    columns: Mapping[str, str] | None = None,
    required: Sequence[str] = ("text", "label"),
    needed: Sequence[str] = ("train", "test"),
) -> dict[str, Dataset]:
    """Returns the splits of a folder that holds train, validation (valid, dev) and test files of any format.

    Where there is no file of a split that is not `needed`, there is no such key.

    Raises:
        DataError: a needed split is missing, a split has two files, or a file has faults; all splits at once.
    """
    splits: dict[str, Dataset] = {}
    problems: list[str] = []
    for split, stems in SPLIT_FILES.items():
        paths = [path for stem in stems for suffix in FORMATS if (path := folder / f"{stem}{suffix}").is_file()]
        if len(paths) > 1:
            problems.append(f"{folder}: must have one {split} file, got {', '.join(path.name for path in paths)}")
        elif paths:
            try:
                splits[split] = read_table(paths[0], columns=columns, required=required)
            except DataError as error:
                problems += error.problems
        elif split in needed:
            problems.append(f"{folder}: must have a {split} file, {split} + one of {', '.join(FORMATS)}; got none")
    if problems:
        raise DataError(problems)
    return splits


def find_folder(path: str, key: str = "stream.path") -> Path:
    """Returns the folder `path` as given, else inside the folder `CL_MLM_DATA`.

    Raises:
        ConfigError: it is in neither; names `key`.
    """
    places = [Path(path).expanduser()]
    if root := os.environ.get("CL_MLM_DATA"):
        places.append(Path(root).expanduser() / path)
    for place in places:
        if place.is_dir():
            return place
    looked = " and in ".join(str(place.absolute()) for place in places)
    hint = "" if root else " (CL_MLM_DATA is not set)"
    raise ConfigError(f"{key}: must be a folder, got {path!r}; looked in {looked}{hint}")


class _Faults:
    """Faults of one file; raises them when 20 are known, so that a hopeless file is not read to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def add(self, line: int | None, text: str) -> None:
        self.problems.append(f"{self.path}: {text}" if line is None else f"{self.path}:{line}: {text}")
        if len(self.problems) == MAX_FAULTS:
            raise DataError([*self.problems, f"{self.path}: stopped after {MAX_FAULTS} faults"])

    def raise_any(self) -> None:
        if self.problems:
            raise DataError(self.problems)


def _address(path: Path, columns: Mapping[str, str], required: Sequence[str]) -> str:
    """Returns a hash of the content, so that neither clocks nor the file's place matter."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    digest.update(repr((LAYOUT, path.suffix, sorted(columns.items()), sorted(required))).encode())
    return digest.hexdigest()


def _scan(path: Path, columns: Mapping[str, str], required: Sequence[str]) -> pa.Schema:
    """Returns the schema of a file without faults."""
    import pyarrow as pa

    faults = _Faults(path)
    types: dict[str, tuple[pa.DataType, int]] = {}
    filled: list[str] | None = None
    for block in _blocks(_rows(path, columns, faults)):
        names = list(dict.fromkeys(name for _, row in block for name in row))
        if filled is None:
            filled = _present(required, names, columns, block[0][0], faults)
        _check_filled(block, filled, faults)
        for name in names:
            _merge_type(name, block, types, faults)
    if filled is None and not faults.problems:
        faults.add(None, "no rows")
    for name, (type_, line) in types.items():
        allowed = {"string"} if name in TEXTS else {"string", "int64"}
        if name in (*TEXTS, "label") and str(type_) not in {*allowed, "null"}:
            faults.add(line, f"column {name!r} must hold {' or '.join(sorted(allowed, reverse=True))}, got {type_}")
    faults.raise_any()
    return pa.schema([(name, pa.string() if name == "label" else type_) for name, (type_, _) in types.items()])


def _write(target: Path, schema: pa.Schema, rows: Lines) -> None:
    """Writes rows as an Arrow stream, the format that `datasets` maps."""
    import pyarrow as pa

    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for block in _blocks(rows):
            arrays = []
            for field in schema:
                values = [row.get(field.name) for _, row in block]
                if field.name == "label":
                    values = [value if value is None else str(value) for value in values]
                arrays.append(pa.array(values, field.type))
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _present(
    required: Sequence[str], names: Sequence[str], columns: Mapping[str, str], line: int, faults: _Faults
) -> list[str]:
    """Returns the required columns that the first block has; each other one is one fault instead of one a row."""
    for name in required:
        if name not in names:
            wanted = columns.get(name, name)
            faults.add(line, f"no column {wanted!r}{nearest(wanted, names)}; columns: {', '.join(names)}")
    return [name for name in required if name in names]


def _check_filled(block: Block, required: Sequence[str], faults: _Faults) -> None:
    for line, row in block:
        for name in required:
            value = row.get(name)
            if value is None or (isinstance(value, str) and not value.strip()):
                faults.add(line, f"no {name}, got {value!r}" if name in row else f"no {name}")


def _merge_type(name: str, block: Block, types: dict[str, tuple[pa.DataType, int]], faults: _Faults) -> None:
    """Widens the type of a column by a block, or names every line that does not fit the lines before it."""
    import pyarrow as pa

    known, first = types.get(name, (pa.null(), block[0][0]))
    if pa.types.is_null(known):  # the first line with a value decides
        first = next((line for line, row in block if row.get(name) is not None), first)
    try:
        _check_truth(known, [row.get(name) for _, row in block])
        types[name] = (_wider(known, pa.array([row.get(name) for _, row in block]).type), first)
        return
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        reason, count = str(error), len(faults.problems)
    for line, row in block:
        value = row.get(name)
        try:
            found = pa.array([value]).type
            _check_truth(known, [value])
            known = _wider(known, found)
        except (pa.ArrowInvalid, OverflowError) as error:
            faults.add(line, f"column {name!r}: {error}, got {value!r}"[:300])
        except pa.ArrowTypeError:
            faults.add(line, f"column {name!r} must be {known} as in line {first}, got {found} {value!r}"[:300])
    if len(faults.problems) == count:
        faults.add(block[0][0], f"column {name!r}, this line or one of the {len(block)} from here: {reason}")
    types[name] = (known, first)


def _check_truth(known: pa.DataType, values: Sequence[Any]) -> None:
    """Raises ArrowTypeError where truth values stand among numbers, which Arrow would read as 0 and 1."""
    import pyarrow as pa

    kinds = {isinstance(value, bool) for value in values if value is not None}
    kinds |= {pa.types.is_boolean(known)} if not pa.types.is_null(known) else set()
    if len(kinds) > 1:
        raise pa.ArrowTypeError("true and false among other values")


def _wider(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """Returns the type that holds both, such as double for int64 and double."""
    import pyarrow as pa

    return pa.unify_schemas([pa.schema([("", a)]), pa.schema([("", b)])], promote_options="permissive").field(0).type


def _blocks(rows: Lines) -> Iterator[Block]:
    block: Block = []
    size = 0
    for line, row, num_bytes in rows:
        block.append((line, row))
        size += num_bytes
        if len(block) == BLOCK_ROWS or size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _rows(path: Path, columns: Mapping[str, str], faults: _Faults) -> Lines:
    """Yields line, row and size of every row, columns renamed; a renamed column replaces one that has its new name."""
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows, ".txt": _document_rows}
    for line, row, size in readers.get(path.suffix, _json_rows)(path, faults):
        if not columns:
            yield line, row, size
            continue
        renamed = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
        rest = {name: value for name, value in row.items() if name not in columns.values() and name not in columns}
        yield line, renamed | rest, size


def _json_rows(path: Path, faults: _Faults) -> Lines:
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


def _csv_rows(path: Path, faults: _Faults) -> Lines:
    name, delimiter = ("TSV", "\t") if path.suffix == ".tsv" else ("CSV", ",")
    reader = csv.reader((line for _, line in _text_lines(path, faults)), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # where the next row begins is now unknown
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


def _document_rows(path: Path, faults: _Faults) -> Lines:
    for number, line in _text_lines(path, faults):
        if line.strip():
            text = line.rstrip("\r\n")
            yield number, {"text": text}, len(text)


def _text_lines(path: Path, faults: _Faults) -> Iterable[tuple[int, str]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                faults.add(number, f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}")
                text = line.decode(errors="replace")  # so that the lines after it are checked too
            yield number, text


def _parquet_rows(path: Path, faults: _Faults) -> Lines:
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
