"""The model's tokenizer, by itself: rows are counted and encoded before any weight is read."""

from __future__ import annotations

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
