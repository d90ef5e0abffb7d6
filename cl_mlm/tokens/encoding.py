"""Encoded rows on disk: each column of token ids as one flat memory-mapped array with offsets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.arrow import arrow_batches
from cl_mlm.data.cache import building, cache_folder
from cl_mlm.errors import DataError
from cl_mlm.models.tokenizers import tokenizer_hash

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.objective import Objective

# What a tokenizer gives of a text takes about a hundred times its bytes until it is written.
CHUNK_ROWS, CHUNK_BYTES = 2000, 1 << 20
VERSION = 2
LENGTHS = ("input_ids", "target_ids")  # what goes through a model


class EncodedRows:
    """One split, encoded; a row is read without touching the others.

    Attributes:
        lengths: tokens of every row, the answer's included, int32 (N,).
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self._ragged: dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.int64]]] = {}
        self._plain: dict[str, npt.NDArray[Any]] = {}
        for name, ragged in _columns(folder / "layout.json").items():
            values = _open(folder / f"{name}.values.npy")
            if ragged:
                self._ragged[name] = (values, _open(folder / f"{name}.offsets.npy"))
            else:
                self._plain[name] = values
        lengths = [np.diff(self._ragged[name][1]).astype(np.int32) for name in LENGTHS if name in self._ragged]
        self.lengths: npt.NDArray[np.int32] = np.stack(lengths).sum(0, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, position: int) -> dict[str, Any]:
        """Returns one row: an int32 array for each token column, a number for each plain one."""
        row: dict[str, Any] = {name: values[position] for name, values in self._plain.items()}
        for name, (values, offsets) in self._ragged.items():
            row[name] = values[offsets[position] : offsets[position + 1]]
        return row


def encode_rows(
    dataset: Dataset,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    labels: Mapping[str, int],
    max_length: int,
    rows_fingerprint: str,
) -> EncodedRows:
    """Returns `dataset` encoded, from the cache where the same rows, tokenizer and labels were encoded before."""
    key = json.dumps(
        [
            VERSION,
            rows_fingerprint,
            [objective.name, objective.options()],
            tokenizer_hash(tokenizer),
            list(labels),
            max_length,
        ],
        sort_keys=True,
    )
    folder = cache_folder("encoded") / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not folder.is_dir():
        with building(folder) as temporary:
            _write(temporary, dataset, objective, tokenizer, labels, max_length)
    return EncodedRows(folder)


def _write(
    folder: Path,
    dataset: Dataset,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    labels: Mapping[str, int],
    max_length: int,
) -> None:
    """Encodes in chunks, so that memory holds one chunk and the offsets, never all rows."""
    import numpy as np

    ragged: dict[str, bool] = {}
    kinds: dict[str, type[Any]] = {}
    counts: dict[str, list[npt.NDArray[np.int64]]] = {}
    chunks = (table.to_pydict() for table in arrow_batches(dataset, CHUNK_ROWS, CHUNK_BYTES))
    for encoded in objective.encode_split(chunks, tokenizer, labels, max_length):
        for name, values in encoded.items():
            ragged[name] = isinstance(values[0], list)
            flat: Any = values
            if ragged[name]:
                counts.setdefault(name, []).append(np.fromiter(map(len, values), dtype=np.int64))  # type: ignore[arg-type]
                flat = chain.from_iterable(values)  # type: ignore[arg-type]
            kind = kinds.setdefault(name, np.int32 if ragged[name] else _kind(values))
            with (folder / f"{name}.raw").open("ab") as file:
                np.fromiter(flat, dtype=kind).tofile(file)
    for name, is_ragged in ragged.items():
        _finish_column(folder, name, kinds[name])
        if is_ragged:
            np.save(folder / f"{name}.offsets.npy", np.concatenate([[0], np.cumsum(np.concatenate(counts[name]))]))
    (folder / "layout.json").write_text(json.dumps({"columns": ragged}))


def _columns(path: Path) -> dict[str, bool]:
    """Returns which columns are ragged.

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


def _kind(values: Sequence[Any]) -> type[Any]:
    import numpy as np

    return np.float32 if any(isinstance(value, float) for value in values) else np.int32


def _finish_column(folder: Path, name: str, kind: type[Any]) -> None:
    import numpy as np

    raw = folder / f"{name}.raw"
    values = np.memmap(raw, dtype=kind, mode="r") if raw.stat().st_size else np.zeros(0, dtype=kind)
    np.save(folder / f"{name}.values.npy", values)
    del values
    raw.unlink()


def _open(path: Path) -> npt.NDArray[Any]:
    import numpy as np

    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
