"""The cache folder: converted files and encoded rows, each entry named by a hash of the inputs it is computed from."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Returns (and makes) `$CL_MLM_CACHE/<kind>`, by default `~/.cache/cl_mlm/<kind>`."""
    root = Path(os.environ.get("CL_MLM_CACHE") or Path.home() / ".cache" / "cl_mlm")
    folder = root / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def building(final: Path) -> Iterator[Path]:
    """Yields an empty folder that is renamed to `final` when the block ends without error, and else removed.

    Two processes may build the same entry: the first to finish wins, the other's work is dropped.
    """
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():  # else another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
