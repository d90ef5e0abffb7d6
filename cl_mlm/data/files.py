"""Reads files as memory-mapped tables: JSON lines, CSV, TSV, Parquet and text become Arrow files in the cache, once.

A file is read twice in blocks, first to find its faults and column types, then to write it: memory does not grow with
the file, and all faults are named with their lines (rows in Parquet) before anything is written.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.data.cache import building, cache_folder
from cl_mlm.data.file_rows import BLOCK_ROWS, FileFaults, rows_of_file
from cl_mlm.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    from datasets import Dataset

    from cl_mlm.data.file_rows import Lines

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
SPLIT_FILES = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}
TEXTS = ("text", "text_pair")
MAX_FAULTS = 20
BLOCK_BYTES = 4 << 20
LAYOUT = 1  # part of every cache address: raise it when the same file gives another table

Block = list[tuple[int, dict[str, Any]]]  # line, row


def read_table(
    path: Path, *, columns: Mapping[str, str] | None = None, required: Sequence[str] = ("text", "label")
) -> Dataset:
    """Returns the rows of a file as a memory-mapped data set; the file is converted at the first call for its content.

    Labels that are whole numbers become strings (`3` is `"3"`), class numbers stored by `datasets` the names of their
    classes. All columns of CSV and TSV are strings.

    Args:
        path: a .jsonl or .json (one object a line), .csv, .tsv (both with a header) or .parquet file; where `text` is
            the only required column, also .txt: every line that is not blank is a text.
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
            _write(folder / "table.arrow", schema, rows_of_file(path, columns, FileFaults(path, MAX_FAULTS)))
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

    Args:
        folder: holds the files.
        columns: see `read_table`.
        required: see `read_table`.
        needed: splits that must have a file; others are left out where they have none.

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
    """Returns the folder `path` as it is given, else the one of that name inside the folder `CL_MLM_DATA`.

    Raises:
        ConfigError: there is neither; the message begins with `key`.
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


def _address(path: Path, columns: Mapping[str, str], required: Sequence[str]) -> str:
    """Returns a hash of the file's content and of how it is read; its path and time do not matter."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    digest.update(repr((LAYOUT, path.suffix, sorted(columns.items()), sorted(required))).encode())
    return digest.hexdigest()


def _scan(path: Path, columns: Mapping[str, str], required: Sequence[str]) -> pa.Schema:
    """Returns the schema of a file, or raises its faults.

    Raises:
        DataError: up to 20 faults of the file.
    """
    import pyarrow as pa

    faults = FileFaults(path, MAX_FAULTS)
    types: dict[str, tuple[pa.DataType, int]] = {}
    filled: list[str] | None = None
    for block in _blocks(rows_of_file(path, columns, faults)):
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
    """Writes rows as an Arrow stream, the format that `datasets` maps into memory."""
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
    required: Sequence[str], names: Sequence[str], columns: Mapping[str, str], line: int, faults: FileFaults
) -> list[str]:
    """Returns the required columns that the first block has; one that is missing is one fault, not one for each row."""
    for name in required:
        if name not in names:
            wanted = columns.get(name, name)
            faults.add(line, f"no column {wanted!r}{nearest(wanted, names)}; columns: {', '.join(names)}")
    return [name for name in required if name in names]


def _check_filled(block: Block, required: Sequence[str], faults: FileFaults) -> None:
    for line, row in block:
        for name in required:
            value = row.get(name)
            if value is None or (isinstance(value, str) and not value.strip()):
                faults.add(line, f"no {name}, got {value!r}" if name in row else f"no {name}")


def _merge_type(name: str, block: Block, types: dict[str, tuple[pa.DataType, int]], faults: FileFaults) -> None:
    """Widens the type of a column so that a block fits, or adds a fault for every line that does not fit.

    Args:
        name: of the column.
        block: the next lines.
        types: mutated: the type of every column so far, and the line that has set it.
        faults: of the file.
    """
    import pyarrow as pa

    known, first = types.get(name, (pa.null(), block[0][0]))
    if pa.types.is_null(known):  # the first line with a value decides
        first = next((line for line, row in block if row.get(name) is not None), first)
    values = [row.get(name) for _, row in block]
    try:
        _check_truth(known, values)
        types[name] = (_wider(known, pa.array(values).type), first)
        return
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        reason, num_before = str(error), len(faults.problems)
    # Value by value, to find the lines.
    for (line, _), value in zip(block, values, strict=True):
        try:
            value_type = pa.array([value]).type
            _check_truth(known, [value])
            known = _wider(known, value_type)
        except (pa.ArrowInvalid, OverflowError) as error:
            faults.add(line, f"column {name!r}: {error}, got {value!r}"[:300])
        except pa.ArrowTypeError:
            faults.add(line, f"column {name!r} must be {known} as in line {first}, got {value_type} {value!r}"[:300])
    if len(faults.problems) == num_before:
        faults.add(block[0][0], f"column {name!r}, this line or one of the {len(block)} from here: {reason}")
    types[name] = (known, first)


def _check_truth(known: pa.DataType, values: Sequence[Any]) -> None:
    """Refuses truth values among other values: Arrow would read them as 0 and 1 among numbers.

    Raises:
        ArrowTypeError: see above.
    """
    import pyarrow as pa

    are_truth = {isinstance(value, bool) for value in values if value is not None}
    if not pa.types.is_null(known):
        are_truth.add(pa.types.is_boolean(known))
    if len(are_truth) > 1:
        raise pa.ArrowTypeError("true and false among other values")


def _wider(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """Returns the type that holds values of both types, such as double for int64 and double."""
    import pyarrow as pa

    return pa.unify_schemas([pa.schema([("", a)]), pa.schema([("", b)])], promote_options="permissive").field(0).type


def _blocks(rows: Lines) -> Iterator[Block]:
    """Yields rows in blocks of BLOCK_ROWS, or fewer where they are long."""
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
