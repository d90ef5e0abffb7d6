"""Rows that are lists of words: their faults, and their tokens with the word that each is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cl_mlm.errors import ConfigError
from cl_mlm.objective import Rows

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase


def word_faults(rows: Rows, column: str, where: str) -> list[str]:
    """Returns a line where a row's value is no list, or an empty one, or holds what is no word; `[]` is good."""
    bad = [i for i, words in enumerate(rows[column]) if not _are_words(words)]
    if not bad:
        return []
    found = repr(rows[column][bad[0]])[:200]
    rule = f"{where}: {column} must be a list of at least one word, each a non-empty string"
    return [f"{rule}, got {found} in row {bad[0]} ({len(bad)} such rows)"]


def _are_words(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) and word.strip() for word in value)


def encode_words(
    rows: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> BatchEncoding:
    """Returns the tokens of rows of words, as they are in running text; `word_ids(i)` gives the word of each.

    Args:
        rows: words of every row.
        tokenizer: one of the Rust library's.
        max_length: tokens of a row at most, special ones included; None: all.

    Raises:
        ConfigError: the tokenizer does not tell of which word a token is.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"model.name: the stream's objective needs a fast tokenizer, which tells of which word a token is; "
            f"got {type(tokenizer).__name__}"
        )
    if _needs_space(tokenizer):
        rows = [[words[0], *(f" {word}" for word in words[1:])] for words in rows]
    found: BatchEncoding = tokenizer(
        [list(words) for words in rows],
        is_split_into_words=True,
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
        verbose=False,
    )
    return found


def _needs_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Says whether words must carry the space before them to become the tokens that they are in running text.

    So it is for byte-level vocabularies (GPT-2, RoBERTa, Llama 3): there a word's tokens begin with the space, which
    `add_prefix_space` would put before the first word, too. Others put it in themselves, or have none.
    """

    def tokens(words: list[str]) -> list[int]:
        return list(tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"])

    text = list(tokenizer("a b", add_special_tokens=False)["input_ids"])
    return tokens(["a", "b"]) != text == tokens(["a", " b"])
