"""Loads a model's tokenizer by itself, so that rows are counted and encoded before any weight is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, TypeVar

from transformers import AutoTokenizer

from cl_mlm.config.undecodable import named_in_text
from cl_mlm.data.hub_access import HubUnreachableError, from_hub
from cl_mlm.errors import UnreachableModelError
from cl_mlm.models.tiny import TINY, letter_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from cl_mlm.config.schema import ModelConfig
    from cl_mlm.objective import Head

T = TypeVar("T")


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Returns the model's tokenizer; the model itself is not loaded.

    Raises:
        UnreachableModelError: there is none, or the hub is out of reach.
    """
    if config.name in TINY:
        return letter_tokenizer(config.name)

    def read(name: str) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, revision=config.revision, trust_remote_code=False
        )
        return tokenizer

    return from_folder_or_hub(config.name, read)


def from_folder_or_hub(name: str, read: Callable[[str], T]) -> T:
    """Returns `read(name)`, which reads a model, config or tokenizer: from the folder `name`, or from the hub.

    Raises:
        UnreachableModelError: it cannot be loaded, or the hub is out of reach.
    """
    try:
        if not (folder := Path(name)).is_dir():
            return from_hub(lambda: read(name))
        with named_in_text(folder) as named:
            return read(name if named == folder else str(named))
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from error


def cannot_load(name: str, error: Exception) -> UnreachableModelError:
    """Returns the error for a model, config or tokenizer of this name that transformers cannot load."""
    remedy = "; model.name=FOLDER reads a local copy" if isinstance(error, HubUnreachableError) else ""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return UnreachableModelError(f"model.name: cannot load {name!r}: {reason}{remedy}")


def folds_case(config: ModelConfig) -> bool:
    """Says whether the model's tokenizer gives capitals and small letters the same tokens; False where it has none."""
    try:
        tokenizer = load_tokenizer(config)
    except UnreachableModelError:  # told when the model is loaded
        return False
    # By what it does: a setting for it has another name and place in each kind of tokenizer.
    capitals, small = (tokenizer.encode(text, add_special_tokens=False) for text in (ascii_uppercase, ascii_lowercase))
    return list(capitals) == list(small)


# Special tokens that may stand for padding, the best first.
STAND_INS = ("eos_token", "unk_token", "sep_token", "bos_token", "cls_token", "mask_token")


def give_padding(tokenizer: PreTrainedTokenizerBase, kind: Head, *, is_encoder_decoder: bool) -> None:
    """Makes a tokenizer pad on the right, and gives one without padding token another special token for it; mutates it.

    The attention mask hides what pads, so any token does, and no row needs to be added to the embedding. It must be a
    special one, as an ordinary one would be left out of what the model writes. Where there is none, the tokenizer stays
    as it is; see `cl_mlm.tokens.text_rows.padding`.

    Args:
        tokenizer: the model's.
        kind: the form of the model.
        is_encoder_decoder: whether the model is one; those that classify read the row's end token, which cannot pad.
    """
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is not None:
        return
    end = tokenizer.eos_token if is_encoder_decoder and kind == "sequence" else None
    tokens = [getattr(tokenizer, name) for name in STAND_INS]
    tokenizer.pad_token = next((token for token in tokens if token is not None and token != end), None)


_DIGESTS: dict[str, str] = {}  # digest of a tokenizer's JSON -> digest without the settings of its last call


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a digest of a tokenizer's vocabulary, rules and special tokens; of a slow one, of its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    serialised: str = backend.to_str()
    # Needed for every split of every stage. Parsing a large vocabulary takes longer than the rest of a cache lookup, so
    # it is done once.
    key = hashlib.sha256(serialised.encode()).hexdigest()
    if key not in _DIGESTS:
        # The last call of the tokenizer left its truncation and padding there; they are no part of the tokenizer.
        rules = {k: v for k, v in json.loads(serialised).items() if k not in ("truncation", "padding")}
        _DIGESTS[key] = hashlib.sha256(json.dumps(rules).encode()).hexdigest()
    return _DIGESTS[key]
