"""How a journal began: the digest of its first bytes, by which a checkpoint knows its journal again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO


def prefix_faults(path: Path, extents: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """Returns for each earlier `Journal.extent` in what the journal does not begin as it was then, or None.

    The journal is read once.
    """
    if not path.is_file():
        return ["is missing"] * len(extents)
    size, digest, done = path.stat().st_size, hashlib.sha256(), 0
    faults: list[str | None] = [None] * len(extents)
    with path.open("rb") as file:
        for place in sorted(range(len(extents)), key=lambda place: int(extents[place]["bytes"])):
            num_bytes = extents[place]["bytes"]
            if num_bytes > size:
                faults[place] = f"has {size} bytes only"
                continue
            _update(digest, file, num_bytes - done)
            done = num_bytes
            if digest.hexdigest() != extents[place]["sha256"]:
                faults[place] = "begins with other bytes"
    return faults


def digest_of_prefix(path: Path, num_bytes: int) -> hashlib._Hash:
    """Returns the running digest of a file's first bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        _update(digest, file, num_bytes)
    return digest


def _update(digest: hashlib._Hash, file: BinaryIO, num_bytes: int) -> None:
    while num_bytes > 0 and (piece := file.read(min(num_bytes, 1 << 20))):
        digest.update(piece)
        num_bytes -= len(piece)
