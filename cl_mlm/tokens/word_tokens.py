"""Rows that are lists of words: checks them, and turns them into tokens that know their word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.errors import ConfigError
from cl_mlm.tokens.frames import known_text

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


def slow_faults(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns a line where the tokenizer is a slow one, which does not tell from where in a text a token is."""
    if tokenizer.is_fast:
        return []
    return [
        "model.name: the stream's objective needs a fast tokenizer, which tells where in a text a token is; "
        f"got {type(tokenizer).__name__}"
    ]


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
    if faults := slow_faults(tokenizer):
        raise ConfigError(faults)
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

    word = known_text(tokenizer)
    other = "b" if word == "a" else word
    running_text = list(tokenizer(f"{word} {other}", add_special_tokens=False)["input_ids"])
    return tokens([word, f" {other}"]) == running_text and tokens([word, other]) != running_text
