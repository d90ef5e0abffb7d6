"""Tells whether the files of a model are those that they were, for its name or path says nothing of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from cl_mlm.data.file_digest import file_digest
from cl_mlm.models.file_safety import PICKLES
from cl_mlm.models.tiny import TINY

if TYPE_CHECKING:
    from cl_mlm.config.schema import ModelConfig

UNREAD = ("*.md", ".*", *PICKLES)  # beside weights, config and tokenizer; not loaded


def model_digest(config: ModelConfig) -> str | None:
    """Returns what names the files of a model; None: it is built here, or nothing of it lies on this machine.

    Of a local folder that is a hash over its files, each read once (`file_digest`); of a model of the hub, the commit
    that would be loaded.
    """
    if config.name in TINY:
        return None
    folder = Path(config.name).expanduser()
    if folder.is_dir():
        return _folder_digest(folder)
    return _commit(config)


def _folder_digest(folder: Path) -> str:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not any(map(path.match, UNREAD))]
    lines = [f"{path.name} {file_digest(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _commit(config: ModelConfig) -> str | None:
    """Returns the commit of a hub model in the cache of the hub; the network is not asked."""
    try:
        found = try_to_load_from_cache(config.name, "config.json", revision=config.revision)
    except HFValidationError:
        return None
    # <cache>/models--<owner>--<name>/snapshots/<commit>/config.json
    return Path(found).parent.name if isinstance(found, str) else None
