"""Rows of a `datasets.Dataset` as Arrow: read in batches, picked without a copy, and hashed."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from datasets import Dataset

BATCH_ROWS, BATCH_BYTES = 10_000, 8 << 20  # of a batch at most; a single longer row is one by itself


def arrow_batches(dataset: Dataset, most_rows: int | None = None, most_bytes: int | None = None) -> Iterator[pa.Table]:
    """Yields all columns as Arrow tables; an indices mapping is followed.

    Args:
        dataset: the rows.
        most_rows: of a batch; None: BATCH_ROWS.
        most_bytes: of a batch, reckoned with the rows' mean size; None: BATCH_BYTES.
    """
    # Through a format of `datasets` every call would copy the data set's description and hash it.
    table: pa.Table = dataset.data.table
    rows = None if dataset._indices is None else dataset._indices.column(0)
    fitting = (most_bytes or BATCH_BYTES) * len(table) // max(1, table.nbytes)
    size = max(1, min(most_rows or BATCH_ROWS, fitting))
    for start in range(0, len(dataset), size):
        found = table.slice(start, size) if rows is None else table.take(rows.slice(start, size))
        # Rows picked one by one come as one chunk each; work on chunks would then be work on rows.
        yield found.combine_chunks()


def pick(dataset: Dataset, positions: npt.NDArray[np.int64]) -> Dataset:
    """Returns the rows at `positions`, in their order, as an index mapping over the same table.

    `Dataset.select` alone would hash its arguments to name the result, which takes longer than the work itself.
    """
    return dataset.select(positions, new_fingerprint=uuid.uuid4().hex)


def split_digest(dataset: Dataset) -> dict[str, object]:
    """Returns what identifies the rows of a split: their number and a digest of each part of each column."""
    parts: dict[str, hashlib._Hash] = defaultdict(hashlib.sha256)
    for table in arrow_batches(dataset):
        for name in table.column_names:
            for chunk in table[name].chunks:
                _feed(parts, name, chunk)
    digests = {part: digest.hexdigest() for part, digest in parts.items()}
    return {"rows": len(dataset), "columns": sorted(dataset.column_names), "digests": digests}


def _feed(parts: dict[str, hashlib._Hash], path: str, array: pa.Array) -> None:
    """Adds an Arrow array to the digests of its parts: which values are null, their lengths, their bytes.

    Every part is a plain sequence over the rows, so that it does not matter where a batch or chunk ends; widths of
    types (string or large_string, int32 or int64) are made equal first.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    types = pa.types
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    parts[f"{path} valid"].update(array.is_valid().to_numpy(zero_copy_only=False).tobytes())
    if types.is_struct(array.type):
        for field, child in zip(array.type, array.flatten(), strict=True):
            _feed(parts, f"{path}.{field.name}", child)
    elif types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        parts[f"{path} lengths"].update(_fixed_width(pc.call_function("list_value_length", [array]), pa.int64()))
        _feed(parts, f"{path}[]", array.flatten())
    elif types.is_string(array.type) or types.is_large_string(array.type):
        text = array.cast(pa.large_string()).fill_null("")
        parts[f"{path} lengths"].update(_fixed_width(pc.call_function("binary_length", [text]), pa.int64()))
        parts[f"{path} text"].update(_text_bytes(text))
    elif types.is_integer(array.type) or types.is_boolean(array.type):
        parts[f"{path} integers"].update(_fixed_width(array, pa.int64()))
    elif types.is_floating(array.type):
        parts[f"{path} floats"].update(_fixed_width(array, pa.float64()))
    else:  # times, decimals, bytes: rare in text, so the slow way is good enough
        parts[f"{path} values"].update("".join(f"{value!r}\n" for value in array.to_pylist()).encode())


def _fixed_width(array: pa.Array, width: pa.DataType) -> bytes:
    values: bytes = array.cast(width, safe=False).fill_null(0).to_numpy(zero_copy_only=False).tobytes()
    return values


def _text_bytes(text: pa.Array) -> memoryview:
    """Returns the UTF-8 bytes of a large_string array without nulls, end to end."""
    import numpy as np

    _, offsets, data = text.buffers()
    if len(text) == 0 or data is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, dtype=np.int64)[[text.offset, text.offset + len(text)]]
    return memoryview(data)[int(ends[0]) : int(ends[1])]
