"""The cache folder: converted files and encoded rows, each entry named by a hash of the inputs it is computed from."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cl_mlm.disk import CACHE, writing


def cache_root() -> Path:
    """Returns `$CL_MLM_CACHE`, by default `~/.cache/cl_mlm`."""
    return Path(os.environ.get("CL_MLM_CACHE") or Path.home() / ".cache" / "cl_mlm")


def cache_folder(kind: str) -> Path:
    """Returns (and makes) the folder `kind` of the cache.

    Raises:
        StorageError: it cannot be made.
    """
    folder = cache_root() / kind
    with writing(folder, CACHE):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def building(final: Path) -> Iterator[Path]:
    """Yields an empty folder that is renamed to `final` when the block ends without error, and else removed.

    Two processes may build the same entry: the first to finish wins, the other's work is dropped.

    Raises:
        StorageError: the cache takes no more.
    """
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    with writing(final, CACHE):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            try:
                temporary.rename(final)
            except OSError:
                if not final.is_dir():  # else another process was first
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
