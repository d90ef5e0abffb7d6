"""What a tokenizer does to every text: the special tokens that it puts around one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Returns the special tokens that the tokenizer puts before and behind a text."""
    text = known_text(tokenizer)
    plain = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    framed = list(tokenizer(text, verbose=False)["input_ids"])
    start = next((i for i in range(len(framed)) if framed[i : i + len(plain)] == plain), 0)
    return framed[:start], framed[start + len(plain) :]


def known_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a text that gives tokens: `a`, else the first of the vocabulary's own that does.

    A tokenizer without a token for unknown words fails on them, or leaves them out.
    """
    if has_tokens(tokenizer, "a"):
        return "a"
    special = {*tokenizer.all_special_tokens}
    vocabulary = tokenizer.get_vocab()
    by_id: Sequence[str] = sorted(vocabulary, key=vocabulary.__getitem__)
    texts = (tokenizer.convert_tokens_to_string([token]).strip() for token in by_id if token not in special)
    return next((text for text in texts if has_tokens(tokenizer, text)), "a")


def has_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Says whether a text gives tokens of its own."""
    try:
        return bool(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    except Exception:  # the Rust library raises nothing more special where a word is unknown
        return False
