"""Encoded rows on disk: each column of token ids is one flat memory-mapped array with offsets."""

from __future__ import annotations

import hashlib
import json
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cl_mlm.arrow import arrow_batches
from cl_mlm.config.own_source import own_source
from cl_mlm.data.cache import building, cache_folder
from cl_mlm.errors import DataError
from cl_mlm.models.tokenizers import tokenizer_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.objective import Encoded, Objective

# Rows are encoded in chunks: a fast tokenizer is several times faster on many rows than row by row, but until its
# output is written, that takes about a hundred times the bytes of the text.
CHUNK_ROWS, CHUNK_BYTES = 2000, 1 << 20
VERSION = 2
LENGTHS = ("input_ids", "target_ids")  # columns that go through a model


class EncodedRows:
    """One split, encoded; a row is read without touching the others.

    Attributes:
        lengths: tokens of every row, those of its answer included, int32 (N,).
        column_lengths: tokens of every row by column of tokens, int64 (N,) each.
    """

    def __init__(self, folder: Path) -> None:
        self._ragged: dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.int64]]] = {}
        self._plain: dict[str, npt.NDArray[Any]] = {}
        for name, is_ragged in _columns(folder / "layout.json").items():
            values = _open(folder / f"{name}.values.npy")
            if is_ragged:
                self._ragged[name] = (values, _open(folder / f"{name}.offsets.npy"))
            else:
                self._plain[name] = values
        self.column_lengths: dict[str, npt.NDArray[np.int64]] = {
            name: np.diff(self._ragged[name][1]) for name in LENGTHS if name in self._ragged
        }
        self.lengths: npt.NDArray[np.int32] = np.stack([*self.column_lengths.values()]).sum(0, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def largest(self) -> int:
        """The largest token id of all rows."""
        return max(int(self._ragged[name][0].max(initial=0)) for name in self.column_lengths)

    def row(self, position: int) -> dict[str, Any]:
        """Returns one row: an int32 array for each column of tokens, a number for each column of numbers."""
        row: dict[str, Any] = {name: values[position] for name, values in self._plain.items()}
        for name, (values, offsets) in self._ragged.items():
            row[name] = values[offsets[position] : offsets[position + 1]]
        return row


def encode_rows(
    rows: Dataset | Sequence[Dataset],
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    labels: Mapping[str, int],
    max_length: int,
    rows_fingerprint: str,
) -> EncodedRows:
    """Returns rows encoded; taken from the cache where it holds the same rows, tokenizer, labels and options.

    Args:
        rows: raw rows; of several data sets, whose columns are the same, one behind the other.
        objective: what the rows mean.
        tokenizer: the model's.
        labels: every label of the stream to its place in the order in which they arrive.
        max_length: tokens of a sequence at most.
        rows_fingerprint: names the rows in the cache.
    """
    key = json.dumps(
        [
            VERSION,
            rows_fingerprint,
            encoding_identity(objective),
            tokenizer_identity(objective, tokenizer),
            list(labels),
            max_length,
        ],
        sort_keys=True,
    )
    folder = cache_folder("encoded") / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not folder.is_dir():
        several = rows if isinstance(rows, list | tuple) else [cast("Dataset", rows)]
        chunks = _chunks(cast("Sequence[Dataset]", several))
        with building(folder) as temporary:
            _write(temporary, objective.encode_split(chunks, tokenizer, labels, max_length))
    return EncodedRows(folder)


def _chunks(datasets: Sequence[Dataset]) -> Iterator[dict[str, list[Any]]]:
    """Yields raw rows in chunks; short data sets share one: a tokenizer is much faster on many rows."""
    parts: list[dict[str, list[Any]]] = []
    num_rows = num_bytes = 0
    for table in (table for dataset in datasets for table in arrow_batches(dataset, CHUNK_ROWS, CHUNK_BYTES)):
        if parts and (num_rows + len(table) > CHUNK_ROWS or num_bytes + table.nbytes > CHUNK_BYTES):
            yield _joined(parts)
            parts, num_rows, num_bytes = [], 0, 0
        parts.append(table.to_pydict())
        num_rows, num_bytes = num_rows + len(table), num_bytes + table.nbytes
    if parts:
        yield _joined(parts)


def _joined(parts: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def encoding_identity(objective: Objective) -> list[Any]:
    """Returns what names an objective in a cache of what it makes of rows; of an own one also digests of its code."""
    source = own_source([type(objective)])
    return [objective.name, objective.options(), *([source] if source else [])]


def tokenizer_identity(objective: Objective, tokenizer: PreTrainedTokenizerBase) -> str | list[Any]:
    """Returns what names a tokenizer in a cache of what an objective makes of rows; of a chat with its template."""
    digest = tokenizer_hash(tokenizer)
    return [digest, tokenizer.chat_template] if objective.chats else digest


def _write(folder: Path, chunks: Iterable[Encoded]) -> None:
    """Writes encoded chunks one by one, so that memory holds one chunk and the lengths of rows, never all rows."""
    ragged: dict[str, bool] = {}
    dtypes: dict[str, type[Any]] = {}
    lengths: dict[str, list[npt.NDArray[np.int64]]] = {}
    for encoded in chunks:
        for name, values in encoded.items():
            ragged[name] = isinstance(values[0], list)
            flat: Any = values
            if ragged[name]:
                lengths.setdefault(name, []).append(np.fromiter(map(len, values), dtype=np.int64))  # type: ignore[arg-type]
                flat = chain.from_iterable(values)  # type: ignore[arg-type]
            dtype = dtypes.setdefault(name, np.int32 if ragged[name] else _number_dtype(values))
            with (folder / f"{name}.raw").open("ab") as file:
                np.fromiter(flat, dtype=dtype).tofile(file)
    for name, is_ragged in ragged.items():
        _finish_column(folder, name, dtypes[name])
        if is_ragged:
            np.save(folder / f"{name}.offsets.npy", np.concatenate([[0], np.cumsum(np.concatenate(lengths[name]))]))
    (folder / "layout.json").write_text(json.dumps({"columns": ragged}))


def _columns(path: Path) -> dict[str, bool]:
    """Returns the columns of an encoded split, and whether each is ragged (a list a row).

    Raises:
        DataError: the file is damaged, or a column's name would lead out of the folder.
    """
    try:
        columns: dict[str, bool] = dict(json.loads(path.read_text())["columns"])
        odd = [name for name in columns if not name.isidentifier()]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; remove {path.parent}, it is made anew") from error
    if odd:
        raise DataError(f"{path}: columns must have plain names, got {odd}; remove {path.parent}, it is made anew")
    return columns


def _number_dtype(values: Sequence[Any]) -> type[Any]:
    return np.float32 if any(isinstance(value, float) for value in values) else np.int32


def _finish_column(folder: Path, name: str, dtype: type[Any]) -> None:
    """Turns the raw numbers of a column into a NumPy file, through a memory map."""
    raw = folder / f"{name}.raw"
    values = np.memmap(raw, dtype=dtype, mode="r") if raw.stat().st_size else np.zeros(0, dtype=dtype)
    np.save(folder / f"{name}.values.npy", values)
    del values  # closes the map before its file is removed
    raw.unlink()


def _open(path: Path) -> npt.NDArray[Any]:
    """Returns the array of a NumPy file, mapped into memory; unlike a `np.memmap`, it holds no file open."""
    import pyarrow as pa

    mapped: np.memmap[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    with pa.memory_map(str(path)) as file:
        buffer = file.read_buffer()  # it keeps the mapping, and the file is closed
    return np.frombuffer(buffer, mapped.dtype, mapped.size, mapped.offset)
