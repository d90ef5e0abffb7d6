"""Reads every row of a stream once: its faults, and hashes of its input and of its answer by which rows are compared.

Rows are read in Arrow batches, so that a memory-mapped split never becomes one Python list. Of a row 32 bytes are kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_mlm.arrow import arrow_batches
from cl_mlm.data.split_owners import split_owners
from cl_mlm.scores.segmentation import folded

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

    from cl_mlm.objective import Objective
    from cl_mlm.stream import Stream

    Keys = npt.NDArray[np.bytes_] | npt.NDArray[np.uint64]

MAX_PROBLEMS = 20


@dataclass(frozen=True)
class RowKeys:
    """Hashes of the rows of one split, N of them, or none where the split has faults.

    Attributes:
        exact: 16 bytes of `Objective.key`, after NFKC and with white space folded, (N,).
        caseless: 8 bytes of the same with letter case folded, too, (N,).
        answers: 8 bytes of what `Objective.references` gives, (N,); none where rows need not agree on it.
    """

    exact: npt.NDArray[np.bytes_]
    caseless: npt.NDArray[np.uint64]
    answers: npt.NDArray[np.int64]

    def without(self, marked: npt.NDArray[np.bool_]) -> RowKeys:
        """Returns the hashes of the rows that are not marked."""
        left = ~marked
        return RowKeys(self.exact[left], self.caseless[left], self.answers[left] if len(self.answers) else self.answers)


Scan = dict[str, RowKeys]  # by split, of one owner


def no_keys() -> RowKeys:
    """Returns the hashes of a split without rows."""
    import numpy as np

    return RowKeys(np.empty(0, dtype="S16"), np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))


def scan_stream(stream: Stream, problems: list[str]) -> tuple[list[Scan], int]:
    """Returns the hashes of every split of every owner, and how many rows are mended; adds faults to `problems`.

    A split with faulty rows has no hashes: they cannot be trusted, and the stream is refused anyway.
    """
    scans = []
    num_mended = 0
    faults: list[str] = []
    for owner in split_owners(stream):
        objective = owner.make_objective()
        scan: Scan = {}
        for split, rows in owner.splits.items():
            scan[split] = no_keys()
            if len(faults) < MAX_PROBLEMS:
                num_before = len(faults)
                keys, mended = _scan_split(rows, objective, f"{owner.where} {split}", faults)
                num_mended += mended
                if len(faults) == num_before:
                    scan[split] = keys
        scans.append(scan)
    if len(faults) >= MAX_PROBLEMS:
        faults = [*faults[:MAX_PROBLEMS], f"stopped reading after {MAX_PROBLEMS} faults of rows: there may be more"]
    problems += faults
    return scans, num_mended


def _scan_split(dataset: Dataset, objective: Objective, where: str, faults: list[str]) -> tuple[RowKeys, int]:
    """Returns the hashes of the rows, and how many rows are mended; adds faults of rows to `faults`."""
    import numpy as np

    num_mended = num_read = 0
    read = [no_keys()]
    for table in arrow_batches(dataset):
        if len(faults) >= MAX_PROBLEMS:
            break
        rows = table.to_pydict()
        # Objectives count rows from the start of what they are given, so a later batch says where it starts.
        start = f", counted from row {num_read}" if num_read else ""
        num_read += len(table)
        batch_faults = objective.validate(rows, f"{where}{start}")
        faults += batch_faults
        if not batch_faults:
            read.append(_hashed(objective.key(rows), objective.references(rows) if objective.contradicts else ()))
            num_mended += objective.mended(rows)
    columns = {name: np.concatenate([getattr(keys, name) for keys in read]) for name in RowKeys.__dataclass_fields__}
    return RowKeys(**columns), num_mended


def _hashed(keys: Sequence[str], answers: Sequence[Any]) -> RowKeys:
    import numpy as np

    exact, caseless = [], []
    for key in keys:
        normal = _normalised(key)
        caseless_key = normal.casefold()
        exact.append(_digest(normal))
        caseless.append(exact[-1] if caseless_key == normal else _digest(caseless_key))
    return RowKeys(
        np.array(exact, dtype="S16"),
        np.frombuffer(b"".join(digest[:8] for digest in caseless), dtype=np.uint64),
        # Of the text: -1 and -2 themselves have one hash.
        np.fromiter((hash(repr(answer)) for answer in answers), dtype=np.int64, count=len(answers)),
    )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _normalised(key: str) -> str:
    # The unit separator between the texts of a pair counts as white space for str.split, and must outlive it.
    return "\x1f".join(map(folded, key.split("\x1f")))
