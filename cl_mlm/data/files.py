"""Reads files as memory-mapped tables: JSON, CSV, TSV, Parquet and text become Arrow files in the cache, once.

A file is read twice in blocks, first to find its faults and column types, then to write it: memory does not grow with
the file, and all faults are named with their lines (rows in Parquet) before anything is written.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cl_mlm.config.undecodable import named_in_text
from cl_mlm.data.cache import building, cache_folder
from cl_mlm.data.column_types import merge_type, schema_of
from cl_mlm.data.file_digest import file_digest
from cl_mlm.data.file_faults import FileFaults, Tally, same_in_many
from cl_mlm.data.file_format import (
    EXPECTED_SEPARATOR,
    FORMATS,
    TABLES,
    UNREADABLE,
    Reading,
    find_separator,
    first_line,
)
from cl_mlm.data.file_rows import BLOCK_BYTES, BLOCK_ROWS, rows_of_file
from cl_mlm.data.row_plan import accepted_columns, plan_rows
from cl_mlm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    from datasets import Dataset

    from cl_mlm.data.column_types import Block
    from cl_mlm.data.file_rows import Lines
    from cl_mlm.data.row_plan import RowPlan

SPLIT_FILES = {"train": ("train",), "validation": ("validation", "valid", "dev", "eval"), "test": ("test",)}
LAST_RESORT = "eval"  # a name of validation files that another one goes before
SAVED = ("state.json", "dataset_info.json")  # what `datasets` writes into the folder of a data set
SAVED_DICT = "dataset_dict.json"  # and into that of several
LAYOUT = 2  # part of every cache address: raise it when the same file gives another table


def read_table(
    path: Path, *, columns: Mapping[str, str] | None = None, required: Sequence[str] = ("text", "label")
) -> Dataset:
    """Returns the rows of a file as a memory-mapped data set; see `read_file`."""
    return read_file(path, Reading(columns or {}), required)[0]


def read_file(
    path: Path, reading: Reading, required: Sequence[str], optional: Sequence[str] = ()
) -> tuple[Dataset, list[str]]:
    """Returns the rows of a file as a memory-mapped data set, and notes on how it was read.

    The file is converted at the first call for its content. Labels that are whole numbers become strings (`3` is
    `"3"`), class numbers stored by `datasets` the names of their classes. All columns of CSV and TSV are strings.

    Args:
        path: a .jsonl or .json file (one object a line, or an array of objects), .csv, .tsv or .txt (a table with a
            header) or .parquet, or a folder that `Dataset.save_to_disk` has written. Where `text` is the only required
            column, every line of .txt that is not blank is a text.
        reading: columns, separator, encoding, and what becomes of rows with gaps.
        required: our names of columns that every row must fill. In place of `tokens`, `head` and `tail` a file may have
            `text` with character spans, in place of `tokens` and `tags` `text` and `entities` (`char_spans.py`).
        optional: our names of columns that every row must fill where the file has them.

    Raises:
        DataError: up to 20 kinds of fault of the file.
    """
    from datasets import Dataset

    suffix = path.suffix.lower()
    is_saved = is_saved_dataset(path)
    if not path.is_file() and not is_saved:
        raise DataError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    if not is_saved and suffix not in FORMATS:
        why = UNREADABLE.get(suffix, f"must end in {', '.join(FORMATS)}, got {path.suffix!r}")
        raise DataError(f"{path}: {why}")
    entry = cache_folder("tables") / _address(path, reading, required, optional)
    if not entry.is_dir():
        is_table = not is_saved and suffix in TABLES and (suffix != ".txt" or {*required} != {"text"})
        separator = _separator(path, reading, required) if is_table else None
        schema, plan, notes = _scan(path, reading, required, optional, separator)
        with building(entry) as folder:
            _write(folder / "table.arrow", schema, plan, rows_of_file(path, reading, separator, FileFaults(path)))
            (folder / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
    with named_in_text(entry) as named:
        dataset: Dataset = Dataset.from_file(str(named / "table.arrow"))
    notes = json.loads((entry / "notes.json").read_text(encoding="utf-8"))
    return dataset, notes


def read_splits(
    folder: Path,
    *,
    columns: Mapping[str, str] | None = None,
    required: Sequence[str] = ("text", "label"),
    needed: Sequence[str] = ("train", "test"),
    reading: Reading | None = None,
    notes: list[str] | None = None,
    optional: Sequence[str] = (),
) -> dict[str, Dataset]:
    """Returns the splits of a folder that holds train, validation (valid, dev, eval) and test files of any format.

    A split may also be a folder that `Dataset.save_to_disk` has written, as in one of `DatasetDict.save_to_disk`. Upper
    and lower case of names do not matter.

    Args:
        folder: holds the files.
        columns: our names of columns to the files', where `reading` is not given.
        required: see `read_file`.
        needed: splits that must have a file; others are left out where they have none.
        reading: see `read_file`.
        notes: mutated: gets notes on how files were read.
        optional: see `read_file`.

    Raises:
        DataError: a needed split is missing, a split has two files, or a file has faults; all splits at once.
    """
    reading = Reading(columns or {}) if reading is None else reading
    splits: dict[str, Dataset] = {}
    problems: list[str] = []
    faults_of: dict[str, Sequence[str]] = {}
    notes_of: dict[str, list[str]] = {}
    for split, paths in split_paths(folder).items():
        if len(paths) > 1:
            problems.append(f"{folder}: must have one {split} file, got {', '.join(path.name for path in paths)}")
        elif paths:
            try:
                splits[split], noticed = read_file(paths[0], reading, required, optional)
            except DataError as error:
                faults_of[str(paths[0])] = error.problems
                continue
            for note in noticed:
                notes_of.setdefault(note, []).append(paths[0].name)
        elif split in needed:
            problems.append(_no_file(folder, split))
    problems = [*same_in_many(faults_of, most=1), *problems]
    if problems:
        raise DataError(problems)
    if notes is not None:
        notes += [f"{', '.join(names)}: {note}" for note, names in notes_of.items()]
        if unread := _unread(folder):
            notes.append(f"not read, as they are no split: {', '.join(unread)}")
    return splits


def split_paths(folder: Path) -> dict[str, list[Path]]:
    """Returns by split the files of a folder that hold it, and saved data sets."""
    found: dict[str, list[Path]] = {split: [] for split in SPLIT_FILES}
    split_of = {stem: split for split, stems in SPLIT_FILES.items() for stem in stems}
    for path in folder.iterdir():
        name = path.name.lower()
        stem = name if is_saved_dataset(path) else path.stem.lower()
        if stem in split_of and _is_rows(path):
            found[split_of[stem]].append(path)
    order = {suffix: i for i, suffix in enumerate((*FORMATS, ""))}
    for split, stems in SPLIT_FILES.items():
        found[split].sort(key=lambda path: (stems.index(path.stem.lower()), order[path.suffix.lower()], path.name))
        usual = [path for path in found[split] if path.stem.lower() != LAST_RESORT]
        found[split] = usual or found[split]
    return found


def _unread(folder: Path) -> list[str]:
    """Returns the sorted names of what could be read in a folder, and is no split."""
    known = {path for paths in split_paths(folder).values() for path in paths}
    known |= {folder / name for name in (*SAVED, SAVED_DICT)}
    rest = [path for path in folder.iterdir() if path not in known and not path.name.startswith(".")]
    return sorted(path.name for path in rest if _is_rows(path))


def _is_rows(path: Path) -> bool:
    return is_saved_dataset(path) or (path.is_file() and path.suffix.lower() in FORMATS)


def is_saved_dataset(path: Path) -> bool:
    """Says whether `Dataset.save_to_disk` has written this folder."""
    return path.is_dir() and all((path / name).is_file() for name in SAVED)


def find_folder(path: str, key: str = "stream.path") -> Path:
    """Returns the folder `path` as it is given, else the one of that name inside the folder `CL_MLM_DATA`.

    Raises:
        ConfigError: there is neither; the message begins with `key`.
    """
    return _find(path, key, "a folder")


def find_data(path: str, key: str = "stream.path") -> Path:
    """Returns the folder or file `path` as it is given, else the one of that name inside the folder `CL_MLM_DATA`.

    Raises:
        ConfigError: there is neither; the message begins with `key`.
    """
    return _find(path, key, "a folder or file")


def _find(path: str, key: str, kind: str) -> Path:
    places = [Path(path).expanduser()]
    if root := os.environ.get("CL_MLM_DATA"):
        places.append(Path(root).expanduser() / path)
    for place in places:
        if place.is_dir() or (place.is_file() and kind != "a folder"):
            return place
    looked = " and in ".join(str(place.absolute()) for place in places)
    hint = "" if root else " (CL_MLM_DATA is not set)"
    raise ConfigError(f"{key}: must be {kind}, got {path!r}; looked in {looked}{hint}")


def _no_file(folder: Path, split: str) -> str:
    """Returns that a folder has no file for a split, with what it has instead and the way out."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    unread = [f"{name} {UNREADABLE[Path(name).suffix.lower()]}" for name in names if _holds(name, split)]
    others = [name for name in names if Path(name).suffix.lower() in FORMATS]
    text = f"{folder}: must have a {split} file, {split} + one of {', '.join(FORMATS)}; got none"
    if unread:
        return f"{text}: {', '.join(unread)}"
    if split == "test":
        return f"{text}; stream.test_fraction=0.2 carves one from train"
    if len(others) == 1:
        return f"{text}; path: {folder / others[0]} reads that file alone and carves test and validation from it"
    return text if others else f"{text}; it holds {', '.join(names[:5]) or 'nothing'}"


def _holds(name: str, split: str) -> bool:
    path = Path(name.lower())
    return path.suffix in UNREADABLE and path.name.partition(".")[0] in SPLIT_FILES[split]


def _address(path: Path, reading: Reading, required: Sequence[str], optional: Sequence[str]) -> str:
    """Returns a hash of the file's content and of how it is read; its path and time do not matter."""
    digest = hashlib.blake2b(digest_size=16)
    for part in [path] if path.is_file() else sorted(path.iterdir()):
        digest.update(bytes.fromhex(file_digest(part)))
    digest.update(repr((LAYOUT, path.suffix.lower(), *reading.address(), sorted(required), sorted(optional))).encode())
    return digest.hexdigest()


def _separator(path: Path, reading: Reading, required: Sequence[str]) -> str | None:
    """Returns what separates the columns of a table.

    Raises:
        DataError: a .txt file is no table.
    """
    found = find_separator(path, reading, accepted_columns(required, reading.columns))
    suffix = path.suffix.lower()
    if found is None and suffix == ".txt":
        line = first_line(path, reading.encoding)
        raise DataError(
            f"{path}: holds texts alone; must have the columns {', '.join(required)}, as other formats can; the first "
            f"line is {line!r}"
        )
    return EXPECTED_SEPARATOR[suffix] if found is None else found


def _scan(
    path: Path, reading: Reading, required: Sequence[str], optional: Sequence[str], separator: str | None
) -> tuple[pa.Schema, RowPlan, list[str]]:
    """Returns the schema of a file, what is done to its rows, and notes, or raises its faults.

    Raises:
        DataError: up to 20 kinds of fault of the file.
    """
    faults = FileFaults(path)
    types: dict[str, tuple[pa.DataType, int]] = {}
    dropped: dict[str, Tally] = {}
    plan: RowPlan | None = None
    for raw in _blocks(rows_of_file(path, reading, separator, faults)):
        if plan is None:
            header = "" if separator is None else first_line(path, reading.encoding)
            plan = plan_rows(raw, reading, required, header, faults, optional)
        block = plan.prepared(raw, faults, dropped)
        for name in dict.fromkeys(name for _, row in block for name in row):
            merge_type(name, block, types, faults)
    gaps = [
        f"{tally.count:,} row{'s' if tally.count > 1 else ''} without {names} dropped, {tally.places(faults.unit)}"
        for names, tally in dropped.items()
    ]
    if not types and not faults.num:
        faults.add(None, "no rows", f": {'; '.join(gaps)}" if gaps else "")
    schema = schema_of(types, faults)
    faults.raise_any()
    assert plan is not None
    suffix = path.suffix.lower()
    is_odd = separator is not None and separator != EXPECTED_SEPARATOR[suffix] and reading.delimiter is None
    found = [f"columns are separated by {'tabs' if separator == chr(9) else repr(separator)}"] if is_odd else []
    return schema, plan, [*found, *gaps]


def _write(target: Path, schema: pa.Schema, plan: RowPlan, rows: Lines) -> None:
    """Writes rows as an Arrow stream, the format that `datasets` maps into memory."""
    import pyarrow as pa

    with target.open("wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for raw in _blocks(rows):
            block = plan.prepared(raw, FileFaults(target), {})
            arrays = []
            for field in schema:
                values = [row.get(field.name) for _, row in block]
                if field.name == "label":
                    values = [value if value is None else str(value) for value in values]
                arrays.append(pa.array(values, field.type))
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


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
