"""The model's tokenizer, by itself: rows are counted and encoded before any weight is read."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import UnreachableModelError
from cl_mlm.models.tiny import TINY, letter_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Returns the model's tokenizer; the model itself is not loaded.

    Raises:
        UnreachableModelError: there is none, or the hub is out of reach.
    """
    from transformers import AutoTokenizer

    if config.name in TINY:
        return letter_tokenizer(config.name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            config.name, revision=config.revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise cannot_load(config.name, error) from error
    return tokenizer


def cannot_load(name: str, error: Exception) -> UnreachableModelError:
    """Returns the error that says that what transformers looks for under this name cannot be had."""
    return UnreachableModelError(f"model.name: cannot load {name!r}: {str(error).splitlines()[0]}")


_HASHES: dict[str, str] = {}  # of tokenizers as they are written: their hash without the last call's settings


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a digest of what a tokenizer does: vocabulary, rules, special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    written: str = backend.to_str()
    # Asked for every split of every stage; reading a large vocabulary takes longer than all else that finds the rows.
    known = hashlib.sha256(written.encode()).hexdigest()
    if known not in _HASHES:
        # Truncation and padding are what the last call left there, not what the tokenizer is.
        rules = {k: v for k, v in json.loads(written).items() if k not in ("truncation", "padding")}
        _HASHES[known] = hashlib.sha256(json.dumps(rules).encode()).hexdigest()
    return _HASHES[known]
