"""How many tokens rows have, nothing cut, and what of them a model will not read.

Axes: R rows.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.data.cache import building, cache_folder
from cl_mlm.errors import DataError
from cl_mlm.objective import Lengths
from cl_mlm.stream import SPLITS, Stream

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.objective import Objective
    from cl_mlm.task import Tasks

    Numbers = npt.NDArray[np.int64]

CHUNK_ROWS = 2000
MOST_ROWS = 50_000  # of a split; of a larger one as many, evenly spread, stand for all
PERCENTILES = (50, 90, 99, 100)
BLOCK = "block"  # the part of a row that a packed split has
VERSION = 2


StreamLengths = dict[tuple[int, str], dict[str, Lengths]]


def stream_lengths(stream: Stream, tasks: Tasks, tokenizer: PreTrainedTokenizerBase, max_length: int) -> StreamLengths:
    """Returns the lengths of every split that has rows by (index, split) and part; of `train` the index is a stage's.

    Of `validation` and `test` it is a column's. What was counted before comes from the cache. A split whose objective
    packs is encoded whole, as a run does it and into the same cache: how many blocks it becomes is not known before.

    Raises:
        DataError: what the cache holds is damaged.
    """
    from cl_mlm.models.tokenizers import tokenizer_hash

    objectives = [[task.objective.name, task.objective.options(), list(task.labels.index)] for task in tasks]
    asked = [VERSION, stream.fingerprint, objectives, tasks.keys, tasks.column_keys, max_length, MOST_ROWS]
    key = json.dumps([*asked, tokenizer_hash(tokenizer)], sort_keys=True)
    folder = cache_folder("lengths") / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not folder.is_dir():
        found: StreamLengths = {}
        for split in SPLITS:
            for i, part in enumerate(stream.owners(split)):
                task, rows = tasks.by_key[tasks.keys_of(split)[i]], part.split(split)
                asking = (rows, task.objective, tokenizer, task.labels.index, max_length)
                packs = task.objective.packs and len(rows)
                found[i, split] = (
                    packed_lengths(*asking, f"{stream.fingerprint}/{i}/{split}") if packs else split_lengths(*asking)
                )
        with building(folder) as temporary:
            _write(temporary / "lengths.npz", found)
    return _read(folder / "lengths.npz")


def packed_lengths(
    dataset: Dataset,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    labels: Mapping[str, int],
    max_length: int,
    rows_fingerprint: str,
) -> dict[str, Lengths]:
    """Returns the tokens of every block that a split's rows are joined and cut into; see `encode_rows`."""
    from cl_mlm.tokens.encoding import encode_rows

    table = encode_rows(dataset, objective, tokenizer, labels, max_length, rows_fingerprint)
    return {BLOCK: Lengths.of(max_length, table.lengths.tolist())}


def split_lengths(
    dataset: Dataset,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    labels: Mapping[str, int],
    max_length: int,
) -> dict[str, Lengths]:
    """Returns the lengths of a split's rows by part; of more than `MOST_ROWS` rows so many, evenly spread."""
    import numpy as np

    rows = dataset.with_format(None)
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).round().astype(np.int64)
    parts: dict[str, list[Lengths]] = {}
    for start in range(0, len(chosen), CHUNK_ROWS):
        chunk = chosen[start : start + CHUNK_ROWS]
        is_all = len(chosen) == len(rows)
        table = rows[start : start + CHUNK_ROWS] if is_all else rows[chunk.tolist()]
        for part, lengths in objective.lengths(table, tokenizer, labels, max_length).items():
            parts.setdefault(part, []).append(lengths)
    return {part: joined(found) for part, found in parts.items()}


def joined(found: Sequence[Lengths]) -> Lengths:
    """Returns the rows of several lengths of one part as one."""
    import numpy as np

    whole, cut, windows = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("whole", "cut", "windows")
    )
    return Lengths(found[0].limit, whole, cut, windows)


def digest(lengths: Lengths) -> dict[str, Any]:
    """Returns plain figures of one part: percentiles of tokens (by nearest rank), how much is too long, and cut."""
    import numpy as np

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


def _write(path: Path, found: StreamLengths) -> None:
    import numpy as np

    arrays: dict[str, Any] = {
        f"{stage}/{split}/{part}/{own.limit}": np.stack([own.whole, own.cut, own.windows]).astype(np.int32)
        for (stage, split), parts in found.items()
        for part, own in parts.items()
    }
    np.savez(path, **arrays)


def _read(path: Path) -> StreamLengths:
    import numpy as np

    found: StreamLengths = {}
    try:
        with np.load(path, allow_pickle=False) as kept:
            for name in kept.files:
                stage, split, part, limit = name.split("/")
                whole, cut, windows = kept[name].astype(np.int64)
                found.setdefault((int(stage), split), {})[part] = Lengths(int(limit), whole, cut, windows)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read: {error}; remove {path.parent}, it is made anew") from error
    return found
