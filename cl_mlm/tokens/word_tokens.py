"""Rows that are lists of words: checks them, and turns them into tokens that know their word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from cl_mlm.objective import RawRows


def word_faults(rows: RawRows, column: str, where: str) -> list[str]:
    """Returns one line where values of a column are not non-empty lists of non-empty strings; `[]` is good."""
    bad = [i for i, words in enumerate(rows[column]) if not _are_words(words)]
    if not bad:
        return []
    value = repr(rows[column][bad[0]])[:200]
    rule = f"{where}: {column} must be a list of at least one word, each a non-empty string"
    return [f"{rule}, got {value} in row {bad[0]} ({len(bad)} such rows)"]


def _are_words(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) and word.strip() for word in value)


def encode_words(
    rows: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> BatchEncoding:
    """Returns the tokens of rows of words as in running text; its `word_ids(i)` gives the words of the tokens of row i.

    Args:
        rows: the words of every row.
        tokenizer: a fast one (of the Rust library).
        max_length: tokens of a row at most, special ones included; None: no limit.

    Raises:
        ConfigError: the tokenizer is not a fast one, and so does not tell the word of a token.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"model.name: the stream's objective needs a fast tokenizer, which tells of which word a token is; "
            f"got {type(tokenizer).__name__}"
        )
    if needs_space(tokenizer):
        rows = [[words[0], *(f" {word}" for word in words[1:])] for words in rows]
    encoding: BatchEncoding = tokenizer(
        [list(words) for words in rows],
        is_split_into_words=True,
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
        verbose=False,
    )
    return encoding


def needs_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Says whether a word must carry the space before it to get the tokens that it has in running text.

    This holds for byte-level vocabularies (GPT-2, RoBERTa, Llama 3), where a word's tokens begin with the space.
    Their `add_prefix_space` would put a space before the first word too. Other tokenizers add the space themselves, or
    have none. Settings do not tell the two kinds apart, so the tokenizer is tried out.
    """

    def tokens(words: list[str]) -> list[int]:
        return list(tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"])

    running_text = list(tokenizer("a b", add_special_tokens=False)["input_ids"])
    return tokens(["a", " b"]) == running_text and tokens(["a", "b"]) != running_text
