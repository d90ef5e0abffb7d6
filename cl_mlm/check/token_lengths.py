"""Counts the tokens of every row before anything is cut, and the tokens that cutting takes away.

Axes: R rows. A *part* of a row is a text with a limit of its own: `text`, or `source` and `target`, or the `block` of a
packed split (`Objective.lengths`).
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_mlm.data.cache import building, cache_folder
from cl_mlm.errors import DataError
from cl_mlm.objective import Lengths
from cl_mlm.stream import SPLITS, Stream
from cl_mlm.tokens.encoding import encode_rows, encoding_identity, tokenizer_identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.objective import Objective
    from cl_mlm.task import Tasks

CHUNK_ROWS = 2000
MOST_ROWS = 50_000  # rows of a split that are counted; of a larger split, rows at even spacing stand for all
PERCENTILES = (50, 90, 99, 100)
BLOCK = "block"  # the only part of the rows of a packed split
VERSION = 2  # of the cache's format

SplitAddress = tuple[int, str]  # (index of a stage, "train"), or (index of a column, "validation" or "test")
StreamLengths = dict[SplitAddress, dict[str, Lengths]]  # the lengths of every split, by part


def stream_lengths(stream: Stream, tasks: Tasks, tokenizer: PreTrainedTokenizerBase, max_length: int) -> StreamLengths:
    """Returns the lengths of every split of a stream; they are counted once and then read from the cache.

    A packed split is encoded as a whole, as a run does it and into the same cache: the number of blocks is not known
    otherwise.

    Raises:
        DataError: what the cache holds is damaged.
    """
    objectives = [[*encoding_identity(task.objective), list(task.labels.index)] for task in tasks]
    identity = [VERSION, stream.fingerprint, objectives, tasks.keys, tasks.column_keys, max_length, MOST_ROWS]
    named = [tokenizer_identity(task.objective, tokenizer) for task in tasks]
    key = json.dumps([*identity, *named], sort_keys=True)
    folder = cache_folder("lengths") / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not folder.is_dir():
        lengths = _count(stream, tasks, tokenizer, max_length)
        with building(folder) as temporary:
            _write(temporary / "lengths.npz", lengths)
    return _read(folder / "lengths.npz")


def _count(stream: Stream, tasks: Tasks, tokenizer: PreTrainedTokenizerBase, max_length: int) -> StreamLengths:
    counted: StreamLengths = {}
    for split in SPLITS:
        for i, owner in enumerate(stream.owners(split)):
            rows, task = owner.split(split), tasks.by_key[tasks.keys_of(split)[i]]
            encoding = (rows, task.objective, tokenizer, task.labels.index, max_length)
            if task.objective.packs and len(rows):
                counted[i, split] = packed_lengths(*encoding, f"{stream.fingerprint}/{i}/{split}")
            else:
                counted[i, split] = split_lengths(*encoding)
    return counted


def packed_lengths(
    dataset: Dataset,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    labels: Mapping[str, int],
    max_length: int,
    rows_fingerprint: str,
) -> dict[str, Lengths]:
    """Returns the tokens of every block that the texts of a split are joined and cut into; see `encode_rows`."""
    encoded = encode_rows(dataset, objective, tokenizer, labels, max_length, rows_fingerprint)
    return {BLOCK: Lengths.of(max_length, encoded.lengths.tolist())}


def split_lengths(
    dataset: Dataset,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    labels: Mapping[str, int],
    max_length: int,
) -> dict[str, Lengths]:
    """Returns the lengths of a split's rows by part; a split of more than `MOST_ROWS` rows is sampled evenly."""
    rows = dataset.with_format(None)
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).round().astype(np.int64)
    is_all = len(chosen) == len(rows)
    chunks: dict[str, list[Lengths]] = {}
    for start in range(0, len(chosen), CHUNK_ROWS):
        # A slice is read faster than a list of positions.
        table = rows[start : start + CHUNK_ROWS] if is_all else rows[chosen[start : start + CHUNK_ROWS].tolist()]
        for part, lengths in objective.lengths(table, tokenizer, labels, max_length).items():
            chunks.setdefault(part, []).append(lengths)
    return {part: joined(lengths) for part, lengths in chunks.items()}


def joined(chunks: Sequence[Lengths]) -> Lengths:
    """Returns the lengths of several chunks of rows, all of one part, as those of all rows."""
    return Lengths(
        limit=chunks[0].limit,
        whole=np.concatenate([chunk.whole for chunk in chunks]),
        cut=np.concatenate([chunk.cut for chunk in chunks]),
        windows=np.concatenate([chunk.windows for chunk in chunks]),
    )


def digest(lengths: Lengths) -> dict[str, Any]:
    """Returns the figures of one part as plain values.

    They are the percentiles of tokens a row (nearest rank), the rows above the limit, and what cutting takes away.
    """
    values = np.percentile(lengths.whole, PERCENTILES, method="inverted_cdf").tolist()
    longer = int((lengths.whole > lengths.limit).sum())
    return {
        "limit": lengths.limit,
        "counted_rows": len(lengths.whole),
        "percentiles": dict(zip(map(str, PERCENTILES), map(int, values), strict=True)),
        "tokens": int(lengths.whole.sum()),
        "longer_rows": longer,
        "longer_share": longer / len(lengths.whole),
        "cut_rows": int((lengths.cut > 0).sum()),
        "cut_tokens": int(lengths.cut.sum()),
        "windows": int(lengths.windows.sum()),
    }


def _write(path: Path, stream: StreamLengths) -> None:
    """Writes one array, (3, R), for each part of each split; its name holds index, split, part and limit."""
    arrays: dict[str, Any] = {
        f"{index}/{split}/{part}/{lengths.limit}": np.stack([lengths.whole, lengths.cut, lengths.windows]).astype(
            np.int32
        )
        for (index, split), by_part in stream.items()
        for part, lengths in by_part.items()
    }
    np.savez(path, **arrays)


def _read(path: Path) -> StreamLengths:
    """Returns what `_write` wrote."""
    stream: StreamLengths = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                index, split, part, limit = name.split("/")
                whole, cut, windows = arrays[name].astype(np.int64)
                stream.setdefault((int(index), split), {})[part] = Lengths(int(limit), whole, cut, windows)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read: {error}; remove {path.parent}, it is made anew") from error
    return stream
